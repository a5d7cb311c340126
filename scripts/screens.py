"""Screenshots of the studio for docs/screens: the whole product, the tiny model, fixed words and seeds.

python -m scripts.screens [page ...]
"""

import asyncio
import io
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.async_api import Browser, Page

from gateway.embedded import EmbeddedPostgres, add_user
from tests.support.browser import chromium, watched
from tests.support.project import project_of
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
CHARACTERS: list[tuple[str, str, dict[str, Any]]] = [
    ("Mara Venn", "a red round creature with a blue hat", {"mood": "patient", "keeps": "the third lamp"}),
    ("Ilse", "a yellow pointy creature", {}),
    ("Tove", "a green square creature with a red hat", {}),
]
PANELS: list[tuple[str, list[int]]] = [
    ("Mara waits on a beach", [0]),
    ("Ilse comes by day, from a forest", [1]),
    ("Tove looks on, at night", [2]),
    ("Mara and Ilse on a beach at night", [0, 1]),
    ("Ilse and Tove in a forest", [1, 2]),
    ("Mara by day, in a forest", [0]),
    ("Tove and Mara on a beach, by day", [2, 0]),
]
SHOTS: list[tuple[str, str, str, dict[str, int]]] = [
    (name, path, theme, size)
    for name, path in [
        ("generate", "/generate?job={job}"),
        ("characters", "/characters"),
        ("character", "/characters/{character}"),
        ("images", "/characters/{character}/images"),
        ("comics", "/comics"),
        ("comic", "/comics/{comic}"),
        ("jobs", "/jobs"),
        ("job", "/jobs/{job}"),
        ("costs", "/costs"),
        ("settings", "/settings"),
    ]
    for theme, size in [("dark", DESKTOP), ("light", DESKTOP), ("dark", PHONE)]
    if name in ("generate", "images", "comic", "jobs", "costs") or (theme == "dark" and size is DESKTOP)
]


Act = Callable[[Page], Awaitable[None]]


async def _repaint(page: Page) -> None:
    await page.get_by_role("button", name="Repaint a part").click()
    canvas = page.get_by_role("application")
    await page.wait_for_timeout(800)
    box = await canvas.bounding_box()
    assert box
    for x, y in ((0.39, 0.25), (0.37, 0.33)):
        await page.mouse.move(box["x"] + box["width"] * x, box["y"] + box["height"] * y)
        await page.mouse.down()
        await page.mouse.move(box["x"] + box["width"] * 0.62, box["y"] + box["height"] * y, steps=12)
        await page.mouse.up()


async def _compare(page: Page) -> None:
    await page.locator("#shots a").first.click()
    await page.keyboard.press("b")
    await page.wait_for_timeout(400)


async def _on_a_product(page: Page) -> None:
    await page.get_by_role("button", name="On a product").click()
    await page.get_by_label("Size", exact=True).fill("95")
    await page.get_by_label("Cart reference").fill("cart-4711")


async def _run(page: Page) -> None:
    """Many pictures, so that there is time to look at the first."""
    await page.locator("#prompt").fill("a red round creature with a blue hat, side view, in a forest")
    await page.get_by_text("More", exact=True).click()
    await page.get_by_label("Pictures", exact=True).fill("10")
    await page.get_by_label("Steps", exact=True).fill("60")
    await page.get_by_text("More", exact=True).click()
    await page.get_by_role("button", name="Generate").click()
    await page.locator(".has-preview").wait_for(timeout=60_000)
    await page.evaluate("scrollTo(0, 0)")
    await page.wait_for_timeout(1200)


async def _code(page: Page) -> None:
    await page.get_by_role("button", name="As API call").click()


async def _help(page: Page) -> None:
    await page.keyboard.press("?")


async def _turned(page: Page) -> None:
    await page.get_by_role("heading", name="All the way round").scroll_into_view_if_needed()
    await page.get_by_role("slider", name="Angle").focus()
    for _ in range(3):
        await page.keyboard.press("ArrowRight")
    await page.evaluate("document.getElementById('around-title').scrollIntoView()")


