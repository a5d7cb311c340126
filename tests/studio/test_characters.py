"""Characters in a browser: from a photo or words to views, a favorite, a reference, a portfolio, a scene."""

import asyncio
import io
from typing import Any

import httpx
import pytest
from PIL import Image
from playwright.async_api import Page, expect

from gateway.studio.words import money
from gateway.usage.history import Remembered
from tests.gateway.test_jobs import held_queue
from tests.studio.conftest import Furnished, NewPage
from tests.studio.test_shell import no_violations_anywhere, settled
from tests.support.browser import Watched
from tests.support.stack import Stack


async def test_the_addresses_of_other_documents_lead_here(studio: Stack) -> None:
    async with httpx.AsyncClient(base_url=studio.url) as http:
        for old, new in {
            "/screenplay/characters/1-2/images": "/characters/1-2/images",
            "/admin/characters": "/characters",
            "/admin/characters/new": "/characters/new",
            "/admin/characters/1-2": "/characters/1-2",
        }.items():
            answer = await http.get(old)
            assert (answer.status_code, answer.headers["location"]) == (308, new)
        assert (
            (await http.get("/admin/characters//evil.example/x"))
            .headers["location"]
            .startswith("/characters/")
        )


async def test_what_a_reference_costs_is_told_before_the_click(
    page: Page, furnished: Furnished, monkeypatch: pytest.MonkeyPatch
) -> None:
    character = await drawn(page, "Axel", furnished)
    monkeypatch.setattr(Remembered, "_start", lambda self: None)  # what is measured meanwhile is not learned
    portrait = {"prompt": "a picture", "size": "ref_portrait"}
    one = await estimated(page, portrait)
    view = await estimated(page, portrait | {"references": [{"image_id": character["id"]}]})
    await page.goto("/characters/new")
    await page.get_by_text("A description", exact=True).click()
    await expect(page.locator("#cost")).to_have_text(costs(one + 3 * view))
    await page.goto(f"/characters/{character['id']}/images")
    await expect(page.locator("#cost-reference")).to_have_text(costs(one))
    await page.locator("label", has_text="3").click()
    three = await estimated(page, portrait | {"num_images": 3})
    await expect(page.locator("#cost-reference")).to_have_text(costs(three))
    await expect(page.locator("#cost-portfolio")).to_have_text(costs(8 * view, "8 angles"))


async def test_a_failure_shows_as_a_toast(seen: Watched, furnished: Furnished) -> None:
    seen.allowed = {404}
    character = await drawn(seen.page, "Runa", furnished)
    await seen.page.goto(f"/characters/{character['id']}")
    await settled(seen.page)
    deleted = await seen.page.request.delete(f"/v1/characters/{character['id']}")
    assert deleted.ok
    await seen.page.get_by_role("button", name="Favorite: View, back").click()
    await expect(seen.page.locator(".toast")).to_contain_text("Not Found: ")
    await expect(seen.page.get_by_role("status")).to_contain_text("Not Found: ")


async def test_a_photo_without_consent_is_refused_in_words(page: Page) -> None:
    await page.goto("/characters/new")
    await settled(page)
    await page.get_by_role("button", name="Generate").click()
    assert await page.evaluate("document.activeElement.id") == "name", "sent without a name"
    await page.get_by_label("Name", exact=True).fill("Nobody")
    await page.get_by_role("button", name="Generate").click()
    await expect(page.get_by_role("alert")).to_have_text("Choose a photo first.")
    await page.locator("#photo").set_input_files(photo())
    await page.get_by_role("button", name="Generate").click()
    await expect(page.get_by_role("alert")).to_contain_text("has to agree")
    await no_violations_anywhere(page, "new character")


async def test_a_photo_becomes_a_character_with_three_views_and_a_favorite(page: Page, studio: Stack) -> None:
    await page.goto("/characters/new")
    await settled(page)
    await page.get_by_label("Name", exact=True).fill("Mara Venn")
    await page.get_by_label("Gender").fill("female")
    await page.locator("#photo").set_input_files(photo())
    await expect(page.locator("#photo-shown")).to_be_visible()
    await page.get_by_role("checkbox").check()
    await page.get_by_role("radio", name="Watercolor").check(force=True)
    async with held_queue(studio):
        await page.get_by_role("button", name="Generate").click()
        await expect(page.get_by_role("heading", name="Generating reference images…")).to_be_visible()
    await expect(page.locator("#views img")).to_have_count(3)
    for view in ("front", "side", "back"):
        await expect(page.get_by_alt_text(f"Mara Venn, {view}", exact=True)).to_be_visible()
    await expect(page.locator("#status")).to_contain_text("Ready")
    favorite = page.get_by_role("button", name="Favorite: View, side")
    await favorite.click()
    await expect(favorite).to_have_attribute("aria-pressed", "true")
    await expect(page.locator("#gallery [aria-pressed=true]")).to_have_count(1)
    character = await told(page, f"/v1/characters/{page.url.rpartition('/')[2]}")
    assert (character["name"], character["gender"]) == ("Mara Venn", "female")
    assert character["selected_image_id"] == str(await favorite.get_attribute("id")).removeprefix("favorite-")
    await page.get_by_role("link", name="Favorite", exact=True).click()
    await expect(page.locator("#gallery > li")).to_have_count(1)
    await expect(favorite).to_have_attribute("aria-pressed", "true")
    await expect(page.get_by_label("Gender")).to_have_value("female")

    await expect(page.locator("main").get_by_role("button", name="Generate")).to_have_count(0)
    await page.get_by_role("toolbar").get_by_role("link", name="Images", exact=True).click()
    await settled(page)
    await page.locator("label", has_text="2").click()
    await page.get_by_role("button", name="Generate Reference").click()
    await expect(page.locator("#grid .tag", has_text="Variant")).to_have_count(1)
    await page.get_by_role("link", name="Back").click()
    await expect(page.get_by_alt_text("Mara Venn, variant")).to_be_visible()


