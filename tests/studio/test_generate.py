"""The generate page in a browser, on the whole product: each way from words to a picture."""

import asyncio
import io
import re
from typing import Any

from PIL import Image
from playwright.async_api import Page, expect

from tests.gateway.test_jobs import held_queue
from tests.studio.conftest import Furnished, NewPage
from tests.studio.test_shell import no_violations_anywhere, settled
from tests.support.browser import Watched
from tests.support.stack import Stack

PASTE = """(bytes) => {
  const file = new File([new Uint8Array(bytes)], "pasted.png", {type: "image/png"});
  const data = new DataTransfer();
  data.items.add(file);
  const event = new ClipboardEvent("paste", {bubbles: true, clipboardData: data});
  document.body.dispatchEvent(event);
}"""

DROP = """([bytes, name, where]) => {
  const data = new DataTransfer();
  data.items.add(new File([new Uint8Array(bytes)], name, {type: "image/png"}));
  const event = new DragEvent("drop", {bubbles: true, cancelable: true, dataTransfer: data});
  document.querySelector(where).dispatchEvent(event);
}"""


async def test_words_become_a_picture_with_its_price_progress_and_facts(page: Page, studio: Stack) -> None:
    await page.goto("/generate")
    await settled(page)
    spent = await page.locator("#meter b").get_attribute("title") or ""
    await expect(page.locator("#price")).to_contain_text("$")
    await page.locator("#prompt").fill("a cyberpunk samurai with neon katana")
    await page.get_by_role("radio", name="Anime").first.check(force=True)
    await page.get_by_label("Seed", exact=True).fill("77")
    async with held_queue(studio):
        await page.get_by_role("button", name="Generate").click()
        await expect(page.get_by_text("Generating your design…")).to_be_visible()
        await expect(page.get_by_role("progressbar")).to_be_visible()
    await expect(page.locator("#shots img")).to_be_visible()
    await expect(page.locator(".facts")).to_contain_text("77")
    job = await studio_job(page)
    assert job["style"] == "design/anime"
    assert job["metadata"]["flow_id"]
    assert studio.rows("select style from public.generation_jobs where id = %s", job["id"])
    await expect(page.locator("#recent li").first).to_have_attribute("data-tile", job["images"][0]["id"])
    await expect(page.locator("#meter b")).not_to_have_attribute("title", spent)
    await expect(page.locator("#meter")).to_contain_text("nothing running")


async def test_what_runs_can_be_canceled_and_drawn_after_all(page: Page) -> None:
    await page.goto("/generate")
    await settled(page)
    await page.locator("#prompt").fill("many pictures of a kite")
    await page.get_by_text("More", exact=True).click()
    await page.get_by_label("Pictures").fill("10")
    await page.get_by_role("button", name="Generate").click()
    await page.get_by_role("button", name="Cancel").click()
    await expect(page.get_by_role("heading", name="Canceled")).to_be_visible()
    assert (await studio_job(page))["status"] == "canceled"


async def test_a_failure_says_why_and_offers_another_try_and_help(page: Page, furnished: Furnished) -> None:
    await page.goto(f"/generate?job={furnished.failed}")
    await settled(page)
    told = page.get_by_role("alert")
    await expect(told).to_contain_text("The picture was not drawn")
    await expect(told.get_by_role("link", name="Get help")).to_have_attribute("href", "/settings#support")
    await told.get_by_role("button", name="Try again").click()
    await expect(page).not_to_have_url(re.compile(furnished.failed))
    await expect(page.locator("#shots img")).to_be_visible()
    assert (await studio_job(page))["retry_of"] == furnished.failed


async def test_a_refusal_is_told_before_there_is_a_job(seen: Watched) -> None:
    seen.allowed = {400}
    await seen.page.goto("/generate")
    await settled(seen.page)
    await seen.page.locator("#prompt").fill("a kite")
    await seen.page.get_by_text("More", exact=True).click()
    await seen.page.get_by_label("Not in the picture").fill("clouds")
    await seen.page.evaluate("document.querySelector('[name=size][value=square]').value = '70x70'")
    await seen.page.get_by_role("button", name="Generate").click()
    await expect(seen.page.get_by_role("alert")).to_be_visible()


