"""What runs in the background ends when it is told to, whatever it waits for at that moment."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from gateway.config import Settings
from gateway.db import Database
from gateway.loras.fetching import Fetcher
from gateway.loras.places import Places
from gateway.loras.repository import LoraRows
from gateway.outside import Outside
from gateway.storage import LORAS
from gateway.storage.local import LocalBucket
from gateway.tasks import end
from gateway.webhooks.sender import Sender
from tests.support.stack import gateway_settings

Background = Callable[[Settings, Database], AbstractAsyncContextManager[Any]]


def webhooks(settings: Settings, db: Database) -> Sender:
    async def describe(*_: Any) -> None: ...

    return Sender(db, Outside(), describe)


def loras(settings: Settings, db: Database) -> Fetcher:
    bucket = LocalBucket(settings.data, name=LORAS, signing_key="a", base_url="http://127.0.0.1")
    return Fetcher(LoraRows(db), {LORAS: bucket}, Outside(), Places(settings), settings)


@pytest.mark.parametrize("turns", range(5))
@pytest.mark.parametrize("background", [webhooks, loras])
async def test_it_ends_at_the_moment_at_which_it_is_given_a_connection(
    admin_url: str, tmp_path: Path, background: Background, turns: int
) -> None:
    """The pool hands one over in a few turns of the loop; told to stop at any of them, it stops."""
    settings = gateway_settings(admin_url, tmp_path, 1, "http://127.0.0.1:1", database_pool_size=1)
    async with Database(settings) as db, asyncio.timeout(20):
        async with db.as_service():
            running = background(settings, db)
            await running.__aenter__()
            while not db.connections()["service"]["waiting"]:
                await asyncio.sleep(0.01)
        for _ in range(turns):
            await asyncio.sleep(0)
        await running.__aexit__(None, None, None)
        assert await db.one("select 1 as n", {}) == {"n": 1}, "the connection went back to the pool"


async def test_a_task_that_loses_a_cancellation_is_cancelled_again() -> None:
    cancellations = 0

    async def stubborn() -> None:
        nonlocal cancellations
        while cancellations < 3:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                cancellations += 1

    async def broken() -> None:
        raise ValueError

    tasks = [asyncio.create_task(stubborn()), asyncio.create_task(broken())]
    await asyncio.sleep(0)
    async with asyncio.timeout(10):
        await end(tasks)
    assert cancellations == 3
    assert all(task.done() for task in tasks)
