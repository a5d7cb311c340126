"""What holds for every page: accessible, light, of its own files alone, and usable by the keyboard."""

from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Literal

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Page, expect

from tests.studio.conftest import Furnished, NewPage
from tests.support.browser import Watched

TEMPLATES = Path(__file__).parents[2] / "gateway/studio/templates"
PAGES = ["/generate", "/generate?job={done}", "/generate?job={failed}", "/jobs", "/jobs/{failed}", "/costs"]
PAGES += ["/costs?by=model", "/settings"]
THEMES: tuple[Literal["light"], Literal["dark"]] = ("light", "dark")
WIDTHS = [390, 1280]
BYTES_LIMIT, REQUESTS_LIMIT, USABLE_MS = 150_000, 10, 3000
"""Of a cold page without its pictures; usable within a second on a machine that does nothing else."""
WEIGH = """() => {
  const all = [...performance.getEntriesByType("navigation"), ...performance.getEntriesByType("resource")];
  const own = all.filter((one) => !["img", "fetch", "eventsource", "other"].includes(one.initiatorType));
  return {bytes: own.reduce((sum, one) => sum + one.decodedBodySize, 0), names: own.map((one) => one.name)};
}"""
OVERFLOW = """Math.max(document.documentElement.scrollWidth - innerWidth,
  ...[...document.querySelectorAll("dialog[open]")].map((one) => one.scrollWidth - one.clientWidth))"""