async def test_a_draft_survives_a_reload_and_a_restart_of_the_browsers_page(page: Page) -> None:
    await page.goto("/generate")
    await settled(page)
    await page.locator("#prompt").fill("half a thought")
    await page.get_by_role("radio", name="Grunge").check(force=True)
    await page.get_by_role("button", name="Roll a seed").click()
    seed = await page.locator("#seed").input_value()
    await page.reload()
    await expect(page.locator("#prompt")).to_have_value("half a thought")
    await expect(page.get_by_role("radio", name="Grunge")).to_be_checked()
    await expect(page.locator("#seed")).to_have_value(seed)


async def test_a_result_is_reused_whole_by_its_words_or_by_its_seed(page: Page, furnished: Furnished) -> None:
    await page.goto(f"/generate?from={furnished.done}")
    await settled(page)
    await expect(page.locator("#prompt")).to_have_value("a lighthouse on black basalt at dusk")
    await expect(page.get_by_role("radio", name="Vintage")).to_be_checked()
    await expect(page.locator("#seed")).to_have_value("7")
    await page.goto(f"/generate?from={furnished.done}&what=prompt")
    await settled(page)
    await expect(page.get_by_role("radio", name="None")).to_be_checked()
    await page.goto(f"/generate?job={furnished.done}")
    await settled(page)
    await page.get_by_role("button", name="Same seed").click()
    await expect(page.locator("#seed")).to_have_value("7")
    await expect(page.get_by_role("button", name="Keep this seed")).to_have_attribute("aria-pressed", "true")


async def test_a_result_has_variations(page: Page, furnished: Furnished) -> None:
    await page.goto(f"/generate?job={furnished.done}")
    await settled(page)
    await page.get_by_role("button", name="Variations").click()
    await expect(page.locator("#shots img")).to_have_count(4)
    job = await studio_job(page)
    assert job["id"] != furnished.done
    assert 7 not in [image["seed"] for image in job["images"]]

    await page.locator("#shots a").first.press("Enter")
    viewer = page.get_by_role("dialog", name="Picture")
    await viewer.get_by_role("button", name="Compare").press("Enter")
    slider = viewer.get_by_role("slider", name="How much of the picture before is shown")
    await expect(slider).to_be_focused()
    before = viewer.get_by_alt_text("Before", exact=True)
    await expect(before).to_have_attribute("src", f"/v1/images/{job['params']['variation_of']}/content")
    await expect(before).to_have_css("clip-path", "inset(0px 50% 0px 0px)")
    await page.keyboard.press("ArrowLeft")
    await expect(before).to_have_css("clip-path", "inset(0px 51% 0px 0px)")
    await no_violations_anywhere(page, "compare")
    await viewer.get_by_role("button", name="Next picture").click()
    await expect(before).to_be_hidden()


async def test_a_result_is_made_larger_where_its_model_draws_over_pictures(
    seen: Watched, furnished: Furnished
) -> None:
    seen.allowed = {400}  # the instant model draws over nothing
    await seen.page.goto(f"/generate?job={furnished.done}")
    await settled(seen.page)
    async with seen.page.expect_request("**/upscale") as asked:
        await seen.page.get_by_role("button", name="Upscale").click()
    assert (await asked.value).post_data_json == {"scale": 2}
    await expect(seen.page.get_by_role("alert")).to_contain_text("draws over a picture")


async def test_a_pasted_picture_is_drawn_from_and_can_be_taken_back(seen: Watched) -> None:
    seen.allowed = {400}  # of the estimate: the instant model borrows no looks
    page = seen.page
    await page.goto("/generate")
    await settled(page)
    await page.locator("#prompt").fill("this, as a stamp")
    await page.evaluate(PASTE, list(png()))
    await expect(page.locator("#refs li")).to_have_count(1)
    await expect(page.locator("#refs img")).to_have_js_property("naturalWidth", 64)
    await page.locator("#refs select").select_option("style")
    await expect(page.locator("#price")).to_have_text(re.compile("instant"))
    await page.reload()
    await expect(page.locator("#refs select")).to_have_value("style")
    await page.get_by_role("button", name="Remove this reference").click()
    await expect(page.locator("#refs li")).to_have_count(0)
    await page.get_by_role("button", name="Undo").click()
    await expect(page.locator("#refs li")).to_have_count(1)