async def _described(page: Page) -> None:
    await page.get_by_label("Name", exact=True).fill("Runa")
    await page.get_by_text("A description", exact=True).click()
    await page.get_by_role("textbox", name="Description").fill(
        "a blue pointy creature with a green hat, always a little late"
    )
    await page.get_by_label("Never to change").fill("green hat\nblue body")
    await page.evaluate("document.activeElement.blur()")
    await page.evaluate("scrollTo(0, 0)")


async def _to_drift(page: Page) -> None:
    await page.evaluate("document.getElementById('drift').scrollIntoView({block: 'end'})")


async def _debugged(page: Page) -> None:
    await page.locator(".badge").first.click()


async def _adding(page: Page) -> None:
    await page.get_by_role("button", name="Add Panel").click()
    await page.get_by_label("What happens").fill("Ilse hands Mara the lamp, close-up")
    for name in ("Ilse", "Mara Venn"):
        await page.get_by_role("checkbox", name=name).check(force=True)


async def _inviting(page: Page) -> None:
    await page.get_by_role("button", name="Members").click()


WIDTHS: list[tuple[str, dict[str, int]]] = [("dark", DESKTOP), ("dark", PHONE)]
STATES: dict[str, tuple[str, Act | None, list[tuple[str, dict[str, int]]]]] = {
    "mask": ("/generate?job={job}", _repaint, [("dark", DESKTOP), ("dark", PHONE)]),
    "compare": ("/generate?job={varied}", _compare, [("dark", DESKTOP)]),
    "mockup": ("/generate?job={job}", _on_a_product, [("light", DESKTOP)]),
    "api-call": ("/generate?job={job}", _code, [("light", DESKTOP)]),
    "shortcuts": ("/jobs", _help, [("dark", DESKTOP)]),
    "character-turned": ("/characters/{character}", _turned, WIDTHS),
    "character-new": ("/characters/new", _described, WIDTHS),
    "characters-nobody": ("/characters?comic={comic}", None, [("dark", DESKTOP)]),
    "comic-drift": ("/comics/{comic}", _to_drift, [("dark", DESKTOP), ("light", DESKTOP)]),
    "comic-debug": ("/comics/{comic}", _debugged, [("dark", DESKTOP)]),
    "comic-add": ("/comics/{comic}", _adding, WIDTHS),
    "comic-members": ("/comics/{comic}", _inviting, [("dark", DESKTOP)]),
    "comic-empty": ("/comics/{comic}?chapter={empty}", None, [("dark", DESKTOP)]),
    "running": ("/generate", _run, [("dark", DESKTOP)]),
}
"""Path, what is done there, and how it is looked at; ``running`` is last, as it keeps the GPU busy."""
OF_A_CAST = ("character", "images", "comic")
"""What names of pages begin with that show one."""


async def main(only: list[str]) -> None:
    folder = Path(tempfile.mkdtemp(prefix="tenkaigen-screens-"))
    with EmbeddedPostgres(folder) as postgres:
        local_user = str(add_user(postgres.admin_url, "you@localhost"))
        async with (
            stack(postgres.admin_url, folder, local_user_id=local_user) as running,
            chromium() as browser,
        ):
            if not only or "empty" in only:
                await shoot(browser, running, "empty-dark-1440", "/generate", "dark", DESKTOP)
            shown = await furnish(
                browser, running, not only or any(kind.startswith(OF_A_CAST) for kind in only)
            )
            for kind, path, theme, size in SHOTS:
                if not only or kind in only:
                    name = f"{kind}-{theme}-{size['width']}"
                    await shoot(browser, running, name, path.format(**shown), theme, size)
            for kind, (path, act, looks) in STATES.items():
                for theme, size in looks if not only or kind in only else []:
                    name = f"{kind}-{theme}-{size['width']}"
                    await shoot(browser, running, name, path.format(**shown), theme, size, act)
        if not only or "sign-in" in only:
            await shoot_gate(postgres.admin_url, folder / "project")


async def shoot_gate(admin_url: str, folder: Path) -> None:
    """The sign-in of a gateway beside a Supabase project."""
    async with project_of(admin_url, folder) as project, chromium() as browser:
        for theme, size in (("dark", DESKTOP), ("light", PHONE)):
            async with watched(browser, project.url, color_scheme=theme, viewport=size) as seen:
                await seen.page.goto("/generate")
                await seen.page.wait_for_timeout(400)
                _keep(f"sign-in-{theme}-{size['width']}", await seen.page.screenshot())


