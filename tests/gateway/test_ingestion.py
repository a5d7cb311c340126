"""Drawn pictures are downloaded, then stored, then have a row; and from where they are downloaded."""

import hashlib
import io
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
import pytest_asyncio
from PIL import Image
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.gpu import CallUnknown, GpuClient
from gateway.jobs.ingestion import BadPicture, Ingestion
from gateway.outside import Outside
from gateway.storage.local import LocalBucket
from modal_app.contract import Call, ImageResult, PictureInfo
from tests.gateway.conftest import DRAWN_BY, INSTANT
from tests.support.stack import Stack, serve, stack


def png(color: tuple[int, int, int]) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (16, 16), color).save(content, "PNG")
    return content.getvalue()


PICTURE, OTHER = png((200, 30, 30)), png((30, 30, 200))


class Elsewhere:
    """A site that keeps pictures; remembers what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.contents = {"public": PICTURE, "image": PICTURE, "other": OTHER, "text": b"hello"}
        self.app = Starlette(routes=[Route("/{name}", self._answer)])

    async def _answer(self, request: Request) -> Response:
        name = request.path_params["name"]
        self.asked.append(name)
        content = self.contents.get(name)
        return Response(content) if content else Response("no", 404)


class Intake:
    """An ingestion into a folder, from a GPU service that has the picture, or has lost it."""

    def __init__(self, folder: Path, url: str, site: Elsewhere, *, private: bool = True) -> None:
        self.bucket = LocalBucket(folder, name="designs", signing_key="k", base_url="http://here")
        self.site, self.url = site, url
        self.has_it = True
        gpu: Any = SimpleNamespace(picture=self._picture)
        self.ingestion = Ingestion(gpu, Outside(allow_private=private), self.bucket)

    async def take(self, public: str | None = None, image: str | None = None) -> dict[str, Any]:
        facts = {"sha256": hashlib.sha256(PICTURE).hexdigest(), "bytes": len(PICTURE), "seed": 7}
        places = {"publicUrl": public, "imageUrl": image}
        given = {name: f"{self.url}/{place}" for name, place in places.items() if place}
        shape = {"n": 0, "content_type": "image/png", "width": 16, "height": 16}
        picture = PictureInfo.model_validate({**facts, **given, **shape})
        result = ImageResult(images=[picture], native_width=16, native_height=16, resampling="none")
        job: Any = SimpleNamespace(id=uuid4(), user_id=uuid4(), seq=0, attempt=1, visibility="private")
        job.row = {"image_kind": "generation", "inputs": {}}
        call = Call(call_id="c", key=f"{job.id}:0:1", task="image", status="succeeded", result=result)
        (stored,) = await self.ingestion.take(job, call, result)
        assert await self.bucket.get(stored["key"]) == PICTURE
        return stored

    async def _picture(self, call_id: str, n: int) -> bytes:
        self.site.asked.append("service")
        if not self.has_it:
            raise CallUnknown("it has been too long")
        return PICTURE


@pytest_asyncio.fixture
async def intake(tmp_path: Path) -> AsyncIterator[Intake]:
    site = Elsewhere()
    async with serve(site.app) as url:
        yield Intake(tmp_path, url, site)


@pytest.mark.parametrize("named", ["other", "text", "missing"])
async def test_what_is_not_the_picture_of_the_manifest_is_not_taken_from_an_address(
    intake: Intake, named: str
) -> None:
    await intake.take(public=named, image="image")
    assert intake.site.asked == [named, "image"]


async def test_an_address_in_our_own_network_is_not_asked(intake: Intake, tmp_path: Path) -> None:
    guarded = Intake(tmp_path / "guarded", intake.url, intake.site, private=False)
    await guarded.take(public="public", image="image")
    assert intake.site.asked == ["service"]


async def test_a_picture_that_is_nowhere_is_not_stored(intake: Intake, tmp_path: Path) -> None:
    intake.has_it = False
    with pytest.raises(BadPicture, match="404"):
        await intake.take(public="missing")
    with pytest.raises(CallUnknown):
        await intake.take()
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("public", "image", "asked"),
    [
        ("public", "image", ["public"]),
        (None, "image", ["image"]),
        ("missing", "image", ["missing", "image"]),
        ("missing", "text", ["missing", "text", "service"]),
        (None, None, ["service"]),
    ],
)
async def test_the_public_address_comes_first_then_the_other_then_the_service_itself(
    intake: Intake, public: str | None, image: str | None, asked: list[str]
) -> None:
    stored = await intake.take(public, image)
    assert intake.site.asked == asked
    assert not {"publicUrl", "imageUrl"} & set(stored), "an address is not kept with the picture"


async def test_a_picture_is_downloaded_then_stored_then_has_its_row(
    product: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu, bucket = product.app.state.gpu, product.app.state.buckets["generated-designs"]  # type: ignore[union-attr]
    user, done = product.new_user(), []

    def is_theirs(place: str) -> bool:
        """By the id of a call, or the key of an object: jobs of other tests may still be at work."""
        call = "select from private.generation_calls where call_id = %s and user_id = %s"
        return place.startswith(f"{user.id}/") or bool(product.rows(call, place, user.id))

    def watched(name: str, inner: Any) -> Any:
        async def call(*args: Any) -> Any:
            if is_theirs(args[0]):
                rows = product.rows("select from public.generated_assets where user_id = %s", user.id)
                files = [key for key in product.objects() if key.startswith(f"{user.id}/")]
                done.append((name, len(files), len(rows)))
            return await inner(*args)

        return call

    monkeypatch.setattr(gpu, "picture", watched("download", gpu.picture))
    monkeypatch.setattr(bucket, "put", watched("store", bucket.put))
    job = await user.create(prompt="a fox", size="64x64", visibility="private", wait=30)
    assert done[:2] == [("download", 0, 0), ("store", 0, 0)]
    assert len(product.rows("select from public.generated_assets where user_id = %s", user.id)) == 1
    assert job["status"] == "completed"


async def test_where_the_service_keeps_a_picture_is_shown_to_nobody(
    admin_url: str, new_folder: Callable[[], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    site, dead = Elsewhere(), "http://127.0.0.1:9/"
    settings = {**DRAWN_BY, "allow_private_urls": True, "webhook_patience_seconds": 0.3}
    async with (
        serve(site.app) as url,
        stack(admin_url, new_folder(), gpu=INSTANT, webhook_url=dead, **settings) as product,
    ):
        asked = GpuClient.call

        async def elsewhere(gpu: GpuClient, call_id: str) -> Call:
            call = await asked(gpu, call_id)
            if isinstance(call.result, ImageResult):
                site.contents["public"] = await gpu.picture(call_id, 0)
                call.result.images[0].publicUrl = f"{url}/public?signature=secret"
            return call

        monkeypatch.setattr(GpuClient, "call", elsewhere)
        job = await product.user.create(prompt="a fox", size="64x64", wait=30)
        assert (job["status"], site.asked) == ("completed", ["public"])
        shown = await product.user.http.get(job["images"][0]["url"])
        assert shown.content == site.contents["public"]
        told = [await product.user.http.get(f"/v1/jobs/{job['id']}{rest}") for rest in ("", "/calls")]
        assert told[1].json()["data"][0]["result"]["images"][0]["sha256"] == job["images"][0]["sha256"]
        assert not [answer for answer in told if url in answer.text or "secret" in answer.text]
