"""The mask brush: by mouse, finger and keys, and what of it arrives."""

import io
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest_asyncio
from PIL import Image, ImageChops
from playwright.async_api import Browser, Locator, Page, expect

from gateway.embedded import add_user
from tests.studio.conftest import Furnished, NewPage
from tests.studio.test_generate import studio_job
from tests.studio.test_shell import OVERFLOW, no_violations, no_violations_anywhere, settled
from tests.support.browser import watched
from tests.support.stack import Stack, stack

WHITE, BLACK = 255, 0
BEFORE, AFTER, SIDE = (
    "a red round creature with a blue hat, front view, on a beach",
    "a blue square, at night",
    96,
)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def painting(new_database: Callable[[], str], new_folder: Callable[[], Path]) -> AsyncIterator[Stack]:
    """With the tiny model, which does repaint."""
    admin_url = new_database()
    local_user = str(add_user(admin_url, "you@localhost"))
    gpu = {"GPU_MODELS": "tiny-qwen", "GPU_PRELOAD": "tiny-qwen"}
    async with stack(admin_url, new_folder(), gpu=gpu, local_user_id=local_user) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="session")
async def easel(painting: Stack, browser: Browser) -> AsyncIterator[Page]:
    """The generate page with a small picture on its stage."""
    async with watched(browser, painting.url) as seen:
        await seen.page.goto("/jobs")
        await expect(seen.page.get_by_role("heading", name="Jobs", exact=True)).to_be_visible()
        body = {"prompt": BEFORE, "size": f"{SIDE}x{SIDE}", "num_inference_steps": 6, "seed": 7}
        drawn = await seen.page.request.post(
            "/v1/jobs", data=body, headers={"Prefer": "wait=60"}, timeout=90_000
        )
        await seen.page.goto(f"/generate?job={(await drawn.json())['id']}")
        yield seen.page


async def test_only_what_is_painted_is_drawn_anew(easel: Page, painting: Stack) -> None:
    before = await shown(easel)
    dialog = await open_mask(easel)
    canvas = dialog.locator("canvas")
    await dialog.get_by_role("button", name="Use this mask").click()
    await expect(easel.locator("#toasts")).to_contain_text("Paint something first")
    await dialog.get_by_label("Brush size").fill("20")
    await stroke(easel, canvas, (0.2, 0.3), (0.6, 0.3))
    await stroke(easel, canvas, (0.8, 0.5), (0.8, 0.9))
    await easel.keyboard.press("Control+z")
    await dialog.get_by_text("Erase", exact=True).click()
    await stroke(easel, canvas, (0.65, 0.3), (0.7, 0.3))
    await no_violations_anywhere(easel, "mask")
    await dialog.get_by_role("button", name="Use this mask").click()
    await expect(dialog).to_be_hidden()  # it was sent and checked
    brush = easel.locator("#refs").get_by_role("button", name="Paint what is drawn anew")
    await expect(brush).to_have_attribute("aria-pressed", "true")
    await expect(brush).to_be_focused()

    job = await drawn(easel)
    mask = await sent_mask(easel, painting, job)
    assert [at(mask, *place) for place in [(0.2, 0.3), (0.4, 0.3), (0.4, 0.38)]] == [WHITE] * 3
    assert [at(mask, *place) for place in [(0.4, 0.45), (0.66, 0.3), (0.8, 0.7), (0.02, 0.98)]] == [BLACK] * 4
    changed = ImageChops.difference(before, await shown(easel)).convert("L").point(lambda d: 255 if d else 0)
    assert changed.getbbox(), "nothing was drawn anew"
    kept = mask.resize(before.size, Image.Resampling.NEAREST).point(lambda white: 0 if white > 127 else 255)
    assert ImageChops.multiply(changed, kept).getbbox() is None, "something else has changed"
    recalled = await (await easel.request.get(f"/generate?from={job['id']}")).text()
    assert job["params"]["references"][1]["upload_id"] in recalled


