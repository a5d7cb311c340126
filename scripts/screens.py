"""Screenshots of the studio for docs/screens: the whole product, the tiny model, fixed words and seeds.

python -m scripts.screens [page ...]
"""

import asyncio
import io
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.async_api import Browser, Page

from gateway.embedded import EmbeddedPostgres, add_user
from tests.support.browser import chromium, watched
from tests.support.stack import Stack, stack

OUT = Path(__file__).parents[1] / "docs" / "screens"
DESKTOP, PHONE = {"width": 1440, "height": 900}, {"width": 390, "height": 844}
QUALITY = 86
DRAWN = [
    ("a red round creature with a blue hat, front view, on a beach", "", 7),
    ("a yellow pointy creature at night", "design/anime", 3),
    ("a green square creature, side view, in a forest", "storybook/watercolor", 11),
    ("a pink pointy creature with a red hat, by day", "", 5),
    ("a blue round creature, front view, in a forest", "design/vintage", 19),
    ("an orange square creature with a green hat, at night", "design/flat-logo", 23),
    ("a purple round creature on a beach", "storybook/flat", 2),
    ("a red pointy creature, side view, by day", "", 31),
    ("a yellow round creature with a red hat, in a forest", "design/anime", 41),
    ("a green pointy creature on a beach", "", 13),
]
SHOTS: list[tuple[str, str, str, dict[str, int]]] = [
    (name, path, theme, size)
    for name, path in [
        ("generate", "/generate?job={job}"),
        ("jobs", "/jobs"),
        ("job", "/jobs/{job}"),
        ("costs", "/costs"),
        ("settings", "/settings"),
    ]
    for theme, size in [("dark", DESKTOP), ("light", DESKTOP), ("dark", PHONE)]
    if name in ("generate", "jobs", "costs") or (theme == "dark" and size is DESKTOP)
]


async def main(only: list[str]) -> None:
    folder = Path(tempfile.mkdtemp(prefix="tenkaigen-screens-"))
    with EmbeddedPostgres(folder) as postgres:
        local_user = str(add_user(postgres.admin_url, "you@localhost"))
        async with (
            stack(postgres.admin_url, folder, local_user_id=local_user) as running,
            chromium() as browser,
        ):
            job = await furnish(browser, running)
            for name, path, theme, size in SHOTS:
                if not only or name in only:
                    await shoot(
                        browser, running, f"{name}-{theme}-{size['width']}", path.format(job=job), theme, size
                    )


async def furnish(browser: Browser, running: Stack) -> str:
    """Draw everything, one of it canceled and one failed; the id of the job to show."""
    async with watched(browser, running.url) as seen:
        await seen.page.goto("/generate")
        await seen.page.wait_for_selector("#desk")
        jobs = [
            await _draw(seen.page, {"prompt": words, "style": style or None, "seed": seed})
            for words, style, seed in DRAWN
        ]
        return str(jobs[0]["id"])


async def shoot(browser: Browser, running: Stack, name: str, path: str, theme: Any, size: Any) -> None:
    async with watched(browser, running.url, color_scheme=theme, viewport=size) as seen:
        await seen.page.goto("/generate")
        await seen.page.wait_for_selector("#desk", state="attached")
        await seen.page.goto(path)
        await seen.page.wait_for_timeout(700)
        _keep(name, await seen.page.screenshot())


async def _draw(page: Page, body: dict[str, Any]) -> dict[str, Any]:
    script = """async (body) => (await fetch("/v1/jobs", {method: "POST", body: JSON.stringify(body),
      headers: {"Content-Type": "application/json", Prefer: "wait=60"}})).json()"""
    return dict(await page.evaluate(script, body))


def _keep(name: str, png: bytes) -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    with Image.open(io.BytesIO(png)) as image:
        image.save(OUT / f"{name}.webp", "WEBP", quality=QUALITY, method=6)
    print(OUT / f"{name}.webp")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
