"""A product on this machine, and browsers that look at it."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page

from gateway.auth.sessions import COOKIE
from gateway.embedded import add_user
from tests.gateway.test_jobs import held_queue
from tests.support.browser import Watched, chromium, watched
from tests.support.stack import Stack, stack

RECIPE_SECRET = "of the studio's tests"
NewPage = Callable[..., AbstractAsyncContextManager[Watched]]


@dataclass(frozen=True)
class Furnished:
    token: str
    """Of the login cookie."""
    done: str
    failed: str
    """Jobs."""


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def studio(new_database: Callable[[], str], new_folder: Callable[[], Path]) -> AsyncIterator[Stack]:
    """A gateway with a local user; a picture takes half a second, so that a test can see it being drawn."""
    admin_url = new_database()
    local_user = str(add_user(admin_url, "you@localhost"))
    gpu = {"GPU_MODELS": "instant", "INSTANT_SECONDS": "0.5", "RECIPE_SECRET": RECIPE_SECRET}
    async with stack(
        admin_url,
        new_folder(),
        gpu=gpu,
        default_model="instant",
        default_edit_model="instant",
        local_user_id=local_user,
        recipe_secret=RECIPE_SECRET,
    ) as running:
        yield running


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as running:
        yield running


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def furnished(studio: Stack) -> Furnished:
    """The local user's cookie, and one job of each ending."""
    async with httpx.AsyncClient(base_url=studio.url, timeout=60) as http:
        (await http.post("/v1/session", json={})).raise_for_status()
        done = await _draw(
            http, prompt="a lighthouse on black basalt at dusk", style="design/vintage", seed=7
        )
        async with held_queue(studio):
            failed = await _draw(http, prompt="a boat, much too late", expires_in_seconds=1)
        assert (done["status"], failed["status"]) == ("completed", "failed")
        token = http.cookies[COOKIE]
    return Furnished(token, done["id"], failed["id"])


@pytest.fixture
def new_page(browser: Browser, studio: Stack, furnished: Furnished) -> NewPage:
    """Opens a page of a browser that is signed in; it fails its test by itself, see ``Watched``."""

    def open_page(**context: Any) -> AbstractAsyncContextManager[Watched]:
        cookie = {"name": COOKIE, "value": furnished.token, "url": studio.url}
        return watched(browser, studio.url, cookies=[cookie], **context)

    return open_page


@pytest_asyncio.fixture(loop_scope="session")
async def seen(new_page: NewPage) -> AsyncIterator[Watched]:
    """A page that nobody has used yet, of a browser that is signed in."""
    async with new_page() as opened:
        yield opened


@pytest.fixture
def page(seen: Watched) -> Page:
    return seen.page


async def _draw(http: httpx.AsyncClient, **body: Any) -> dict[str, Any]:
    answer = await http.post("/v1/jobs", json=body, headers={"Prefer": "wait=30"})
    return dict(answer.raise_for_status().json())
