"""Pages without a browser: who sees them, what they are made of, and what users' words become in them."""

import json
import re
from collections.abc import AsyncIterator
from html.parser import HTMLParser
from typing import Any

import httpx
import pytest
import pytest_asyncio

from gateway.studio import assets, charts, recall, words
from gateway.studio.rendering import ENVIRONMENT
from tests.support.stack import Stack

PAGES = ["/generate", "/characters", "/characters/new", "/comics", "/jobs", "/costs", "/settings"]
EVIL = "<script>alert('1')</script> \"quoted\" & 'half"
JOB: dict[str, Any] = {
    **{"id": "0f0f0f0f-0000-4000-8000-000000000000", "status": "completed", "stage": None, "task": "image"},
    **{"step": 0, "steps": 0, "queue_position": None, "model": "instant", "style": None, "error": None},
    "prompt": {"input": EVIL, "enhanced": None, "final": EVIL, "negative": None, "enhance_status": "off"},
    "params": {"width": 1024, "height": 1024, "seed": 7, "num_images": 1, "references": [], "loras": []},
    "images": [
        {
            **{"id": "1f0f0f0f-0000-4000-8000-000000000000", "url": "/images/1.png", "seed": 7},
            **{"thumbnail_url": "/images/1/thumbnail.webp", "width": 1024, "height": 1024},
        }
    ],
    "cost": {"estimated_usd_micros": 10, "usd_micros": 14},
    "timing": {"total_ms": 1234, "queue_ms": 4, "gpu_ms": 1000},
    "created_at": "2026-11-20T10:00:00Z",
    "metadata": {},
}