class _Forms(HTMLParser):
    """Those of a page that stand in no dialog."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[dict[str, str | None]] = []
        self._dialogs = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._dialogs += tag == "dialog"
        if tag == "form" and not self._dialogs:
            self.found.append(dict(attrs))

    def handle_endtag(self, tag: str) -> None:
        self._dialogs -= tag == "dialog"


def test_no_form_sends_its_words_by_itself_before_the_script_is_there() -> None:
    forms = _Forms()
    for template in sorted(TEMPLATES.glob("*.html")):
        forms.feed(template.read_text())
    assert len(forms.found) > 5
    assert [form for form in forms.found if form.get("method") != "dialog" and "action" not in form] == []


async def settled(page: Page) -> None:
    await expect(page.locator("body[data-ready] #main")).to_be_attached()


async def begun(page: Page, name: str) -> dict[str, Any]:
    """A new comic, as the API shows it."""
    answer = await page.request.post("/v1/comics", data={"name": name})
    return dict(await answer.json())


@pytest.mark.parametrize("path", PAGES)
async def test_axe_finds_nothing_and_nothing_overflows(
    new_page: NewPage, furnished: Furnished, path: str
) -> None:
    async with new_page() as seen:
        await seen.page.goto(path.format(done=furnished.done, failed=furnished.failed))
        await settled(seen.page)
        await no_violations_anywhere(seen.page, path)
        await seen.page.set_viewport_size({"width": 2560, "height": 1300})
        assert await seen.page.evaluate(OVERFLOW) <= 0, (path, 2560)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/settings", "help"),
        ("/settings", "new-key"),
        ("/settings", "new-webhook"),
        ("/settings", "secret"),
        ("/generate", "template-dialog"),
        ("/comics", "new-comic"),
        ("/comics/{comic}", "add-chapter"),
        ("/comics/{comic}", "rename-chapter"),
    ],
)
async def test_axe_finds_nothing_in_an_open_dialog(page: Page, path: str, name: str) -> None:
    comic = await begun(page, "Night Watch")
    await page.goto(path.format(comic=comic["id"]))
    await settled(page)
    await page.evaluate("(id) => document.getElementById(id).showModal()", name)
    await no_violations_anywhere(page, name)


async def test_axe_finds_nothing_in_what_a_result_opens(page: Page, furnished: Furnished) -> None:
    await page.goto(f"/generate?job={furnished.done}")
    await settled(page)
    for opener, name in [
        ("Repaint a part", "Paint what is drawn anew"),
        ("On a product", "On a product"),
        ("As API call", "As API call"),
    ]:
        button = page.get_by_role("button", name=opener).first
        await button.click()
        dialog = page.get_by_role("dialog", name=name)
        await expect(dialog).to_be_visible()
        await no_violations_anywhere(page, name)
        await page.keyboard.press("Escape")
        await expect(dialog).to_be_hidden()
        await expect(button).to_be_focused()


@pytest.mark.parametrize("path", PAGES)
async def test_a_cold_page_is_light(seen: Watched, furnished: Furnished, path: str) -> None:
    await seen.page.goto(path.format(done=furnished.done, failed=furnished.failed))
    await settled(seen.page)
    weight = await seen.page.evaluate(WEIGH)
    assert weight["bytes"] <= BYTES_LIMIT
    assert len(weight["names"]) <= REQUESTS_LIMIT, weight["names"]
    assert (
        await seen.page.evaluate("performance.getEntriesByType('navigation')[0].domInteractive") < USABLE_MS
    )


async def test_a_new_browser_on_this_machine_is_signed_in_where_it_wanted_to_go(seen: Watched) -> None:
    await seen.page.context.clear_cookies()
    await seen.page.goto("/costs?days=7")
    await expect(seen.page.get_by_role("heading", name="Costs")).to_be_visible()
    assert seen.page.url.endswith("/costs?days=7")


async def test_signing_out_leads_to_the_gate(new_page: NewPage) -> None:
    async with new_page() as seen:
        await seen.page.context.clear_cookies()
        await seen.page.goto("/settings")
        await seen.page.get_by_role("button", name="Sign out").click()
        await expect(seen.page.locator("#desk, [data-page=gate]")).to_be_attached()


async def test_the_theme_is_kept_and_known_to_the_server(page: Page) -> None:
    await page.goto("/settings")
    await page.get_by_text("Light", exact=True).click()
    await expect(page.locator("body")).to_have_css("background-color", "rgb(246, 245, 242)")
    await page.goto("/jobs")
    assert await page.locator("html").get_attribute("data-theme") == "light"
    await page.keyboard.press("t")
    await expect(page.locator("body")).to_have_css("background-color", "rgb(18, 18, 17)")


async def test_shortcuts_open_their_sheet_and_lead_to_pages_but_not_while_typing(page: Page) -> None:
    await page.goto("/costs")
    await settled(page)
    await page.keyboard.press("?")
    sheet = page.get_by_role("dialog", name="Shortcuts")
    await expect(sheet.get_by_text("Go to the prompt")).to_be_visible()
    await page.keyboard.press("Escape")
    await expect(sheet).to_be_hidden()
    await page.keyboard.press("j")
    await page.wait_for_url("**/jobs")
    await settled(page)
    await page.keyboard.press("n")
    await page.wait_for_url("**/generate")
    await settled(page)
    await page.locator("#prompt").fill("")
    await page.keyboard.type("jct?")
    assert await page.locator("#prompt").input_value() == "jct?"


async def test_a_picture_is_drawn_looked_at_and_closed_without_a_mouse(page: Page) -> None:
    await page.goto("/jobs")
    await settled(page)
    await page.keyboard.press("Tab")
    assert await page.evaluate("document.activeElement.textContent") == "Skip to the page"
    await page.keyboard.press("/")
    await page.wait_for_url("**/generate")
    await settled(page)
    await page.locator("#prompt").focus()
    await page.keyboard.type("a paper boat")
    await page.keyboard.press("Control+Enter")
    picture = page.locator("#shots a")
    await expect(picture).to_be_visible()
    assert await page.evaluate("document.activeElement.id") == "prompt", "the result took the focus"
    await expect(page.locator("#live")).to_have_text("Picture ready")
    await tab_to(page, "#shots a")
    assert await page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    await page.keyboard.press("Enter")
    viewer = page.get_by_role("dialog", name="Picture")
    await expect(viewer).to_be_visible()
    await page.keyboard.press("ArrowRight")
    await page.keyboard.press("Escape")
    await expect(viewer).to_be_hidden()
    await expect(picture).to_be_focused()


@pytest.mark.parametrize("path", ["/jobs/nothing", "/settings/webhooks/nothing"])
async def test_an_address_of_nothing_is_a_page_that_says_so(seen: Watched, path: str) -> None:
    seen.allowed = {404}
    await seen.page.goto(path)
    await expect(seen.page.get_by_role("link", name="To the studio")).to_be_visible()
    await no_violations(seen.page, path)


async def no_violations(page: Page, where: str) -> None:
    results = await Axe().run(page)
    found: list[dict[str, Any]] = results.response["violations"]
    told = [(each["id"], [node["html"][:160] for node in each["nodes"]]) for each in found]
    assert not told, (where, told)


async def no_violations_anywhere(page: Page, where: str) -> None:
    """Nor is anything wider than the window: in both themes, on a phone and on a desk."""
    before = page.viewport_size
    for theme in THEMES:
        # A colour on its way from one theme to the other has the contrast of neither.
        await page.emulate_media(color_scheme=theme, reduced_motion="reduce")
        for width in WIDTHS:
            await page.set_viewport_size({"width": width, "height": 844})
            await no_violations(page, f"{where} {theme} {width}")
            assert await page.evaluate(OVERFLOW) <= 0, (where, width)
    await page.emulate_media(reduced_motion="no-preference")
    if before:
        await page.set_viewport_size(before)


async def tab_to(page: Page, selector: str, limit: int = 60) -> None:
    for _ in range(limit):
        await page.keyboard.press("Tab")
        if await page.evaluate("(selector) => document.activeElement.matches(selector)", selector):
            return
    raise AssertionError(f"{selector} is not reached by the Tab key")
