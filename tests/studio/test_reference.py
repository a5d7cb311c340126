"""The reference at ``/docs``: whole, readable on a phone, and of this machine alone."""

import httpx
import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser

from tests.support.browser import watched
from tests.support.stack import Stack


async def test_every_operation_is_there_under_its_name(studio: Stack) -> None:
    async with httpx.AsyncClient(base_url=studio.url, timeout=70) as http:
        document = (await http.get("/openapi.json")).json()
        page = await http.get("/docs")
        plain = await http.get("/docs", headers={"Accept-Encoding": "identity"})
    assert page.text == plain.text
    assert "script" not in page.headers["content-security-policy"] and "<script" not in page.text
    for operations in document["paths"].values():
        for operation in operations.values():
            assert f'<article id="{operation["operationId"]}">' in page.text
    for name in document["components"]["schemas"]:
        if f'href="#object-{name}"' in page.text:
            assert f'id="object-{name}"' in page.text


@pytest.mark.parametrize(("width", "scheme"), [(1280, "dark"), (390, "light")])
async def test_nothing_overflows_and_axe_finds_nothing(
    studio: Stack, browser: Browser, width: int, scheme: str
) -> None:
    viewport = {"width": width, "height": 844}
    async with watched(browser, studio.url, viewport=viewport, color_scheme=scheme) as seen:
        await seen.page.goto("/docs#create_job")
        assert await seen.page.get_by_role("heading", name="Draw something").is_visible()
        assert await seen.page.evaluate("document.documentElement.scrollWidth") == width
        found = await Axe().run(seen.page, context="header, #create_job, #errors")
        assert found.response["violations"] == [], found.generate_report()
