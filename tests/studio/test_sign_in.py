"""Signing in and out in a browser, beside a Supabase project."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest_asyncio
from playwright.async_api import Browser, Page, expect

from gateway.auth.sessions import COOKIE
from tests.studio.test_shell import no_violations_anywhere, settled
from tests.support.browser import Watched, watched
from tests.support.project import Project, project_of


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def project(new_database: Callable[[], str], new_folder: Callable[[], Path]) -> AsyncIterator[Project]:
    async with project_of(new_database(), new_folder()) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="session")
async def visitor(browser: Browser, project: Project) -> AsyncIterator[Watched]:
    """A browser that is nobody yet."""
    async with watched(browser, project.url) as seen:
        yield seen


async def test_a_wrong_password_is_told_in_words_and_keeps_the_address(
    visitor: Watched, project: Project
) -> None:
    visitor.allowed = {401}
    await visitor.page.goto("/jobs?status=failed")
    await sign_in(visitor.page, project.user.email, "wrong")
    await expect(visitor.page.get_by_role("alert")).to_contain_text("password")
    await expect(visitor.page.get_by_label("E-mail")).to_have_value(project.user.email)
    await no_violations_anywhere(visitor.page, "a refused sign-in")


async def test_a_password_sent_before_the_script_is_there_goes_nowhere(
    browser: Browser, project: Project
) -> None:
    async with await browser.new_context(base_url=project.url, java_script_enabled=False) as context:
        page = await context.new_page()
        await page.goto("/jobs")
        gate = page.url
        await page.get_by_label("E-mail").fill(project.user.email)
        await page.get_by_label("Password").fill(project.user.password)
        await page.get_by_role("button", name="Sign in", exact=True).click()
        await expect(page.get_by_label("Password")).to_have_value(project.user.password)
        assert page.url == gate


async def test_the_gate_is_for_everybody(visitor: Watched) -> None:
    page = visitor.page
    await page.goto("/generate")
    await settled(page)
    await no_violations_anywhere(page, "gate")


async def test_a_password_leads_to_the_page_that_was_wanted_and_out_again(
    visitor: Watched, project: Project
) -> None:
    page = visitor.page
    await page.goto("/jobs?status=failed")
    await sign_in(page, project.user.email, project.user.password)
    await expect(page.get_by_role("heading", name="Jobs")).to_be_visible()
    assert page.url.endswith("/jobs?status=failed")
    await page.goto("/settings")
    await expect(page.get_by_role("region", name="You")).to_contain_text(project.user.email)
    await settled(page)
    await page.get_by_role("button", name="Sign out").click()
    await expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    assert COOKIE not in [cookie.get("name") for cookie in await page.context.cookies()]
    await page.goto("/jobs")
    await expect(page.get_by_role("heading", name="Sign in")).to_be_visible()


async def test_a_link_by_mail_signs_in_the_browser_that_asked(visitor: Watched, project: Project) -> None:
    page = visitor.page
    await page.goto("/?sign_in_error=link_expired")
    await expect(page.get_by_role("alert")).to_contain_text("has expired")
    await page.get_by_label("E-mail").fill(project.user.email)
    await page.get_by_role("button", name="Mail me a link instead").click()
    await expect(page.get_by_text(f"on its way to {project.user.email}")).to_be_visible()
    mail = project.auth.mails[-1]
    await page.goto(f"/auth/callback?code={mail.code}")  # where the link of the mail leads
    await expect(page.get_by_role("heading", name="Generate")).to_be_visible()


async def test_a_session_that_ends_leads_to_the_gate_and_keeps_the_draft(
    visitor: Watched, project: Project
) -> None:
    visitor.allowed = {401}
    page = visitor.page
    await page.goto("/generate")
    await sign_in(page, project.user.email, project.user.password)
    await page.locator("#prompt").fill("half a thought")
    await page.get_by_role("radio", name="Grunge").check(force=True)
    await expect(page.locator("body")).to_have_attribute("data-live", "yes")
    project.rows("delete from private.sessions returning id")
    await page.get_by_role("button", name="Generate").click()
    await expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    await sign_in(page, project.user.email, project.user.password)
    await expect(page.locator("#prompt")).to_have_value("half a thought")
    await expect(page.get_by_role("radio", name="Grunge")).to_be_checked()


async def test_a_page_left_open_notices_that_its_session_has_ended(
    visitor: Watched, project: Project
) -> None:
    visitor.allowed = {401}
    page = visitor.page
    await page.goto("/jobs")
    await sign_in(page, project.user.email, project.user.password)
    await expect(page.locator("body")).to_have_attribute("data-live", "yes")
    project.rows("delete from private.sessions returning id")
    await page.evaluate("dispatchEvent(new Event('pagehide'))")  # the stream is closed …
    await page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")  # … and opened again
    await expect(page.get_by_role("heading", name="Sign in")).to_be_visible()


async def sign_in(page: Page, email: str, password: str) -> None:
    await settled(page)
    await page.get_by_label("E-mail").fill(email)
    await page.get_by_label("Password").fill(password)
    await page.get_by_role("button", name="Sign in", exact=True).click()
