"""What a page outlives: a gateway that dies under it, two behind one address, and a thousand pictures."""

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
from playwright.async_api import Browser, expect

from gateway.app import create_app
from gateway.embedded import add_user
from tests.studio.conftest import Furnished
from tests.studio.test_generate import studio_job
from tests.studio.test_shell import settled
from tests.support.balancer import balancer
from tests.support.browser import Watched, watched
from tests.support.faults import killable, restart
from tests.support.stack import free_port, gateway_settings, serve, stack

SLOW_GPU = {"GPU_MODELS": "instant", "INSTANT_SECONDS": "4"}
TILES = 1000
LONG_TASK_MS = 2000
"""Of one task while a thousand pictures scroll by; 200 on a machine that does nothing else."""
MANY = """(count) => {
  const list = document.getElementById("recent");
  const first = list.firstElementChild;
  const address = first.querySelector("img").getAttribute("src");
  for (let n = 0; n < count; n++) {
    const tile = first.cloneNode(true);
    tile.querySelector("img").setAttribute("src", `${address}?size=128&n=${n}`);
    list.append(tile);
  }
}"""
WATCH_TASKS = """() => {
  window.longest = 0;
  const observer = new PerformanceObserver((list) => {
    for (const one of list.getEntries()) window.longest = Math.max(window.longest, one.duration);
  });
  observer.observe({type: "longtask"});
}"""


async def test_a_killed_gateway_costs_neither_the_draft_nor_the_picture(
    new_database: Callable[[], str], new_folder: Callable[[], Path], browser: Browser
) -> None:
    admin_url = new_database()
    local_user = str(add_user(admin_url, "you@localhost"))
    async with (
        killable(admin_url, new_folder(), gpu=SLOW_GPU, LOCAL_USER_ID=local_user) as product,
        watched(browser, product.url) as seen,
    ):
        seen.interrupted = True
        page = seen.page
        await page.goto("/generate")
        await settled(page)
        await page.locator("#prompt").fill("drawn through a crash")
        await page.get_by_role("button", name="Generate").click()
        await expect(page.get_by_text("Generating your design…")).to_be_visible()
        other = await page.context.new_page()
        await other.goto("/jobs")
        await expect(other.locator("body")).to_have_attribute("data-live", "yes")

        product.gateway.kill()
        await expect(page.get_by_text("Connection lost")).to_be_visible()
        await page.locator("#prompt").fill("typed while nobody listened")
        await restart(product.gateway)
        async with httpx.AsyncClient(
            base_url=product.url, timeout=60
        ) as http:  # before the list listens again
            (await http.post("/v1/session", json={})).raise_for_status()
            (await http.post("/v1/jobs", json={"prompt": "asked meanwhile"})).raise_for_status()

        await expect(page.locator("#shots img")).to_be_visible(timeout=40_000)
        await expect(page.locator("#prompt")).to_have_value("typed while nobody listened")
        await expect(page.get_by_text("Connection lost")).to_be_hidden()
        assert (await studio_job(page))["prompt"]["input"] == "drawn through a crash"
        await expect(other.get_by_role("link", name="asked meanwhile")).to_be_visible(timeout=40_000)
        await expect(other.get_by_role("row", name="drawn through a crash").locator(".status")).to_have_text(
            "Done", timeout=40_000
        )
        await page.reload()
        await expect(page.locator("#prompt")).to_have_value("typed while nobody listened")


async def test_two_gateways_behind_one_address_are_one_studio(
    new_database: Callable[[], str], new_folder: Callable[[], Path], browser: Browser
) -> None:
    admin_url, folder, port, second_port = new_database(), new_folder(), free_port(), free_port()
    same = {
        "default_model": "instant",
        "local_user_id": str(add_user(admin_url, "you@localhost")),
        "site_url": f"http://127.0.0.1:{port}",
    }
    gpu = {"GPU_MODELS": "instant", "INSTANT_SECONDS": "0.3"}
    async with stack(admin_url, folder, gpu=gpu, **same) as first, balancer(port) as balanced:
        second = create_app(gateway_settings(admin_url, folder, second_port, first.gpu.url, **same))
        async with serve(second, second_port) as url:
            balanced.gateways = (first.url, url)
            async with watched(browser, same["site_url"]) as seen:
                await seen.page.goto("/generate")
                await expect(seen.page.locator("body[data-live=yes] #desk")).to_be_attached()
                await seen.page.evaluate("window.kept = true")
                for n in range(4):
                    await seen.page.locator("#prompt").fill(f"either draws it, {n}")
                    await seen.page.get_by_role("button", name="Generate").click()
                    await expect(seen.page.locator("#shots img")).to_have_attribute(
                        "alt", f"either draws it, {n}"
                    )
                await expect(seen.page.locator("#recent li")).to_have_count(4)
                assert await seen.page.evaluate("window.kept"), "the page was loaded anew"
                await seen.page.goto("/jobs")
                await expect(seen.page.locator("#jobs .status[data-status=completed]")).to_have_count(4)
            assert min(balanced.served[first.url], balanced.served[url]) > 5, balanced.served


async def test_a_thousand_pictures_scroll_smoothly_and_load_when_they_come_near(
    seen: Watched, furnished: Furnished
) -> None:
    page = seen.page
    await page.goto("/generate")
    await settled(page)
    await page.evaluate(WATCH_TASKS)
    await page.evaluate(MANY, TILES)
    await page.wait_for_timeout(500)
    asked = fetched(seen)
    assert len(asked) < TILES / 4, "pictures far below are fetched"
    await page.mouse.move(900, 500)
    for _ in range(20):
        await page.mouse.wheel(0, 700)
        await page.wait_for_timeout(30)
    async with asyncio.timeout(30):
        while await page.evaluate("scrollY") <= 5000 or len(loaded := fetched(seen)) <= len(asked):
            await page.wait_for_timeout(50)
    longest = await page.evaluate("window.longest")
    told = f"longest task {longest:.0f} ms; {len(asked)} pictures at first, {len(loaded)} after scrolling"
    sys.stdout.write(f"{told}\n")
    assert longest < LONG_TASK_MS, told


def fetched(seen: Watched) -> list[str]:
    """Of the thousand pictures."""
    return [url for url in seen.requests if "&n=" in url]