async def test_a_dropped_picture_brings_its_settings_or_is_drawn_from(
    page: Page, furnished: Furnished, studio: Stack
) -> None:
    await page.goto("/generate")
    await settled(page)
    await page.locator("#prompt").fill("half a thought")
    own = (await (await page.request.get(f"/v1/jobs/{furnished.done}")).json())["images"][0]
    file = await (await page.request.get(f"/v1/images/{own['id']}/content")).body()
    await page.evaluate(DROP, [list(file), "holiday.png", "#stage"])
    await expect(page.locator("#prompt")).to_have_value("a lighthouse on black basalt at dusk")
    await expect(page.get_by_role("radio", name="Vintage")).to_be_checked()
    await expect(page.locator("#seed")).to_have_value("7")
    await page.locator("#toasts").get_by_role("button", name="Undo").click()
    await expect(page.locator("#prompt")).to_have_value("half a thought")
    await expect(page.locator("#seed")).to_have_value("")

    theirs = await studio.user.create(wait=30, prompt="a kite of somebody else", seed=55, size="640x768")
    file = (await studio.user.http.get(f"/v1/images/{theirs['images'][0]['id']}/content")).content
    await page.evaluate(DROP, [list(file), "found.png", "#stage"])
    await expect(page.locator("#prompt")).to_have_value("a kite of somebody else")
    await expect(page.locator("#seed")).to_have_value("55")
    await expect(page.get_by_role("radio", name="640x768")).to_be_checked()

    await page.evaluate(DROP, [list(png()), "holiday.png", "#stage"])
    await expect(page.locator("#refs li")).to_have_count(1)
    await page.evaluate(DROP, [list(file), "found.png", "#drop"])
    await expect(page.locator("#refs li")).to_have_count(2)
    await expect(page.locator("#prompt")).to_have_value("a kite of somebody else")


async def test_a_result_is_placed_on_a_product_and_kept_for_the_cart(
    page: Page, furnished: Furnished
) -> None:
    await page.goto(f"/generate?job={furnished.done}")
    await settled(page)
    await page.get_by_role("button", name="On a product").click()
    dialog = page.get_by_role("dialog", name="On a product")
    await dialog.get_by_text("Mug", exact=True).click()
    design = dialog.get_by_alt_text("The picture on the product")
    before, area = await design.bounding_box(), await dialog.locator(".print").bounding_box()
    assert before and area
    await page.mouse.move(before["x"] + 40, before["y"] + 40)
    await page.mouse.down()
    await page.mouse.move(before["x"] + 40 + area["width"] * 0.2, before["y"] + 40, steps=3)
    await page.mouse.up()
    await expect(dialog.get_by_label("Across")).to_have_value("70")
    await dialog.get_by_label("Size").focus()
    for key in ("End", "ArrowLeft"):
        await page.keyboard.press(key)
    after = await design.bounding_box()
    assert after and after["width"] > before["width"] * 1.7
    await no_violations_anywhere(page, "mock-up")
    await dialog.get_by_label("Cart reference").fill("cart-4711")
    await dialog.get_by_role("button", name="Keep the placement").click()
    await expect(dialog).to_be_hidden()
    (found,) = (await (await page.request.get("/v1/jobs?metadata.cart_ref=cart-4711")).json())["data"]
    placed = {"product": "mug", "placement_x": 70, "placement_y": 50, "placement_size": 149}
    assert found["id"] == furnished.done
    assert placed.items() <= found["metadata"].items()
    await page.reload()
    await settled(page)
    await page.get_by_role("button", name="On a product").click()
    await expect(dialog.get_by_label("Size")).to_have_value("149")


async def test_words_suggest_style_and_product_and_the_job_keeps_them(page: Page) -> None:
    await page.goto("/generate")
    await settled(page)
    await page.locator("#prompt").fill("a watercolor fox on a mug")
    await page.get_by_role("button", name="Suggest style").click()
    await expect(page.locator("#desk [name=style]:checked")).to_have_value("design/watercolor")
    await expect(page.get_by_label("Product", exact=True)).to_have_value(re.compile("mug", re.I))
    await page.get_by_role("button", name="Generate").click()
    await expect(page.locator("#shots img")).to_be_visible()
    assert "mug" in (await studio_job(page))["metadata"]["product"].lower()


