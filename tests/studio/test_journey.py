"""Whole journeys in a browser, on the whole product; diffusion draws every picture."""

import asyncio
import io
from collections.abc import Callable
from pathlib import Path

from PIL import Image, ImageDraw
from playwright.async_api import Browser, expect
from pypdf import PdfReader

from gateway.embedded import add_user
from tests.gateway.test_jobs import held_queue
from tests.studio.test_shell import settled
from tests.studio.test_sign_in import sign_in
from tests.support.browser import watched
from tests.support.project import project_of
from tests.support.stack import free_port, gpu_process, stack

DRAWN_WITHIN_MS = 90_000
PANELS = {"Runa on a beach, by day": ["Runa"], "a forest, at night": []}


async def test_a_drawing_becomes_a_character_and_the_character_a_finished_comic(
    new_database: Callable[[], str], new_folder: Callable[[], Path], browser: Browser
) -> None:
    admin_url = new_database()
    local_user = str(add_user(admin_url, "you@localhost"))
    async with (
        stack(admin_url, new_folder(), local_user_id=local_user) as product,
        watched(browser, product.url) as seen,
    ):
        page = seen.page
        await page.goto("/characters")
        await page.get_by_role("link", name="Make the first character").click()
        await settled(page)
        await page.get_by_label("Name", exact=True).fill("Runa")
        await page.locator("#photo").set_input_files(
            {"name": "runa.png", "mimeType": "image/png", "buffer": drawing()}
        )
        await page.get_by_role("checkbox").check()
        async with held_queue(product):
            await page.get_by_role("button", name="Generate").click()
            await expect(page.get_by_role("heading", name="Generating reference images…")).to_be_visible()
        for view in ("front", "side", "back"):
            await expect(page.get_by_alt_text(f"Runa, {view}", exact=True)).to_be_visible(
                timeout=DRAWN_WITHIN_MS
            )
        await expect(page.locator("#status")).to_contain_text("Ready")

        await page.get_by_role("link", name="Comics").click()
        await settled(page)
        await page.get_by_role("button", name="Begin a comic").click()
        await page.get_by_label("Name", exact=True).fill("Black Reef")
        await page.get_by_role("button", name="Begin", exact=True).click()
        await expect(page.get_by_text("An empty page")).to_be_visible()
        await settled(page)
        dialog = page.get_by_role("dialog", name="Add Panel")
        for words, cast in PANELS.items():
            await page.get_by_role("button", name="Add Panel").click()
            await dialog.get_by_label("What happens").fill(words)
            for name in cast:
                await dialog.get_by_role("checkbox", name=name).check(force=True)
            await dialog.locator("details").evaluate("(one) => { one.open = true; }")
            await dialog.get_by_label("Lettering").fill(words.upper())
            await dialog.get_by_role("button", name="Generate").click()
            await expect(dialog).to_be_hidden()
        for words in PANELS:
            await expect(page.get_by_alt_text(words)).to_be_visible(timeout=DRAWN_WITHIN_MS)
        async with page.expect_download() as downloading:
            await page.get_by_role("link", name="PDF").click()
        download = await downloading.value
        book = PdfReader(await download.path())

    assert download.suggested_filename == "Black Reef - Chapter 1.pdf"
    lettering = " ".join(page.extract_text() for page in book.pages)
    assert all(words.upper() in " ".join(lettering.split()) for words in PANELS)
    drawn = product.rows("select width, height, seed from public.generated_assets order by created_at")
    assert len(drawn) == 6, "a portrait, three views, two panels"


async def test_words_become_a_design_on_a_product_in_the_cart_of_whoever_signed_in(
    new_database: Callable[[], str], new_folder: Callable[[], Path], browser: Browser
) -> None:
    folder, port, gpu_port = new_folder(), free_port(), free_port()
    gpu = gpu_process(folder, gpu_port, f"http://127.0.0.1:{port}/api/generate/webhook")
    await asyncio.to_thread(gpu.start)
    served = {"port": port, "gpu_url": gpu.url, "worker": True}
    try:
        async with (
            project_of(new_database(), folder, **served) as project,
            watched(browser, project.url) as seen,
        ):
            page = seen.page
            await page.goto("/")
            await sign_in(page, project.user.email, project.user.password)
            await settled(page)
            await page.locator("#prompt").fill("A cyberpunk samurai with neon katana")
            await page.get_by_role("radio", name="Anime").first.check(force=True)
            await page.get_by_text("More", exact=True).click()
            await page.get_by_label("Product", exact=True).fill("mug")
            await page.get_by_role("button", name="Generate").click()
            await expect(page.get_by_text("Generating your design…")).to_be_visible()
            await expect(page.locator("#shots img")).to_be_visible(timeout=DRAWN_WITHIN_MS)

            await page.get_by_role("button", name="On a product").click()
            designer = page.get_by_role("dialog", name="On a product")
            await expect(designer.get_by_role("radio", name="Mug")).to_be_checked()
            shown = await designer.get_by_alt_text("The picture on the product").get_attribute("src")
            await designer.get_by_label("Across").focus()
            await page.keyboard.press("ArrowRight")
            await designer.get_by_label("Cart reference").fill("cart-0815")
            await designer.get_by_role("button", name="Keep the placement").click()
            await expect(designer).to_be_hidden()
            answer = await page.request.get("/v1/jobs?metadata.cart_ref=cart-0815")
            (job,) = (await answer.json())["data"]
    finally:
        await asyncio.to_thread(gpu.stop)

    assert (job["status"], job["style"]) == ("completed", "design/anime")
    assert job["prompt"]["input"] == "A cyberpunk samurai with neon katana"
    assert shown and job["images"][0]["id"] in shown, "the design in the cart is the one that was seen"
    mockup = {"product": "mug", "placement_x": 51, "placement_y": 50, "placement_size": 80}
    assert mockup.items() <= job["metadata"].items()


def drawing() -> bytes:
    """A red round creature, as a child draws it."""
    picture = Image.new("RGB", (256, 320), "#ffffff")
    pen = ImageDraw.Draw(picture)
    pen.ellipse((48, 70, 208, 270), fill="#d83434", outline="#1c1b18", width=6)
    for x in (100, 140):
        pen.ellipse((x, 140, x + 16, 172), fill="#1c1b18")
    made = io.BytesIO()
    picture.save(made, "PNG")
    return made.getvalue()