async def test_a_portfolio_is_turned_by_hand_by_keys_and_by_itself(
    new_page: NewPage, furnished: Furnished
) -> None:
    async with new_page(reduced_motion="no-preference") as seen:
        page, character = seen.page, await drawn(seen.page, "Axel", furnished)
        await page.request.post(
            f"/v1/characters/{character['id']}/generate-360-set", data={"angles": [0, 90, 180, 270]}
        )
        await page.goto(f"/characters/{character['id']}")
        await settled(page)
        picture, slider = page.locator("turn-table figure"), page.get_by_role("slider", name="Angle")
        await shows(page, 0)
        await slider.focus()
        await page.keyboard.press("ArrowRight")
        await shows(page, 90)
        await page.keyboard.press("ArrowLeft")
        await page.keyboard.press("ArrowLeft")
        await shows(page, 270)
        await expect(slider).to_have_attribute("aria-valuetext", "270 degrees")
        await page.get_by_role("button", name="90 degrees", exact=True).click()
        await shows(page, 90)
        await slider.fill("0")
        await shows(page, 0)

        box = await picture.bounding_box()
        assert box is not None
        await page.mouse.move(box["x"] + 20, box["y"] + 40)
        await page.mouse.down()
        await page.mouse.move(box["x"] + 20 + box["width"] / 2, box["y"] + 40, steps=4)
        await shows(page, 180)
        await page.mouse.up()
        await page.mouse.move(box["x"] + 20, box["y"] + 40)
        await shows(page, 180)

        await no_violations_anywhere(page, "turn-table")
        turn = page.get_by_role("button", name="Turn around")
        await turn.click()
        await expect(turn).to_have_attribute("aria-pressed", "true")
        await shows(page, 0)  # on its way around
        await turn.click()
        await page.emulate_media(reduced_motion="reduce")
        await expect(turn).to_be_hidden()
        loaded = "[...document.querySelectorAll('turn-table img')].every((one) => one.naturalWidth > 0)"
        assert await page.evaluate(loaded), "a picture comes only when it is turned to"


async def test_the_profile_is_a_table_that_can_be_edited(page: Page, furnished: Furnished) -> None:
    character = await drawn(page, "Ilse", furnished)
    await page.goto(f"/characters/{character['id']}")
    await settled(page)
    await page.get_by_label("Gender").fill("nonbinary")
    await page.get_by_label("Name of another trait").fill("Favorite hat")
    await page.get_by_label("Its value").fill("a blue bowler")
    await page.get_by_label("Never to change").fill("freckles\nblue bowler")
    await page.get_by_role("button", name="Save profile").click()
    await expect(page.get_by_label("Favorite hat")).to_have_value("a blue bowler")
    kept = await told(page, f"/v1/characters/{character['id']}")
    assert (kept["gender"], kept["profile"]["do_not_change"]) == ("nonbinary", ["freckles", "blue bowler"])


