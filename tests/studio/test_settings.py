"""Keys, webhooks, costs and jobs in a browser."""

import asyncio

import httpx
from playwright.async_api import expect

from tests.studio.conftest import Furnished
from tests.studio.test_shell import settled
from tests.support.browser import Watched
from tests.support.stack import Stack


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
        async with asyncio.timeout(10):
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
