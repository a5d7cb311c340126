"""Whatever a client sends, the answer is one that the OpenAPI document announces, and never a 500.

Schemathesis makes the requests up from the document itself.  ``make fuzz`` runs it for longer, with other
requests each time; here they are few and always the same.  Gateway and GPU service have no way out of the
machine, as some of the requests name addresses to fetch.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gateway.embedded import add_key
from tests.support.loopback import confined
from tests.support.stack import free_port, gateway_process, gpu_process

CHECKS = (
    *("not_a_server_error", "status_code_conformance", "content_type_conformance"),
    *("response_schema_conformance", "response_headers_conformance"),
)
ENDLESS = ("stream_events", "stream_job_events", "stream_comic_events")
"""Streams that a client leaves, tested with the events."""
FUZZ_SECONDS = int(os.environ.get("FUZZ_SECONDS", "0"))
BRIEF = ("--phases=examples,fuzzing", "--max-examples=2", "--generation-deterministic")
LONG = ("--phases=examples,coverage,fuzzing,stateful", f"--max-time={FUZZ_SECONDS}")


@pytest.fixture(scope="module")
def gateway(new_database: Callable[[], str], new_folder: Callable[[], Path]) -> Iterator[tuple[str, str]]:
    """A gateway's address and the key of an administrator."""
    admin_url, folder, port, gpu_port = new_database(), new_folder(), free_port(), free_port()
    alone = confined(folder / "escapes")
    hook = f"http://127.0.0.1:{port}/api/generate/webhook"
    gpu = gpu_process(folder, gpu_port, hook, GPU_MODELS="instant", **alone)
    models = {"DEFAULT_MODEL": "instant", "DEFAULT_EDIT_MODEL": "instant"}
    process = gateway_process(folder, port, admin_url, f"http://127.0.0.1:{gpu_port}", **models, **alone)
    try:
        gpu.start()
        process.start()
        yield (
            f"http://127.0.0.1:{port}",
            add_key(admin_url, "a@example.com", ["generate", "read", "admin"])[1],
        )
    finally:
        process.stop()
        gpu.stop()


def fuzzed(url: str, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{url}/openapi.json", "--no-color"]
    extent = LONG if FUZZ_SECONDS else BRIEF
    limits = ["--request-timeout=70", "--warnings=off", f"--checks={','.join(CHECKS)}"]
    return subprocess.run(
        [*command, *extent, *limits, *options],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=600 + 2 * FUZZ_SECONDS,
        check=False,
    )


def test_a_callers_requests_are_answered_as_documented(gateway: tuple[str, str], tmp_path: Path) -> None:
    url, key = gateway
    left_out = [f"--exclude-operation-id={name}" for name in ENDLESS]
    run = fuzzed(url, tmp_path, f"--header=Authorization: Bearer {key}", *left_out)
    assert run.returncode == 0, run.stdout[-8000:] + run.stderr


def test_a_strangers_requests_are_answered_as_documented(gateway: tuple[str, str], tmp_path: Path) -> None:
    run = fuzzed(gateway[0], tmp_path, "--max-examples=1")
    assert run.returncode == 0, run.stdout[-8000:] + run.stderr
