"""Running products for OpenAI's clients."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest_asyncio

from tests.support.stack import Stack, stack

INSTANT = {"GPU_MODELS": "instant", "GPU_NAME": "H100", "INSTANT_SECONDS": "0.002"}
MODELS = {"default_model": "instant", "default_edit_model": "tiny-qwen-edit"}


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def product(new_database: Callable[[], str], new_folder: Callable[[], Path]) -> AsyncIterator[Stack]:
    """Draws at once; edits with the bundled model."""
    gpu = {**INSTANT, "GPU_MODELS": "instant,tiny-qwen-edit"}
    async with stack(new_database(), new_folder(), gpu=gpu, **MODELS) as running:
        yield running


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def slow(new_database: Callable[[], str], new_folder: Callable[[], Path]) -> AsyncIterator[Stack]:
    """Takes more than two seconds for a picture."""
    gpu = {**INSTANT, "INSTANT_SECONDS": "2.4"}
    settings = {**MODELS, "webhook_patience_seconds": 0.3}
    async with stack(new_database(), new_folder(), gpu=gpu, **settings) as running:
        yield running
