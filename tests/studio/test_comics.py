"""A comic in a browser: from nothing to panels in the order wanted, with their characters in them."""

import re
from typing import Any
from uuid import uuid4

import httpx
import pytest
from playwright.async_api import Locator, Page, expect
from psycopg.types.json import Jsonb

from gateway.studio.drift import drift
from tests.gateway.test_jobs import held_queue
from tests.studio.conftest import Furnished, NewPage
from tests.studio.test_characters import drawn, gone, told
from tests.studio.test_shell import BYTES_LIMIT, REQUESTS_LIMIT, WEIGH, begun, no_violations_anywhere, settled
from tests.support.browser import Watched
from tests.support.stack import Stack, User

NOTE_WORDS = """() => {
  window.said = [];
  const note = () => {
    const words = document.querySelector("#panels [data-part=status]")?.textContent;
    if (words && words !== window.said.at(-1)) window.said.push(words);
  };
  const all = {childList: true, subtree: true, characterData: true};
  new MutationObserver(note).observe(document.getElementById("panels"), all);
}"""

MIDDLES = """(items) => items.map((item) => {
  const { x, y, width, height } = item.getBoundingClientRect();
  return [x + width / 2, y + height / 2];
})"""


async def carry(items: Locator, start: int, end: int) -> None:
    """One item to where another is, as a hand does it, whatever the page fetches meanwhile.

    `drag_to` swallows the press where an item was exchanged between its look at the item and the
    press, tries again with the button still down, and loses the drag.
    """
    middles, mouse = await items.evaluate_all(MIDDLES), items.page.mouse
    await mouse.move(*middles[start])
    await mouse.down()
    await mouse.move(*middles[end])
    await mouse.up()


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
    await no_violations_anywhere(page, "add panel")
    await dialog.get_by_label("What happens").fill("Axel climbs a spiral stair")
    await dialog.get_by_role("checkbox", name="Axel").check(force=True)
    await expect(dialog.locator("[data-part=cast]")).to_have_text("In this order: Axel")
    panels = page.locator("#panels > li")
    async with held_queue(studio):
        await page.keyboard.press("Control+Enter")
        await expect(dialog).to_be_hidden()
        await expect(panels.first.get_by_text("Queued")).to_be_visible()
    await expect(panels.first.locator("img")).to_be_visible()

    for words in ("a lamp is lit", "a ship answers"):
        await page.get_by_role("button", name="Add Panel").click()
        await dialog.get_by_label("What happens").fill(words)
        await enhance.uncheck()
        await dialog.get_by_role("button", name="Generate").click()
        await expect(dialog).to_be_hidden()
    await expect(page.locator("#panels > li[data-status=ready]")).to_have_count(3)

    await page.get_by_role("button", name="Move panel 3 earlier").focus()
    async with page.expect_response("**/panels/order"):
        await page.keyboard.press("Enter")
    await expect(panels.nth(1)).to_contain_text("a ship answers")
    assert await page.evaluate("document.activeElement.closest('li').textContent.includes('a ship answers')")
    async with page.expect_response("**/panels/order"):
        await carry(panels, 0, 2)
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
    await expect(page.get_by_role("switch", name="Debug view")).to_be_checked()
    await settled(page)
    await panels.nth(2).get_by_role("button", name="Debug").click()
    debug = page.get_by_role("dialog", name="Debug")
    await expect(debug.locator("[data-part=enhanced]")).to_have_text("a spiral stair by lantern light, 35 mm")
    await expect(debug.get_by_alt_text("front")).to_be_visible()
    await no_violations_anywhere(page, "debug")
    await page.keyboard.press("Escape")
    await panels.nth(1).get_by_role("button", name="Debug").click()
    await expect(debug).to_contain_text("a lamp is lit")
    await expect(debug.locator("[data-part=enhanced]")).to_have_count(0)
    await page.keyboard.press("Escape")
    await expect(debug).to_be_hidden()

    await no_violations_anywhere(page, "comic")
    await tabs.get_by_role("button", name="Add Chapter").click()
    await page.get_by_role("dialog", name="Add Chapter").get_by_label("Name").fill("Low tide")
    await page.get_by_role("button", name="Add", exact=True).click()
    await expect(tabs.get_by_role("link", name="Low tide")).to_have_attribute("aria-current", "page")
    await expect(page.get_by_text("An empty page")).to_be_visible()
    await settled(page)
    await page.get_by_role("button", name="Rename chapter").click()
    await page.get_by_label("New name").fill("High tide")
    await page.get_by_role("button", name="Rename", exact=True).click()
    await expect(tabs.get_by_role("link", name="High tide")).to_have_attribute("aria-current", "page")
    await settled(page)
    await page.get_by_role("button", name="Delete chapter").click()
    await expect(page.get_by_text("An empty page")).to_be_hidden()
    await page.get_by_role("button", name="Undo").click()
    await expect(page.get_by_text("An empty page")).to_be_visible()
    await page.get_by_role("button", name="Delete chapter").click()
    await expect(tabs.get_by_role("link", name="High tide")).to_have_count(0)
    await expect(panels).to_have_count(3)


