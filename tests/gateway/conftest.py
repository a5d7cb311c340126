"""One running product for the tests that only talk to it."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest_asyncio

from tests.support.stack import Stack, stack

INSTANT = {"GPU_MODELS": "instant"}


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def product(new_database: Callable[[], str], new_folder: Callable[[], Path]) -> AsyncIterator[Stack]:
    """Gateway and GPU service with the instant model."""
    async with stack(new_database(), new_folder(), gpu=INSTANT, default_model="instant") as running:
        yield running
