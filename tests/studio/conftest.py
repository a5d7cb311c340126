"""A product on this machine, and browsers that look at it."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page

from gateway.embedded import add_user
from tests.support.browser import Watched, chromium, watched
from tests.support.stack import Stack, stack

NewPage = Callable[..., AbstractAsyncContextManager[Watched]]


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def studio(new_database: Callable[[], str], new_folder: Callable[[], Path]) -> AsyncIterator[Stack]:
    """A gateway with a local user; a picture takes half a second, so that a test can see it being drawn."""
    admin_url = new_database()
    local_user = str(add_user(admin_url, "you@localhost"))
    gpu = {"GPU_MODELS": "instant", "INSTANT_SECONDS": "0.5"}
    async with stack(
        admin_url, new_folder(), gpu=gpu, default_model="instant", local_user_id=local_user
    ) as running:
        yield running


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as running:
        yield running


@pytest.fixture
def new_page(browser: Browser, studio: Stack) -> NewPage:
    """Opens a page that fails its test by itself; see ``Watched``."""

    def open_page(**context: Any) -> AbstractAsyncContextManager[Watched]:
        return watched(browser, studio.url, **context)

    return open_page


@pytest_asyncio.fixture(loop_scope="session")
async def seen(new_page: NewPage) -> AsyncIterator[Watched]:
    """A page of a browser that nobody has used yet."""
    async with new_page() as opened:
        yield opened


@pytest.fixture
def page(seen: Watched) -> Page:
    return seen.page
