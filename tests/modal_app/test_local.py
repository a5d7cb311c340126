"""``python -m modal_app.local`` as a process: refuses to start wrongly, dies and comes back."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image

from modal_app.contract import Call
from tests.judge import judge
from tests.modal_app.conftest import TOKEN, image_request, new_key
from tests.support.stack import free_port

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "modal_app.local"]


def environment(folder: Path, **changes: str) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "GPU_TOKEN": TOKEN,
        "GPU_MODELS": "instant",
        "GPU_DATA": str(folder),
        **changes,
    }


class Service:
    """The process and a client of it."""

    def __init__(self, folder: Path, **changes: str) -> None:
        port = free_port()
        self.process = subprocess.Popen(
            COMMAND,
            env=environment(folder, GPU_PORT=str(port), **changes),
            cwd=folder,
            stderr=subprocess.PIPE,
        )
        self.http = httpx.Client(
            base_url=f"http://127.0.0.1:{port}", headers={"Authorization": f"Bearer {TOKEN}"}, timeout=60
        )

    def until(self, reached: Callable[[], bool], seconds: float = 120) -> None:
        end = time.monotonic() + seconds
        while True:
            with contextlib.suppress(httpx.TransportError):
                if reached():
                    return
            assert self.process.poll() is None, self.process.stderr and self.process.stderr.read().decode()
            assert time.monotonic() < end
            time.sleep(0.02)

    def ready(self) -> "Service":
        self.until(lambda: self.http.get("/healthz").status_code == 200)
        return self

    def submit(self, key: str, model: str = "instant") -> str:
        request = image_request(model=model).model_dump(exclude_none=True)
        answer = self.http.post("/calls", json={"key": key, "task": "image", "request": request})
        assert answer.status_code == 202, answer.text
        return str(answer.json()["call_id"])

    def call(self, call_id: str) -> Call:
        return Call.model_validate_json(self.http.get(f"/calls/{call_id}").content)

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()
        self.http.close()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Service]]:
    started = []

    def starter(**changes: str) -> Service:
        started.append(Service(tmp_path, **changes))
        return started[-1].ready()

    yield starter
    for one in started:
        one.close()


def output_of(command: list[str], folder: Path, settings: dict[str, str]) -> tuple[int, str]:
    """The exit status of a command that ends by itself, and what it wrote to standard error."""
    ended = subprocess.run(command, env=settings, cwd=folder, capture_output=True, timeout=120, check=False)
    return ended.returncode, ended.stderr.decode()


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("GPU_TOKEN", ""),
        ("GPU_PORT", "many"),
        ("GPU_MODELS", "no-such-model"),
        ("GPU_PRELOAD", "no-such-model"),
        ("GPU_QUEUE_LIMIT", "0"),
        ("GPU_NAME", "abacus"),
        ("GPU_DATA", "/proc/nowhere"),
        ("TENKAIGEN_WEBHOOK_URL", "file:///etc/passwd"),
    ],
)
def test_a_wrong_setting_is_named_and_nothing_starts(tmp_path: Path, setting: str, value: str) -> None:
    status, errors = output_of(COMMAND, tmp_path, environment(tmp_path, **{setting: value}))
    assert status == 1
    assert setting.lower() in errors.lower()
    assert "Traceback" not in errors


def test_a_webhook_without_a_secret_is_refused(tmp_path: Path) -> None:
    settings = environment(tmp_path, TENKAIGEN_WEBHOOK_URL="http://127.0.0.1/")
    status, errors = output_of(COMMAND, tmp_path, settings)
    assert status == 1 and "TENKAIGEN_WEBHOOK_SECRET" in errors


def test_the_front_door_imports_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys, modal_app.service, modal_app.contract, modal_app.catalog, modal_app.local;"
        "heavy = {'torch', 'diffusers', 'transformers', 'modal', 'gateway'} & sys.modules.keys();"
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    assert output_of([sys.executable, "-c", code], tmp_path, environment(tmp_path)) == (0, "")


def test_after_a_kill_ended_calls_are_there_and_the_interrupted_key_runs_again(
    start: Callable[..., Service],
) -> None:
    ended_key, cut_key = new_key(), new_key()
    first = start()
    ended = first.submit(ended_key)
    first.until(lambda: first.call(ended).status == "succeeded")
    picture = first.http.get(f"/calls/{ended}/images/0").content
    first.process.kill()
    first.process.wait()

    second = start(INSTANT_SECONDS="30")
    cut = second.submit(cut_key)
    second.until(lambda: second.call(cut).stage == "generating")
    second.process.kill()
    second.process.wait()

    third = start()
    assert third.http.get(f"/calls/{cut}").status_code == 404
    assert third.submit(cut_key) == cut
    third.until(lambda: third.call(cut).status == "succeeded")
    assert third.submit(ended_key) == ended
    assert third.http.get(f"/calls/{ended}/images/0").content == picture


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_ends_the_process_at_once_in_the_middle_of_a_picture(
    start: Callable[..., Service], stop: signal.Signals
) -> None:
    service = start(INSTANT_SECONDS="300")
    call_id = service.submit(new_key())
    service.until(lambda: service.call(call_id).stage == "generating")
    service.process.send_signal(stop)
    service.process.wait(20)


def test_a_stop_while_a_model_loads_is_clean(start: Callable[..., Service]) -> None:
    service = start(GPU_MODELS="tiny-qwen", GPU_PRELOAD="tiny-qwen")
    service.process.terminate()
    _, errors = service.process.communicate(timeout=60)
    assert service.process.returncode in (0, -signal.SIGTERM)
    assert b"Traceback" not in errors


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal is Linux's")
def test_it_ends_with_its_parent_when_asked_to(tmp_path: Path) -> None:
    port = free_port()
    code = (
        "import subprocess, sys, time;"
        f"child = subprocess.Popen({COMMAND!r}); print(child.pid, flush=True); time.sleep(300)"
    )
    settings = environment(tmp_path, GPU_PORT=str(port), EXIT_WITH_PARENT="1")
    parent = subprocess.Popen(
        [sys.executable, "-c", code],
        env=settings,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert parent.stdout
    child = int(parent.stdout.readline())
    end = time.monotonic() + 120
    while not _answers(port):
        assert time.monotonic() < end
        time.sleep(0.05)
    parent.kill()
    parent.communicate()
    end = time.monotonic() + 30
    while _answers(port):
        assert time.monotonic() < end, f"{child} lives on"
        time.sleep(0.05)


def _answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/healthz", timeout=2).status_code == 200
    except httpx.TransportError:
        return False


def test_generate_draws_one_picture_without_a_server(tmp_path: Path) -> None:
    out = tmp_path / "test_output.png"
    command = [sys.executable, "-m", "modal_app.local", "generate"]
    missing = subprocess.run(command, capture_output=True, text=True, check=False)
    assert missing.returncode == 2
    assert "--prompt" in missing.stderr
    words = "a red round creature, front view, on a beach"
    drawn = subprocess.run(
        [*command, "--prompt", words, "--seed", "3", "--out", str(out)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert drawn.returncode == 0, drawn.stderr
    assert judge(Image.open(out).convert("RGB"))["color"] == "red"