async def furnish(browser: Browser, running: Stack, with_a_cast: bool) -> dict[str, str]:
    """Draw everything; the ids of what is to be shown."""
    async with watched(browser, running.url) as seen:
        await seen.page.goto("/generate")
        await seen.page.wait_for_selector("#desk")
        jobs = [
            await _draw(seen.page, {"prompt": words, "style": style or None, "seed": seed})
            for words, style, seed in DRAWN
        ]
        repaint = {
            **{"prompt": "a red round creature with a green hat, front view, on a beach", "seed": 7},
            "references": [{"image_id": jobs[0]["images"][0]["id"], "role": "init"}],
            "strength": 0.9,
        }
        varied = await _draw(seen.page, repaint)
        shown = {"job": str(jobs[0]["id"]), "varied": str(varied["id"])}
        if not with_a_cast:
            return dict.fromkeys(("character", "comic", "empty"), "") | shown
        made = [await _character(seen.page, *each) for each in CHARACTERS]
        path = f"/v1/characters/{made[0]}"
        await _ask(seen.page, f"{path}/generate-360-set", {})
        await _ask(seen.page, f"{path}/generate-scene-image", {"sceneContext": "on a beach, by day"})
        return {**shown, "character": made[0], **await _comic(seen.page, running, made)}


async def shoot(
    browser: Browser,
    running: Stack,
    name: str,
    path: str,
    theme: Any,
    size: Any,
    act: Act | None = None,
) -> None:
    async with watched(browser, running.url, color_scheme=theme, viewport=size) as seen:
        await seen.page.goto("/generate")
        await seen.page.wait_for_selector("#desk", state="attached")
        await seen.page.goto(path)
        await seen.page.wait_for_timeout(700)
        if act:
            await act(seen.page)
            await seen.page.wait_for_timeout(500)
        _keep(name, await seen.page.screenshot())


async def _draw(page: Page, body: dict[str, Any]) -> dict[str, Any]:
    return await _ask(page, "/v1/jobs", body)


async def _character(page: Page, name: str, description: str, traits: dict[str, Any]) -> str:
    """Its id, once it is ready."""
    body = {"name": name, "source": "description", "description": description, "attributes": traits}
    made = await _ask(page, "/v1/characters", body)
    while made["status"] not in ("ready", "failed"):
        await page.wait_for_timeout(500)
        made = await (await page.request.get(f"/v1/characters/{made['id']}")).json()
    return str(made["id"])


async def _comic(page: Page, running: Stack, characters: list[str]) -> dict[str, str]:
    """The ids of a comic and of its empty chapter."""
    for name in ("The Third Lamp", "Signal Fire"):
        await _ask(page, "/v1/comics", {"name": name})
    comic = await _ask(page, "/v1/comics", {"name": "Black Reef"})
    empty = await _ask(page, f"/v1/comics/{comic['id']}/chapters", {"name": "Low tide"})
    for n, (words, cast) in enumerate(PANELS):
        ids = [characters[each] for each in cast]
        body = {"prompt": words, "character_ids": ids, "max_attempts": 2, "seed": 100 + n}
        await _ask(page, f"/v1/comics/chapters/{comic['chapters'][0]['id']}/panels", body)
    friend = str(add_user(running.admin_url, "friend@example.com"))
    await _ask(page, f"/v1/comics/{comic['id']}/members", {"user_id": friend, "role": "editor"})
    return {"comic": str(comic["id"]), "empty": str(empty["id"])}


async def _ask(page: Page, path: str, body: dict[str, Any]) -> dict[str, Any]:
    answer = await page.request.post(path, data=body, headers={"Prefer": "wait=60"}, timeout=90_000)
    return dict(await answer.json())


def _keep(name: str, png: bytes) -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    with Image.open(io.BytesIO(png)) as image:
        image.save(OUT / f"{name}.webp", "WEBP", quality=QUALITY, method=6)
    print(OUT / f"{name}.webp")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