async def test_a_mask_is_made_by_keys_alone_undone_and_taken_away(easel: Page, painting: Stack) -> None:
    dialog = await open_mask(easel, by_keys=True)
    await dialog.locator("canvas").focus()
    for key in ("ArrowLeft", "ArrowUp", "Shift+ArrowRight", " "):
        await easel.keyboard.press(key)
    await expect(easel.locator("#live")).to_have_text("Painted")
    await dialog.get_by_role("button", name="Clear").press("Enter")
    await expect(dialog.get_by_role("button", name="Clear")).to_be_disabled()
    await dialog.get_by_role("region", name="Messages").get_by_role("button", name="Undo").press("Enter")
    await dialog.get_by_role("button", name="Use this mask").press("Enter")
    await expect(dialog).to_be_hidden()
    brush = easel.locator("#refs").get_by_role("button", name="Paint what is drawn anew")
    await expect(brush).to_have_attribute("aria-pressed", "true")
    await easel.reload()  # the draft keeps the mask, and what it was painted with
    await settled(easel)
    await expect(brush).to_have_attribute("aria-pressed", "true")
    mask = await sent_mask(easel, painting, await drawn(easel))
    assert [round(side / 1024, 2) for side in mask.getbbox() or ()] == [0.2, 0.2, 0.75, 0.7]
    await brush.press("Enter")
    await dialog.get_by_role("button", name="Remove the mask").press("Enter")
    await expect(brush).to_have_attribute("aria-pressed", "false")


async def test_a_finger_paints_on_a_phone(new_page: NewPage, furnished: Furnished) -> None:
    async with new_page(viewport={"width": 390, "height": 844}, has_touch=True) as seen:
        page = seen.page
        seen.allowed = {400}  # of the estimate: the instant model takes no mask
        await page.goto(f"/generate?job={furnished.done}")
        dialog = await open_mask(page)
        assert await page.evaluate(OVERFLOW) <= 0
        await no_violations(page, "mask 390")
        box = await dialog.locator("canvas").bounding_box()
        assert box and box["width"] > 250
        await page.touchscreen.tap(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        await expect(dialog.get_by_role("button", name="Undo")).to_be_enabled()
        async with page.expect_response("**/complete") as answer:
            await dialog.get_by_role("button", name="Use this mask").click()
        upload = (await (await answer.value).json())["id"]
        sent = await page.request.get(f"/v1/uploads/{upload}/content")
        with Image.open(io.BytesIO(await sent.body())) as mask:
            assert (at(mask.convert("L"), 0.5, 0.5), at(mask.convert("L"), 0.2, 0.2)) == (WHITE, BLACK)


async def open_mask(page: Page, by_keys: bool = False) -> Locator:
    """The result on the stage, under the brush."""
    await settled(page)
    button = page.get_by_role("button", name="Repaint a part")
    await (button.press("Enter") if by_keys else button.click())
    dialog = page.get_by_role("dialog", name="Paint what is drawn anew")
    await expect(dialog).to_be_visible()
    await expect(dialog.locator("img")).to_have_js_property("complete", True)
    await expect(dialog.locator("canvas")).to_have_js_property("width", 1024)
    return dialog


async def stroke(page: Page, canvas: Locator, start: tuple[float, float], end: tuple[float, float]) -> None:
    box = await canvas.bounding_box()
    assert box
    x, y, width, height = (box[name] for name in ("x", "y", "width", "height"))
    await page.mouse.move(x + start[0] * width, y + start[1] * height)
    await page.mouse.down()
    await page.mouse.move(x + end[0] * width, y + end[1] * height, steps=4)
    await page.mouse.up()


async def drawn(page: Page) -> dict[str, Any]:
    await page.locator("#prompt").fill(AFTER)
    await page.get_by_role("button", name="Generate").click()
    await expect(page.locator("#shots img")).to_have_attribute("alt", AFTER, timeout=60_000)
    return await studio_job(page)


async def sent_mask(page: Page, studio: Stack, job: dict[str, Any]) -> Image.Image:
    """The mask as the GPU service was given it."""
    under, mask = job["params"]["references"]
    assert (mask["role"], "image_id" in under) == ("mask", True)
    (call,) = studio.rows("select request from private.generation_calls where job_id = %s", job["id"])
    (kept,) = studio.rows("select sha256 from public.uploads where id = %s", mask["upload_id"])
    assert call["request"]["mask"]["sha256"] == kept["sha256"]
    sent = await page.request.get(f"/v1/uploads/{mask['upload_id']}/content")
    return Image.open(io.BytesIO(await sent.body())).convert("L")


def at(mask: Image.Image, x: float, y: float) -> int:
    pixel = mask.getpixel((round(x * (mask.width - 1)), round(y * (mask.height - 1))))
    assert isinstance(pixel, int)
    return pixel


async def shown(page: Page) -> Image.Image:
    """The picture on the stage."""
    job = await studio_job(page)
    answer = await page.request.get(f"/v1/images/{job['images'][0]['id']}/content")
    return Image.open(io.BytesIO(await answer.body())).convert("RGB")