async def test_the_workspace_draws_a_reference_a_portfolio_and_a_scene_and_deletes(
    page: Page, furnished: Furnished, studio: Stack
) -> None:
    character = await drawn(page, "Tove", furnished)
    await page.goto(f"/characters/{character['id']}")
    await page.get_by_role("link", name="Images", exact=True).click()
    await expect(page.get_by_role("heading", name="Image Management")).to_be_visible()
    await settled(page)
    assert await page.title() == "Image Management · Tenkaigen"
    await expect(page.locator("header code").first).to_have_text(character["id"])

    suggested = await page.get_by_label("Prompt").input_value()
    assert suggested.startswith("Tove")
    await page.get_by_label("Prompt").fill("Tove in oilskins, full body")
    async with held_queue(studio):
        await page.get_by_role("button", name="Generate Reference").click()
        await expect(page.locator("#grid [data-pending]")).to_be_visible()
    await expect(page.locator("#grid [data-pending]")).to_have_count(0)
    first = page.locator("#grid li").first
    await expect(first).to_contain_text("Tove in oilskins")
    await expect(first.locator(".tag")).to_contain_text("Reference")
    await expect(first.locator(".status")).to_have_text("Done")
    await expect(page.locator("#grid li")).to_have_count(1)
    assert await page.get_by_label("Prompt").input_value() == "Tove in oilskins, full body"
    await page.get_by_role("button", name="Reset Prompt").click()
    await expect(page.get_by_label("Prompt")).to_have_value(suggested)

    own = await page.request.get(str(await first.locator("img").get_attribute("src")))
    assert own.headers["content-type"] == "image/webp"
    assert own.url.startswith(page.url.partition("/characters/")[0])

    await expect(page.locator("#references input")).to_be_checked()
    await page.locator("#references label").click()
    await page.get_by_role("button", name="Start Portfolio").click()
    await expect(page.locator("#grid li[id]")).to_have_count(9)
    await expect(page.locator("#grid .tag", has_text="Portfolio 315°")).to_be_visible()

    await page.get_by_label("What happens").fill("reading a map on a pier")
    await page.get_by_role("button", name="Draw scene").click()
    await expect(page.locator("#grid li[id]")).to_have_count(10)
    await page.get_by_role("link", name="Scene", exact=True).click()
    await expect(page.locator("#grid li")).to_have_count(1)
    await settled(page)

    await page.get_by_role("button", name="Delete").click()
    await expect(page.locator("#grid li")).to_be_hidden()
    await page.get_by_role("button", name="Undo").click()
    await expect(page.locator("#grid li")).to_be_visible()
    await page.get_by_role("button", name="Delete").click()
    scene = str(await page.locator("#grid li").get_attribute("id")).removeprefix("image-")
    await page.get_by_role("link", name="Back").click()  # leaving makes it so at once
    await expect(page.get_by_role("heading", name="Tove", exact=True)).to_be_visible()
    await gone(page, f"/v1/images/{scene}/content")
    await page.goto(f"/characters/{character['id']}/images?kind=scene")
    await expect(page.get_by_text("No pictures of this kind")).to_be_visible()


async def test_what_cannot_be_drawn_says_why_on_its_tile(seen: Watched, furnished: Furnished) -> None:
    seen.allowed = {400}
    character = await drawn(seen.page, "Ole", furnished)
    await seen.page.goto(f"/characters/{character['id']}/images")
    await settled(seen.page)
    await seen.page.get_by_label("Prompt").fill("a naked child")
    await seen.page.get_by_role("button", name="Generate Reference").click()
    tile = seen.page.locator("#grid [data-pending]")
    await expect(tile.get_by_role("alert")).to_be_visible()
    await no_violations_anywhere(seen.page, "a refused picture")
    await tile.get_by_role("button", name="Dismiss").click()
    await expect(tile).to_have_count(0)


@pytest.mark.parametrize(
    "path", ["/characters", "/characters/new", "/characters/{id}", "/characters/{id}/images"]
)
async def test_axe_finds_nothing_on_pages_of_characters(
    seen: Watched, furnished: Furnished, path: str
) -> None:
    character = await drawn(seen.page, "Axel", furnished)
    await seen.page.goto(path.format(id=character["id"]))
    await settled(seen.page)
    await no_violations_anywhere(seen.page, path)


def photo() -> Any:
    made = io.BytesIO()
    Image.new("RGB", (96, 96), "#cc3322").save(made, "PNG")
    return {"name": "photo.png", "mimeType": "image/png", "buffer": made.getvalue()}


_drawn: dict[str, dict[str, Any]] = {}


async def drawn(page: Page, name: str, furnished: Furnished) -> dict[str, Any]:
    """A character that is ready, made of words; the same for all tests that want this name."""
    key = f"{furnished.token}/{name}"
    if key not in _drawn:
        body = {"name": name, "source": "description", "description": "a red creature with freckles"}
        answer = await page.request.post("/v1/characters", data=body)
        assert answer.status == 202, await answer.text()
        made = await answer.json()
        while made["status"] not in ("ready", "failed"):
            await page.wait_for_timeout(200)
            made = await told(page, f"/v1/characters/{made['id']}")
        assert made["status"] == "ready", made["error"]
        _drawn[key] = made
    return _drawn[key]


async def shows(page: Page, angle: int) -> None:
    await expect(page.locator("turn-table output")).to_have_text(f"{angle}°")
    await expect(page.get_by_alt_text(f"turned by {angle} degrees")).to_be_visible()
    await expect(page.get_by_role("button", name=f"{angle} degrees", exact=True)).to_have_attribute(
        "aria-pressed", "true"
    )
    await expect(page.locator("turn-table figure img:not([hidden])")).to_have_count(1)


async def estimated(page: Page, body: dict[str, Any]) -> int:
    answer = await page.request.post("/v1/jobs/estimate", data=body)
    return int((await answer.json())["estimated_usd_micros"])


def costs(micros: int, what: str = "reference image generation") -> str:
    return f"Cost: {money(micros)} ({what})"


async def gone(page: Page, path: str) -> None:
    """Wait until the API finds nothing there: a page that is left asks for it without waiting."""
    async with asyncio.timeout(30):
        while (await page.request.get(path)).status != 404:
            await asyncio.sleep(0.1)


async def told(page: Page, path: str) -> dict[str, Any]:
    return dict(await (await page.request.get(path)).json())