async def test_a_panel_says_that_it_is_queued_then_that_it_is_generated(page: Page, studio: Stack) -> None:
    comic = await begun(page, "Spoken")
    await page.goto(f"/comics/{comic['id']}")
    await settled(page)
    await expect(page.locator("body")).to_have_attribute("data-live", "yes")
    await page.evaluate(NOTE_WORDS)
    await page.get_by_role("button", name="Add Panel").click()
    await page.get_by_label("What happens").fill("a gull")
    await page.get_by_role("checkbox", name="Enhance prompt").uncheck()
    async with held_queue(studio):
        await page.get_by_role("dialog").get_by_role("button", name="Generate").click()
        panel = page.locator("#panels > li")
        await expect(panel.get_by_text("Queued")).to_be_visible()
    await expect(panel.locator("img")).to_be_visible()
    said = await page.evaluate("window.said")  # a refresh that was under way may say Queued once more
    assert list(dict.fromkeys(said)) == ["Queued", "Generating…"]


async def test_consistency_shows_on_panels_and_as_a_chart_of_the_chapter(page: Page, studio: Stack) -> None:
    comic = await begun(page, "Drift")
    await page.request.post(f"/v1/comics/{comic['id']}/chapters", data={"name": "Unseen"})
    mara, ilse = str(uuid4()), str(uuid4())
    for marks, judge in (([92, 81], "vlm"), ([74, 40], "vlm"), ([88, None], "fallback")):
        panel = await panel_of(page, comic)
        told = {"score": min(filter(None, marks)), "threshold": 70, "judged_by": judge, "attempts": 1}
        each = zip((mara, ilse), marks, strict=True)
        told["per_character"] = [
            {"character_id": who, "score": mark, "kept": [], "lost": ["hat"] if mark == 40 else []}
            for who, mark in each
        ]
        written = "update public.comic_panels set consistency = %s where id = %s returning id"
        assert studio.rows(written, Jsonb(told), panel["id"])
    await page.goto(f"/comics/{comic['id']}")
    await settled(page)
    kept = page.get_by_role("button", name="Panel 1: consistency 81, 70 wanted, judged by a model")
    await expect(kept).to_have_text(re.compile(r"81\s*/ 70 · model"))
    await expect(
        page.get_by_role("button", name="Panel 3: consistency 88, 70 wanted, judged by rules")
    ).to_be_visible()
    drifted = page.locator(".badge.low")
    await expect(drifted).to_have_text(re.compile(r"40\s*/ 70 · model"))

    chart = page.get_by_role("img", name="Score of each character in each panel")
    await expect(chart.locator("g")).to_have_count(2)
    await expect(chart.locator("g path.low title")).to_have_text("Somebody, panel 2: 40")
    rows = page.get_by_role("region", name="Consistency").locator("tbody tr")
    await expect(rows).to_have_text(
        [re.compile(each) for each in (r"1\s*92\s*81", r"2\s*74\s*40.*hat", r"3\s*88\s*–")]
    )
    await no_violations_anywhere(page, "drift")
    await drifted.click()
    await expect(page.get_by_role("dialog", name="Debug")).to_contain_text("Calls of the GPU service")
    await page.keyboard.press("Escape")
    await page.get_by_role("link", name="Unseen").click()
    await expect(page.get_by_text("An empty page")).to_be_visible()
    await expect(chart).to_have_count(0)


def test_drift_is_a_line_for_each_character_and_marks_what_fell_below_what_was_wanted() -> None:
    def panel(position: int, *marks: float | None) -> dict[str, Any]:
        each = [{"character_id": n, "score": mark, "lost": []} for n, mark in enumerate(marks)]
        score = min((mark for mark in marks if mark is not None), default=None)
        return {
            "position": position,
            "score": score,
            "threshold": 70,
            "judge": "model",
            "per_character": each,
        }

    cast = [
        {"character_id": n, "name": name, "mean": 80, "lowest": 40, "below_threshold": 0}
        for n, name in enumerate(["Mara", None])
    ]
    drawn = drift(
        {"panels": [panel(1, 92), panel(2), panel(3, 40, 70), panel(4, 100, 0)], "characters": cast}
    )
    assert drawn is not None
    mara, other = drawn.series
    assert (mara.name, other.name) == ("Mara", "Somebody")
    assert [dot.low for dot in mara.dots] == [False, True, False]
    assert [dot.low for dot in other.dots] == [False, True]
    assert mara.mark != other.mark, "told apart by color alone"
    assert [dot.x for dot in mara.dots] == sorted(dot.x for dot in mara.dots)
    assert other.dots[0].x == mara.dots[1].x, "the same panel"
    assert mara.dots[2].y < mara.dots[0].y < mara.dots[1].y < other.dots[1].y <= drawn.height
    assert [row.scores for row in drawn.rows] == [[92, None], [40, 70], [100, 0]]
    assert drift({"panels": [panel(1, 92), panel(2)], "characters": cast}) is None, "one drifts from nothing"


