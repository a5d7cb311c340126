"""Keys, webhooks, costs and jobs in a browser."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import pytest_asyncio
from playwright.async_api import Browser, expect
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from gateway.app import create_app
from gateway.embedded import add_user
from tests.studio.conftest import Furnished
from tests.studio.test_shell import no_violations_anywhere, settled
from tests.support.browser import Watched, watched
from tests.support.project import NO_GPU
from tests.support.stack import Stack, free_port, gateway_settings, serve


async def test_a_key_is_made_shown_once_works_and_is_revoked(seen: Watched, studio: Stack) -> None:
    page = seen.page
    await page.goto("/settings")
    await settled(page)
    await page.get_by_role("button", name="New key").click()
    await page.get_by_label("Name", exact=True).fill("nightly build")
    await page.get_by_role("button", name="Make the key").click()
    shown = page.get_by_role("dialog", name="Copy it now")
    key = await shown.locator("[data-part=secret]").inner_text()
    async with httpx.AsyncClient(base_url=studio.url, headers={"Authorization": f"Bearer {key}"}) as http:
        assert (await http.get("/v1/jobs")).status_code == 200
        await shown.get_by_role("button", name="Done").click()
        row = page.locator("#keys tr", has_text="nightly build")
        await expect(row).to_contain_text(key[:6])
        await row.get_by_role("button", name="Revoke").click()
        await expect(row).to_be_hidden()
        await page.goto("/jobs")  # leaving makes it so at once
        async with asyncio.timeout(30):
            while (await http.get("/v1/jobs")).status_code != 401:
                await asyncio.sleep(0.1)


async def test_jobs_are_filtered_looked_into_and_tried_again(seen: Watched, furnished: Furnished) -> None:
    page = seen.page
    await page.goto("/jobs")
    await settled(page)
    await page.get_by_role("navigation", name="Status").get_by_role("link", name="Failed").click()
    await expect(page.locator(f"#job-{furnished.failed}")).to_be_visible()
    await expect(page.locator(f"#job-{furnished.done}")).to_have_count(0)
    await page.locator(f"#job-{furnished.failed}").get_by_role("link").first.click()
    await expect(page.get_by_role("region", name="Error")).to_be_visible()
    await page.goto(f"/jobs/{furnished.done}")
    await expect(page.get_by_role("region", name="Calls")).to_contain_text("image")
    await expect(page.get_by_role("region", name="Events")).to_contain_text("Job completed")


async def test_costs_have_a_table_a_file_and_a_budget(seen: Watched, furnished: Furnished) -> None:
    page = seen.page
    await page.goto("/costs")
    await settled(page)
    await page.get_by_text("The numbers").click()
    await expect(page.get_by_role("row", name="In all")).to_be_visible()
    csv = await page.request.get(str(await page.get_by_role("link", name="CSV").get_attribute("href")))
    assert csv.headers["content-type"].startswith("text/csv")
    await page.get_by_label("Limit in dollars").fill("12.50")
    await page.get_by_role("button", name="Save budget").click()
    await expect(page.locator("#toasts")).to_contain_text("Budget saved")
    assert (await (await page.request.get("/v1/budget")).json())["limit_usd_micros"] == 12_500_000
    await expect(page.get_by_text("of $12.50")).to_be_visible()
    await page.get_by_label("Limit in dollars").fill("")
    await page.get_by_role("button", name="Save budget").click()
    await expect(page.get_by_text("of $12.50")).to_have_count(0)


@pytest_asyncio.fixture(loop_scope="session")
async def telling(new_database: Callable[[], str], new_folder: Callable[[], Path]) -> AsyncIterator[str]:
    """The address of a gateway that may post to this machine."""
    admin_url, port = new_database(), free_port()
    allowed = {"allow_private_urls": True, "local_user_id": str(add_user(admin_url, "you@localhost"))}
    async with serve(
        create_app(gateway_settings(admin_url, new_folder(), port, NO_GPU, **allowed)), port
    ) as url:
        yield url


async def test_a_webhook_is_made_tried_seen_in_its_log_and_sent_again(telling: str, browser: Browser) -> None:
    told: list[bytes] = []

    async def take(request: Request) -> Response:
        told.append(await request.body())
        return PlainTextResponse("thanks", 202)

    receiver = Starlette(routes=[Route("/{path:path}", take, methods=["POST"])])
    async with serve(receiver) as address, watched(browser, telling) as seen:
        page = seen.page
        await page.goto("/settings")
        await expect(page.get_by_role("heading", name="Settings")).to_be_visible()
        await settled(page)
        await page.get_by_role("button", name="New endpoint").click()
        await page.get_by_label("Address").fill(f"{address}/hooks")
        await page.get_by_label("What it is for").fill("the shop")
        await page.get_by_role("button", name="Add the endpoint").click()
        secret = page.get_by_role("dialog", name="Copy it now")
        await expect(secret.locator("[data-part=secret]")).to_contain_text("whsec_")
        await secret.get_by_role("button", name="Done").click()

        await page.get_by_role("link", name=f"{address}/hooks").click()
        await settled(page)
        await expect(page.get_by_role("heading", name="Nothing was sent")).to_be_visible()
        await page.get_by_role("button", name="Send a test").click()
        rows = page.locator("#log tbody tr")
        await expect(rows.first).to_contain_text("Delivered")
        await expect(rows.first).to_contain_text("202")
        assert b"test" in told[0]
        await rows.first.get_by_role("button", name="Redeliver").press("Enter")
        async with asyncio.timeout(30):
            while len(told) < 2:
                await asyncio.sleep(0.05)
        await expect(rows.first).to_contain_text("Delivered")
        assert told[0] == told[1]
        await expect(rows.nth(1).get_by_role("button", name="Redeliver")).to_be_focused()
        await no_violations_anywhere(page, "webhook")

        await page.get_by_role("button", name="Turn off").click()
        await expect(page.get_by_role("button", name="Turn on")).to_be_visible()
        await page.goto("/settings")
        await expect(page.get_by_role("row", name="the shop")).to_contain_text("Off")
