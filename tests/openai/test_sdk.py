"""Every call of ``calls.py`` with the oldest client that we support and with the newest, unmodified."""

import asyncio
import json
import os
import re
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.openai.calls import CALLS
from tests.support.stack import ROOT, Stack

OLDEST = Path(os.environ.get("OPENAI_OLDEST", f"{sys.prefix}/openai-oldest"))
"""Where ``make install`` puts what ``oldest.txt`` pins; or a folder with any other version."""
FOLDERS = {"oldest": [OLDEST], "newest": []}


@pytest.fixture(scope="session")
def results() -> Callable[..., Any]:
    """Runs all calls of a version, once."""
    running: dict[str, asyncio.Task[Any]] = {}

    async def of(version: str, product: Stack) -> dict[str, Any]:
        if version not in running:
            running[version] = asyncio.create_task(run(FOLDERS[version], product))
        return dict(await running[version])

    return of


async def run(folders: list[Path], product: Stack) -> Any:
    reader, spent = product.new_user(("read",)), product.new_user()
    await spent.http.put("/v1/budget", json={"period": "day", "max_images_per_day": 0})
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, [*folders, ROOT])),
        "BASE_URL": f"{product.url}/v1",
        "API_KEY": product.user.key,
        "READER_KEY": reader.key,
        "SPENT_KEY": spent.key,
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.openai.calls"),
        cwd=ROOT,
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()[-3000:]
    return json.loads(out)


@cache
def pinned_oldest() -> str:
    found = re.search(r"^openai==(.+)$", (ROOT / "tests/openai/oldest.txt").read_text(), re.MULTILINE)
    assert found
    return found.group(1)


@pytest.mark.parametrize("client", ["sync", "async"])
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("version", FOLDERS)
async def test_the_unmodified_client(
    results: Any, product: Stack, version: str, call: str, client: str
) -> None:
    if version == "oldest" and not OLDEST.is_dir():
        pytest.skip("the oldest client is not here; `make install` puts it there")
    found = await results(version, product)
    if version == "oldest" and "OPENAI_OLDEST" not in os.environ:
        assert found["version"] == pinned_oldest()
    failure = found["results"][f"{client} {call}"]
    if failure and failure.startswith("skipped"):
        assert version == "oldest", "the newest client has every call"
        pytest.skip(failure)
    assert failure is None, failure