async def test_members_are_invited_given_another_role_dismissed_and_called_back(
    seen: Watched, studio: Stack
) -> None:
    seen.allowed = {404}
    page, friend = seen.page, User(studio.url, studio.admin_url, "friend@example.com", ["read", "generate"])
    comic = await begun(page, "Together")
    await page.goto(f"/comics/{comic['id']}")
    await settled(page)
    await page.get_by_role("button", name="Members").click()
    dialog = page.get_by_role("dialog", name="Members")
    await expect(dialog.get_by_role("listitem")).to_have_count(1)
    await dialog.get_by_label("User id").fill(str(uuid4()))
    await dialog.get_by_role("button", name="Add").click()
    await expect(page.locator(".toast")).to_contain_text("There is no user")
    await dialog.get_by_label("User id").fill(str(friend.id))
    await dialog.get_by_role("button", name="Add").click()
    role = dialog.get_by_label(f"Role of {str(friend.id)[:8]}")
    await expect(role).to_have_value("viewer")
    await no_violations_anywhere(page, "members")
    await role.select_option("editor")
    await expect(page.locator(".toast").last).to_have_text("Now editor")
    assert (await friend.http.get(f"/v1/comics/{comic['id']}")).json()["role"] == "editor"
    await dialog.get_by_role("button", name=f"Dismiss {str(friend.id)[:8]}").click()
    await expect(role).to_have_count(0)
    await page.get_by_role("button", name="Undo").click()
    await expect(role).to_have_value("editor")
    await friend.http.aclose()


async def test_a_reader_sees_what_others_draw_as_it_comes_and_changes_nothing(
    page: Page, studio: Stack
) -> None:
    owner = User(studio.url, studio.admin_url, "owner@example.com", ["read", "generate"])
    comic = (await owner.http.post("/v1/comics", json={"name": "Lent"})).json()
    me = (await told(page, "/v1/session"))["user_id"]
    await owner.http.post(f"/v1/comics/{comic['id']}/members", json={"user_id": me, "role": "viewer"})
    await page.goto(f"/comics/{comic['id']}")
    await settled(page)
    await expect(page.locator("body")).to_have_attribute("data-live", "yes")
    for name in ("Add Panel", "Add Chapter"):
        await expect(page.get_by_role("button", name=name)).to_have_count(0)
    words = {"prompt": "drawn by somebody else", "enhance": False}
    await owner.http.post(f"/v1/comics/chapters/{comic['chapters'][0]['id']}/panels", json=words)
    await expect(page.get_by_alt_text("drawn by somebody else")).to_be_visible()
    await page.get_by_role("button", name="Members").click()
    await page.get_by_role("button", name="Leave").click()
    await page.get_by_role("button", name="Undo").click()
    await expect(page.get_by_role("button", name="Leave")).to_be_visible()
    await owner.http.aclose()


@pytest.mark.parametrize(
    "path", ["/comics/{comic}", "/characters/{character}", "/characters/{character}/images"]
)
async def test_a_cold_page_of_a_comic_or_a_character_is_light(
    seen: Watched, furnished: Furnished, path: str
) -> None:
    character = await drawn(seen.page, "Axel", furnished)
    comic = await begun(seen.page, "Light")
    await seen.page.goto(path.format(comic=comic["id"], character=character["id"]))
    await settled(seen.page)
    weight = await seen.page.evaluate(WEIGH)
    assert weight["bytes"] <= BYTES_LIMIT
    assert len(weight["names"]) <= REQUESTS_LIMIT, weight["names"]


async def test_the_list_tells_of_each_comic_and_its_cast(new_page: NewPage, furnished: Furnished) -> None:
    async with new_page() as seen:
        page = seen.page
        made = await begun(page, "Signal Fire")
        await page.goto("/comics")
        await settled(page)
        await expect(page.get_by_role("link", name="Signal Fire")).to_contain_text("1 chapter · 0 panels")
        await no_violations_anywhere(page, "comics")
        await page.goto(f"/comics/project/{made['id']}/character")
        await expect(page.get_by_text("Nobody here yet")).to_be_visible()
        await page.get_by_role("link", name="Make the first character").click()
        await expect(page.locator("[name=project_id]")).to_have_value(made["id"])
        await page.goto("/comics")
        await settled(page)
        await page.get_by_role("button", name="Delete Signal Fire").click()
        await expect(page.get_by_role("link", name="Signal Fire")).to_be_hidden()
        await page.goto("/jobs")  # leaving makes it so at once
        await gone(page, f"/v1/comics/{made['id']}")


async def panel_of(page: Page, comic: dict[str, Any]) -> dict[str, Any]:
    """A new one of the first chapter, once it is drawn."""
    path = f"/v1/comics/chapters/{comic['chapters'][0]['id']}/panels"
    body = {"prompt": "a gull", "enhance": False}
    answer = await page.request.post(path, data=body, headers={"Prefer": "wait=30"})
    return dict(await answer.json())