class Reader(HTMLParser):
    """Elements by name, with their attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


@pytest_asyncio.fixture(loop_scope="session")
async def visitor(studio: Stack) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=studio.url, timeout=60) as http:
        yield http


@pytest_asyncio.fixture(loop_scope="session")
async def signed_in(visitor: httpx.AsyncClient) -> httpx.AsyncClient:
    assert (await visitor.post("/v1/session", json={})).status_code == 200
    return visitor


@pytest.mark.parametrize("path", ["/", *PAGES, "/jobs/nothing"])
async def test_whoever_is_not_signed_in_sees_the_gate_and_nothing_else(
    visitor: httpx.AsyncClient, path: str
) -> None:
    page = await visitor.get(path)
    assert page.status_code == 200
    assert 'data-page="gate"' in page.text
    assert "data-row" not in page.text


@pytest.mark.parametrize("path", PAGES)
async def test_pages_run_nothing_but_files_of_their_own(signed_in: httpx.AsyncClient, path: str) -> None:
    page = await signed_in.get(path)
    assert page.status_code == 200
    assert "default-src 'self'" in page.headers["content-security-policy"]
    assert page.headers["cache-control"] == "no-store"
    assert page.headers["content-encoding"] == "gzip"
    read = Reader(page.text)
    assert all(script.get("src", "").startswith("/studio/") for script in read.all("script"))  # type: ignore[union-attr]
    for tag, attributes in read.found:
        assert "style" not in attributes, tag
        assert not [name for name in attributes if name.startswith("on")], tag
    assert not read.all("style")


@pytest.mark.parametrize("path", PAGES)
async def test_every_control_has_a_name(signed_in: httpx.AsyncClient, path: str) -> None:
    text = (await signed_in.get(path)).text
    for button in re.findall(r"<button.*?</button>", text, re.DOTALL):
        named = re.search(r'aria-label="[^"]+"', button) or re.sub(r"<[^>]+>|\s", "", button)
        assert named, button


async def test_another_users_job_and_none_are_the_same_page(
    signed_in: httpx.AsyncClient, studio: Stack
) -> None:
    theirs = (await studio.user.create(wait=30, prompt="not yours"))["id"]
    answers = [await signed_in.get(f"/jobs/{job}") for job in (theirs, JOB["id"], "nothing")]
    assert [answer.status_code for answer in answers] == [404, 404, 404]
    assert all("not yours" not in answer.text for answer in answers)


async def test_a_cookie_is_all_that_a_page_takes_along(visitor: httpx.AsyncClient, studio: Stack) -> None:
    page = await visitor.get("/jobs", headers={"Authorization": f"Bearer {studio.user.key}"})
    assert 'data-page="gate"' in page.text


async def test_assets_are_kept_for_ever_and_change_their_address(visitor: httpx.AsyncClient) -> None:
    found = await visitor.get(assets.address("app.js"))
    assert "immutable" in found.headers["cache-control"]
    assert found.headers["content-encoding"] == "gzip"
    other = await visitor.get("/studio/000000000000/app.js")
    assert other.headers["cache-control"] == "no-cache"
    assert other.text == found.text
    plain = await visitor.get(assets.address("app.js"), headers={"Accept-Encoding": "identity"})
    assert plain.content == assets.ASSETS["app.js"].content
    assert (await visitor.get("/studio/000000000000/nothing.js")).status_code == 404


async def test_a_job_fills_the_form_with_its_request(signed_in: httpx.AsyncClient) -> None:
    body = {"prompt": EVIL, "style": "design/anime", "size": "landscape", "seed": 77}
    job = (await signed_in.post("/v1/jobs", json=body, headers={"Prefer": "wait=30"}, timeout=40)).json()
    all_of_it = Reader((await signed_in.get("/generate", params={"from": job["id"]})).text)
    checked = {field["name"]: field["value"] for field in all_of_it.all("input") if "checked" in field}
    assert (checked["style"], checked["size"]) == ("design/anime", "landscape")
    seed = next(field for field in all_of_it.all("input") if field.get("name") == "seed")
    assert seed["value"] == "77"
    prompt = Reader((await signed_in.get(f"/generate?from={job['id']}&what=prompt")).text)
    checked = {field["name"]: field["value"] for field in prompt.all("input") if "checked" in field}
    assert (checked["style"], checked["size"]) == ("", "square")


async def test_filters_are_addresses(signed_in: httpx.AsyncClient) -> None:
    body = {"prompt": "a filtered picture", "style": "design/grunge"}
    await signed_in.post("/v1/jobs", json=body, headers={"Prefer": "wait=30"}, timeout=40)
    found = await signed_in.get("/jobs?status=completed&style=design/grunge")
    assert "a filtered picture" in found.text
    none = await signed_in.get("/jobs?status=failed&style=design/grunge")
    assert "No job matches" in none.text


@pytest.mark.parametrize("part", ["row", "card", "result"])
@pytest.mark.parametrize("status", ["completed", "failed", "canceled", "processing"])
def test_words_of_users_stay_words(part: str, status: str) -> None:
    job = {**JOB, "status": status}
    if status != "completed":
        job |= {"images": [], "error": {"code": "x", "message": EVIL} if status == "failed" else None}
    html = ENVIRONMENT.get_template(f"part_{part}.html").render(job=job, here=lambda url: url)
    assert "<script" not in html
    assert "&amp;lt;" not in html, "escaped twice"
    if status == "completed":
        assert "&lt;script&gt;" in html


def test_a_body_survives_its_attribute() -> None:
    html = ENVIRONMENT.get_template("part_result.html").render(job=JOB, here=lambda url: url)
    shown = [button for button in Reader(html).all("button") if button.get("data-do") == "api-call"]
    bodies = [button["data-body"] for button in shown]
    assert [json.loads(body or "")["prompt"] for body in bodies] == [EVIL]


def test_a_request_can_be_made_again_from_its_job() -> None:
    assert recall.request_of(JOB) == {"prompt": EVIL, "model": "instant", "size": "square", "seed": 7}
    odd = {**JOB, "params": {**JOB["params"], "width": 640, "num_images": 2}}
    assert recall.request_of(odd) == {
        **{"prompt": EVIL, "model": "instant", "size": "640x1024", "seed": 7, "num_images": 2}
    }


def test_a_mask_is_named_apart_in_a_request_and_lies_on_the_picture_before() -> None:
    under = {"role": "init", "image_id": "1f0f0f0f-0000-4000-8000-000000000000"}
    mask = {"role": "mask", "upload_id": "2f0f0f0f-0000-4000-8000-000000000000"}
    job = {**JOB, "params": {**JOB["params"], "references": [under, mask]}}
    asked = recall.request_of(job)
    assert (asked["references"], asked["mask"]) == ([under], {"upload_id": mask["upload_id"]})
    assert recall.before_of(job) == f"/v1/images/{under['image_id']}/content"
    varied = {**job, "params": {**job["params"], "variation_of": "3f"}}
    assert recall.before_of(varied) == "/v1/images/3f/content"
    look = {**job, "params": {**job["params"], "references": [{**under, "role": "style"}]}}
    assert recall.before_of(look) is None, "a look is not what a picture was before"


@pytest.mark.parametrize(
    "micros, shown",
    {0: "$0.00", 14: "$0.000014", 4_300: "$0.0043", 1_840_000: "$1.84", 12_345_678_901: "$12,345.68"}.items(),
)
def test_money_has_as_many_digits_as_it_needs(micros: int, shown: str) -> None:
    assert words.money(micros) == shown


@pytest.mark.parametrize("micros, top", {0: 4, 4: 4, 5: 8, 15: 20, 161: 200, 1_840_000: 2_000_000}.items())
def test_a_scale_divides_by_its_lines(micros: int, top: int) -> None:
    assert charts.ceiling(micros) == top


def test_a_day_without_a_call_is_a_bar_of_no_height() -> None:
    report = {"to": "2026-11-20T12:00:00Z", "data": [{"key": "2026-11-19", "cost_usd_micros": 4000}]}
    bars = charts.per_day(report, 7).bars
    assert [bar.height > 0 for bar in bars] == [False, False, False, False, False, True, False]
    assert bars[5].title == "19 Nov: $0.0040"
    assert all(bar.y >= 0 and bar.x + bar.width <= charts.WIDTH for bar in bars)
