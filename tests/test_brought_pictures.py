"""Jobs that draw from pictures that users bring: an upload, or an address that only the gateway visits."""

import io
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest_asyncio
from fastapi import FastAPI, Request, Response
from PIL import Image, ImageChops

from tests.gateway.test_uploads import as_principal
from tests.judge import judge
from tests.support.faults import eventually
from tests.support.stack import Stack, User, serve, stack

RED = "a red round creature with a blue hat, front view, on a beach"
GREEN = {"prompt": "make the creature green", "size": "384x384"}


class Site:
    """Somebody's web site with one picture; remembers who came."""

    def __init__(self) -> None:
        self.picture = b""
        self.visits: list[str] = []
        self.app = FastAPI()
        self.app.get("/{path:path}")(self._serve)
        self.url = ""

    async def _serve(self, path: str, request: Request) -> Response:
        self.visits.append(path)
        if path != "red.png":
            return Response(b"no picture here", 200 if path == "text.png" else 404)
        return Response(self.picture, media_type="image/png")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def studio(new_database: Callable[[], str], new_folder: Callable[[], Path]) -> AsyncIterator[Stack]:
    models = {"GPU_MODELS": "tiny-qwen,tiny-qwen-edit", "GPU_PRELOAD": "tiny-qwen-edit"}
    async with stack(new_database(), new_folder(), gpu=models, allow_private_urls=True) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def red(studio: Stack) -> bytes:
    """A picture as a file on the user's own disk."""
    job = await studio.user.create(prompt=RED, seed=7, size="384x384", wait=60)
    return (await studio.user.http.get(f"/v1/images/{job['images'][0]['id']}/content")).content


@pytest_asyncio.fixture(loop_scope="session")
async def site(red: bytes) -> AsyncIterator[Site]:
    site = Site()
    site.picture = red
    async with serve(site.app) as url:
        site.url = url
        yield site


async def announce(user: User, content: bytes) -> dict[str, Any]:
    body = {"filename": "red.png", "content_type": "image/png", "bytes": len(content)}
    return dict((await user.http.post("/v1/uploads", json=body)).json())


async def refused(user: User, **body: Any) -> dict[str, Any]:
    answer = await user.http.post("/v1/jobs", json={**GREEN, **body})
    assert answer.status_code >= 400, answer.text
    return {"status": answer.status_code, **answer.json()}


async def pixels(user: User, job: dict[str, Any]) -> Image.Image:
    assert (job["status"], job["model"]) == ("completed", "tiny-qwen-edit"), job["error"]
    content = await user.http.get(f"/v1/images/{job['images'][0]['id']}/content")
    return Image.open(io.BytesIO(content.content)).convert("RGB")


async def test_a_picture_has_exactly_one_name(studio: Stack) -> None:
    some = str(uuid4())
    for use in (
        {},
        {"image_id": None},
        {"image_id": some, "upload_id": some},
        {"upload_id": some, "url": "https://example.com/a.png"},
        {"upload_id": some, "kept_as": some},
        {"url": "no address"},
        {"url": ""},
        {"url": "https://example.com/\x00"},
    ):
        problem = await refused(studio.user, references=[use])
        assert (problem["status"], problem["code"]) == (422, "validation_failed"), use
        mask = await refused(studio.user, references=[{"image_id": some}], mask=use)
        assert (mask["status"], mask["code"]) == (422, "validation_failed"), use


async def test_an_upload_of_somebody_else_is_like_one_that_does_not_exist(studio: Stack, red: bytes) -> None:
    stranger, upload_id = studio.new_user(), await studio.user.upload(red)
    answers = [await refused(stranger, references=[{"upload_id": i}]) for i in (upload_id, str(uuid4()))]
    assert [(a["status"], a["code"]) for a in answers] == [(404, "not_found")] * 2
    own = await stranger.upload(red)
    answers = [
        await refused(stranger, references=[{"upload_id": own}], mask={"upload_id": i})
        for i in (upload_id, str(uuid4()))
    ]
    assert [(a["status"], a["code"]) for a in answers] == [(404, "not_found")] * 2


async def test_an_upload_that_is_not_complete_is_told_so(studio: Stack, red: bytes) -> None:
    ticket = await announce(studio.user, red)
    problem = await refused(studio.user, references=[{"upload_id": ticket["upload_id"]}])
    assert (problem["status"], problem["code"]) == (409, "upload_not_ready")


async def test_an_address_without_a_picture_makes_no_job_and_leaves_nothing(
    studio: Stack, site: Site
) -> None:
    user = studio.new_user()
    good = {"url": f"{site.url}/red.png"}
    for bad, code in (
        (f"{site.url}/missing.png", "url_unreachable"),
        (f"{site.url}/text.png", "not_a_picture"),
        ("file:///etc/passwd", "url_refused"),
        ("http://user:word@127.0.0.1/", "url_refused"),
    ):
        problem = await refused(user, references=[good, {"url": bad}])
        assert (problem["status"], problem["code"]) == (400, code)
        assert problem["error"]["param"] == "references.1.url"
    assert not studio.rows("select from public.generation_jobs where user_id = %s", user.id)
    assert not studio.rows("select from public.uploads where user_id = %s and deleted_at is null", user.id)
    assert not [key for key in studio.objects("uploads") if key.startswith(f"{user.id}/")]


