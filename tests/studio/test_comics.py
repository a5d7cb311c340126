"""A comic in a browser: from nothing to panels in the order wanted, with their characters in them."""

import httpx
from playwright.async_api import Page, expect

from tests.studio.conftest import Furnished, NewPage
from tests.studio.test_characters import drawn, told
from tests.studio.test_shell import OVERFLOW, no_violations, settled
from tests.support.stack import Stack


async def test_the_addresses_of_a_comics_document_lead_here(studio: Stack) -> None:
    async with httpx.AsyncClient(base_url=studio.url) as http:
        comic = await http.get("/comics/project/1-2")
        cast = await http.get("/comics/project/1-2/character")
    assert (comic.status_code, comic.headers["location"]) == (308, "/comics/1-2")
    assert (cast.status_code, cast.headers["location"]) == (308, "/characters?comic=1-2")


async def test_a_comic_from_nothing_to_panels_in_order(
    page: Page, furnished: Furnished, studio: Stack
) -> None:
    await drawn(page, "Axel", furnished)
    await page.goto("/comics")
    await settled(page)
    await page.get_by_role("button", name="New comic").click()
    await page.get_by_label("Name", exact=True).fill("Black Reef")
    await page.get_by_role("button", name="Begin", exact=True).click()
    await expect(page.get_by_role("heading", name="Black Reef")).to_be_visible()
    await settled(page)
    tabs = page.get_by_role("navigation", name="Chapters")
    await expect(tabs.get_by_role("link", name="Chapter 1")).to_have_attribute("aria-current", "page")

    await page.keyboard.press("p")
    dialog = page.get_by_role("dialog", name="Add Panel")
    enhance = dialog.get_by_role("checkbox", name="Enhance prompt")
    await expect(enhance).to_be_checked()
    await expect(dialog.locator("[data-part=price]")).to_contain_text("$")
    await no_violations(page, "add panel")
    await dialog.get_by_label("What happens").fill("Axel climbs a spiral stair")
    await dialog.get_by_role("checkbox", name="Axel").check(force=True)
    await expect(dialog.locator("[data-part=cast]")).to_have_text("In this order: Axel")
    await page.keyboard.press("Control+Enter")
    await expect(dialog).to_be_hidden()
    panels = page.locator("#panels > li")
    await expect(
        panels.first.get_by_text("Queued").or_(panels.first.get_by_text("Generating…"))
    ).to_be_visible()
    await expect(panels.first.locator("img")).to_be_visible(timeout=20_000)

    for words in ("a lamp is lit", "a ship answers"):
        await page.get_by_role("button", name="Add Panel").click()
        await dialog.get_by_label("What happens").fill(words)
        await enhance.uncheck()
        await dialog.get_by_role("button", name="Generate").click()
        await expect(dialog).to_be_hidden()
    await expect(page.locator("#panels > li[data-status=ready]")).to_have_count(3, timeout=30_000)

    async with page.expect_response("**/panels/order"):
        await page.get_by_role("button", name="Move panel 3 earlier").click()
    await expect(panels.nth(1)).to_contain_text("a ship answers")
    assert await page.evaluate("document.activeElement.closest('li').textContent.includes('a ship answers')")
    async with page.expect_response("**/panels/order"):
        await panels.nth(0).drag_to(panels.nth(2))
    await expect(panels.nth(2)).to_contain_text("Axel climbs")
    comic = await told(page, f"/v1/comics/{page.url.rpartition('/')[2]}")
    order = [panel["prompt"] for panel in comic["chapters"][0]["panels"]]
    assert order == ["a ship answers", "a lamp is lit", "Axel climbs a spiral stair"]

    await page.get_by_role("button", name="Delete panel 1").click()
    await expect(panels).to_have_count(2)
    await page.get_by_role("button", name="Undo").click()
    await expect(panels).to_have_count(3)

    link = page.get_by_role("link", name="PDF")
    exported = await page.request.get(str(await link.get_attribute("href")))
    assert (await exported.body()).startswith(b"%PDF")

    enhanced = "update public.comic_panels set enhanced_prompt = %s where prompt = %s returning id"
    assert studio.rows(enhanced, "a spiral stair by lantern light, 35 mm", "Axel climbs a spiral stair")
    await page.get_by_role("switch", name="Debug view").click()
    await settled(page)
    await panels.nth(2).get_by_role("button", name="Debug").click()
    debug = page.get_by_role("dialog", name="Debug")
    await expect(debug.locator("[data-part=enhanced]")).to_have_text("a spiral stair by lantern light, 35 mm")
    await expect(debug.get_by_alt_text("front")).to_be_visible()
    await no_violations(page, "debug")
    await page.keyboard.press("Escape")
    await panels.nth(1).get_by_role("button", name="Debug").click()
    await expect(debug).to_contain_text("a lamp is lit")
    await expect(debug.locator("[data-part=enhanced]")).to_have_count(0)
    await page.keyboard.press("Escape")
    await expect(debug).to_be_hidden()

    for theme in ("dark", "light"):
        for width in (390, 1280):
            await page.emulate_media(color_scheme=theme)  # type: ignore[arg-type]
            await page.set_viewport_size({"width": width, "height": 844})
            await no_violations(page, f"comic {theme} {width}")
            assert await page.evaluate(OVERFLOW) <= 0, width

    await page.set_viewport_size({"width": 1280, "height": 844})
    await tabs.get_by_role("button", name="Add Chapter").click()
    await page.get_by_role("dialog", name="Add Chapter").get_by_label("Name").fill("Low tide")
    await page.get_by_role("button", name="Add", exact=True).click()
    await expect(tabs.get_by_role("link", name="Low tide")).to_have_attribute("aria-current", "page")
    await expect(page.get_by_text("An empty page")).to_be_visible()


async def test_the_list_tells_of_each_comic_and_its_cast(new_page: NewPage, furnished: Furnished) -> None:
    async with new_page() as seen:
        page = seen.page
        made = await (await page.request.post("/v1/comics", data={"name": "Signal Fire"})).json()
        await page.goto("/comics")
        await settled(page)
        await expect(page.get_by_role("link", name="Signal Fire")).to_contain_text("1 chapter · 0 panels")
        await no_violations(page, "comics")
        await page.goto(f"/comics/project/{made['id']}/character")
        await expect(page.get_by_text("Nobody here yet")).to_be_visible()
        await page.get_by_role("link", name="Make the first character").click()
        await expect(page.locator("[name=project_id]")).to_have_value(made["id"])
        await page.goto("/comics")
        await settled(page)
        await page.get_by_role("button", name="Delete Signal Fire").click()
        await expect(page.get_by_role("link", name="Signal Fire")).to_be_hidden()
        await page.goto("/jobs")
        await page.wait_for_timeout(500)
        assert (await page.request.get(f"/v1/comics/{made['id']}")).status == 404
