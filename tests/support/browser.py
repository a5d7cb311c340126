"""A real Chromium, and pages that hold a test to account: no errors, no strangers, no failed answers."""

import contextlib
import shutil
import warnings
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.async_api import Browser, Page, Playwright, Response, async_playwright, expect

ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
NAMES = ("chromium", "chromium-browser", "google-chrome")
PATIENCE_MS = 30_000
"""For what a page shows or does in a second or two on a machine that does nothing else."""

expect.set_options(timeout=PATIENCE_MS)


@contextlib.asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """The distribution's Chromium, else Playwright's own; the test is skipped where there is neither."""
    async with async_playwright() as playwright:
        path = executable(playwright)
        if path is None:
            warnings.warn("NO CHROMIUM: the studio's browser tests are skipped", stacklevel=1)
            pytest.skip("no Chromium on PATH, and Playwright has none of its own")
        browser = await playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        await browser.close()


def executable(playwright: Playwright) -> str | None:
    found = next(filter(None, map(shutil.which, NAMES)), None)
    own = playwright.chromium.executable_path
    return found or (own if Path(own).exists() else None)


class Watched:
    """What went wrong on a page, for the end of the test."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.faults: list[str] = []
        self.allowed: set[int] = set()
        """Statuses that this test provokes."""
        self.interrupted = False
        """This test takes the gateway away: requests may break off."""
        self.requests: list[str] = []
        self._host = urlsplit(url).netloc
        page.on("console", lambda message: self._said(message.type, message.text))
        page.on("pageerror", lambda error: self.faults.append(f"page error: {error}"))
        page.on("request", lambda request: self._asked(request.url))
        page.on("response", self._answered)

    def _said(self, kind: str, text: str) -> None:
        provoked = any(f"status of {status} " in text for status in self.allowed)
        provoked = provoked or (self.interrupted and "net::ERR_" in text)
        if kind in ("error", "warning") and not provoked:
            self.faults.append(f"console {kind}: {text}")

    def _asked(self, url: str) -> None:
        parts = urlsplit(url)
        self.requests.append(url)
        if parts.scheme.startswith("http") and parts.netloc != self._host:
            self.faults.append(f"a request to {url}")

    def _answered(self, response: Response) -> None:
        if response.status >= 400 and response.status not in self.allowed:
            self.faults.append(f"{response.status} from {response.url}")


@contextlib.asynccontextmanager
async def watched(
    browser: Browser, url: str, cookies: Sequence[Any] = (), **context: Any
) -> AsyncIterator[Watched]:
    """A page of its own; whatever went wrong on it fails the test."""
    options = {
        "viewport": {"width": 1280, "height": 860},
        "color_scheme": "dark",
        "reduced_motion": "reduce",
        **context,
    }
    opened = await browser.new_context(base_url=url, **options)
    opened.set_default_timeout(PATIENCE_MS)
    await opened.add_cookies(list(cookies))
    seen = Watched(await opened.new_page(), url)
    try:
        yield seen
        assert not seen.faults, "\n".join(seen.faults)
    finally:
        await opened.close()