async def test_nothing_is_fetched_for_a_job_that_is_refused_anyway(studio: Stack, site: Site) -> None:
    brought = {"url": f"{site.url}/red.png"}
    for body in (
        {"references": [brought], "model": "tiny-qwen"},
        {"references": [brought, {"image_id": str(uuid4())}]},
        {"references": [brought, {"upload_id": str(uuid4())}]},
        {"references": [brought], "style": "no such style"},
    ):
        await refused(studio.user, **body)
    assert site.visits == []


async def test_an_upload_keeps_its_character_and_changes_what_was_asked(studio: Stack, red: bytes) -> None:
    upload_id = await studio.user.upload(red)
    job = await studio.user.create(**GREEN, references=[{"upload_id": upload_id}], wait=60)
    assert job["params"]["references"] == [{"upload_id": upload_id, "role": "reference"}]
    seen = judge(await pixels(studio.user, job))
    assert (seen["color"], seen["hat"], seen["scene"]) == ("green", "blue", "beach")


async def test_an_address_is_visited_once_and_by_the_gateway_alone(studio: Stack, site: Site) -> None:
    url = f"{site.url}/red.png"
    body = {**GREEN, "references": [{"url": f"{url}?token=secret#part"}]}
    headers = {"Idempotency-Key": str(uuid4()), "Prefer": "wait=60"}
    job, again = [
        (await studio.user.http.post("/v1/jobs", json=body, headers=headers)).json() for _ in range(2)
    ]
    assert job["id"] == again["id"] and site.visits == ["red.png"]
    assert job["params"]["references"] == [{"url": url, "role": "reference"}]
    seen = judge(await pixels(studio.user, job))
    assert (seen["color"], seen["hat"], seen["scene"]) == ("green", "blue", "beach")

    (call,) = (await studio.user.http.get(f"/v1/jobs/{job['id']}/calls")).json()["data"]
    assert "http" not in str(call["request"]) and "secret" not in str(call["request"])
    (row,) = studio.rows('select "references" from public.generation_jobs where id = %s', job["id"])
    assert "secret" not in str(row["references"])
    kept = studio.rows("select * from public.uploads where id = %s", row["references"][0]["kept_as"])
    assert (kept[0]["source"], kept[0]["status"], kept[0]["sweep_at"]) == ("url", "ready", None)


async def test_an_address_that_is_named_twice_is_one_picture(studio: Stack, site: Site) -> None:
    use = {"url": f"{site.url}/red.png"}
    job = await studio.user.create(**GREEN, references=[use, {**use, "role": "style"}])
    await studio.user.http.post(f"/v1/jobs/{job['id']}/cancel")
    (row,) = studio.rows('select "references" from public.generation_jobs where id = %s', job["id"])
    assert len({use["kept_as"] for use in row["references"]}) == 1
    assert site.visits == ["red.png"]


async def test_a_mask_that_was_uploaded_is_painted_anew_and_the_rest_stays(studio: Stack, red: bytes) -> None:
    before = Image.open(io.BytesIO(red)).convert("RGB")
    mask = Image.new("L", before.size, 0)
    mask.paste(255, (0, 0, before.width // 2, before.height))
    content = io.BytesIO()
    mask.save(content, "PNG")
    uploads = [await studio.user.upload(file) for file in (red, content.getvalue())]
    job = await studio.user.create(
        **GREEN, references=[{"upload_id": uploads[0]}], mask={"upload_id": uploads[1]}, wait=60
    )
    assert [use["role"] for use in job["params"]["references"]] == ["reference", "mask"]
    changed = ImageChops.difference(before, await pixels(studio.user, job)).convert("L")
    half = before.width // 2
    left, right = changed.crop((0, 0, half, 384)), changed.crop((half + 24, 0, before.width, 384))
    assert max(left.tobytes()) > 40 > max(right.tobytes())


async def test_a_fetched_picture_that_no_job_kept_is_swept(studio: Stack, site: Site) -> None:
    assert studio.app is not None
    uploads, user = studio.app.state.uploads, studio.user
    row = await uploads.fetch(as_principal(user), f"{site.url}/red.png")
    due = "update public.uploads set sweep_at = sweep_at - interval '24 hours' where id = %s returning 1"
    assert row["key"] in studio.objects("uploads")
    studio.rows(due, row["id"])
    await uploads.sweep()

    async def swept() -> bool:
        """By us, or by the worker that was quicker and has not ended yet."""
        gone = (await user.http.get(f"/v1/uploads/{row['id']}")).status_code == 404
        return gone and row["key"] not in studio.objects("uploads")

    await eventually(swept)