async def test_the_form_is_shown_as_a_call_that_draws_the_same(page: Page) -> None:
    await page.goto("/generate")
    await settled(page)
    await page.locator("#prompt").fill('it\'s "quoted"')
    await page.get_by_text("More", exact=True).click()
    await page.get_by_role("button", name="This form as API call").click()
    dialog = page.get_by_role("dialog", name="As API call")
    code = dialog.get_by_role("tabpanel")
    await expect(code).to_contain_text("curl")
    await dialog.get_by_role("tab", name="Python").click()
    written = await code.inner_text()
    compile(written, "sample", "exec")
    assert "httpx.post" in written
    await page.keyboard.press("ArrowRight")
    await expect(code).to_contain_text("await fetch")


async def test_the_viewer_walks_through_pictures_and_deletes_with_undo(page: Page) -> None:
    for words in ("one to keep", "one to delete"):
        await page.goto("/generate")
        await settled(page)
        await page.locator("#prompt").fill(words)
        await page.get_by_role("button", name="Generate").click()
        await expect(page.locator("#shots img")).to_be_visible()
    await page.goto("/generate")
    await settled(page)
    await page.locator("#recent a").first.click()
    viewer = page.get_by_role("dialog", name="Picture")
    await expect(viewer).to_contain_text("one to delete")
    shown = page.url.rpartition("#image=")[2]
    await page.keyboard.press("ArrowRight")
    await expect(viewer).to_contain_text("one to keep")
    await page.keyboard.press("ArrowLeft")
    await page.keyboard.press("Delete")
    await expect(viewer).to_contain_text("one to keep")
    await viewer.get_by_role("button", name="Undo").click()
    await expect(page.locator(f"#recent [data-tile='{shown}']")).to_be_attached()
    await page.keyboard.press("Escape")
    await page.reload()
    await expect(page.locator(f"#recent [data-tile='{shown}']")).to_be_attached()


async def test_an_address_with_a_picture_opens_it(page: Page, furnished: Furnished) -> None:
    await page.goto(f"/generate?job={furnished.done}")
    await settled(page)
    shown = (await studio_job(page))["images"][0]["id"]
    await page.goto(f"/jobs/{furnished.done}#image={shown}")
    await settled(page)
    await expect(page.get_by_role("dialog", name="Picture")).to_be_visible()


async def test_two_tabs_see_the_same_picture(new_page: NewPage) -> None:
    async with new_page() as one, new_page() as other:
        await asyncio.gather(one.page.goto("/generate"), other.page.goto("/generate"))
        await settled(one.page)
        await expect(other.page.locator("body")).to_have_attribute("data-live", "yes")
        await one.page.locator("#prompt").fill("seen twice")
        await one.page.get_by_role("button", name="Generate").click()
        await expect(one.page.locator("#shots img")).to_be_visible()
        await expect(other.page.locator("#recent img").first).to_have_attribute("alt", "seen twice")
        await expect(other.page.locator("#shots img")).to_have_count(0)


async def test_a_slow_script_still_brings_the_page_to_life(new_page: NewPage) -> None:
    async with new_page() as seen:

        async def late(route: object) -> None:
            await asyncio.sleep(0.8)
            await route.continue_()  # type: ignore[attr-defined]

        await seen.page.route("**/api.js", late)
        await seen.page.goto("/generate")
        await expect(seen.page.locator("body")).to_have_attribute("data-live", "yes")
        await expect(seen.page.locator("#price")).to_contain_text("$")


async def test_on_a_phone_the_form_is_a_sheet_over_the_pictures(new_page: NewPage) -> None:
    async with new_page(viewport={"width": 390, "height": 844}, has_touch=True) as seen:
        await seen.page.goto("/generate")
        await settled(seen.page)
        await expect(seen.page.locator("#prompt")).to_be_hidden()
        await seen.page.get_by_role("button", name="New picture").click()
        await expect(seen.page.locator("#prompt")).to_be_focused()
        await seen.page.locator("#prompt").fill("a small screen")
        await seen.page.get_by_role("button", name="Generate").click()
        await expect(seen.page.locator("#prompt")).to_be_hidden()
        await expect(seen.page.locator("#shots img")).to_be_visible()


def png() -> bytes:
    made = io.BytesIO()
    Image.new("RGB", (64, 64), "#3366cc").save(made, "PNG")
    return made.getvalue()


async def studio_job(page: Page) -> dict[str, Any]:
    """The job on the stage, as the API tells it to this browser."""
    await expect(page).to_have_url(re.compile(r"[?&]job="))
    job_id = page.url.partition("job=")[2].partition("#")[0]
    answer = await page.request.get(f"/v1/jobs/{job_id}")
    return dict(await answer.json())
