"""Pictures: their addresses, bytes and thumbnails.

A public picture stands at an unguessable address that never changes; a private one is reached with the
caller's credential, or by a signed address that every answer makes anew.
"""

import asyncio
import io
from typing import Annotated, Any, cast
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request, Response
from PIL import Image
from psycopg.rows import DictRow
from pydantic import BaseModel

from gateway.auth import AuthenticatedRoute, Principal, Reader
from gateway.db import Database
from gateway.errors import NotFound
from gateway.jobs import schemas
from gateway.jobs.rendering import Renderer
from gateway.storage import Buckets, ObjectMissing

THUMBNAIL_PIXELS = 384
"""Longest side of a thumbnail."""
FOREVER = "public, max-age=31536000, immutable"
PRIVATE = "private, max-age=3600"
ANY_ORIGIN = {"Access-Control-Allow-Origin": "*", "Cross-Origin-Resource-Policy": "cross-origin"}
"""Of what is open to everybody: pages of other origins may show it and read its pixels."""

GET = "select * from public.generated_assets where id = %(id)s and deleted_at is null"
GET_PUBLIC = GET + " and visibility = 'public'"
LIST = """
select * from public.generated_assets a
where a.deleted_at is null
  and (%(job_id)s::uuid is null or a.job_id = %(job_id)s)
  and (%(kind)s::text is null or a.kind = %(kind)s)
  and (%(after)s::uuid is null or (a.created_at, a.id) < (
    select created_at, id from public.generated_assets where id = %(after)s))
order by a.created_at desc, a.id desc
limit %(limit)s
"""

router = APIRouter(route_class=AuthenticatedRoute, tags=["images"])
open_router = APIRouter(tags=["images"])


class ImageList(BaseModel):
    object: str = "list"
    data: list[schemas.Image]
    has_more: bool
    first_id: UUID | None
    last_id: UUID | None


class Images:
    """Looks pictures up as their owner, or as anybody where they are public."""

    def __init__(self, db: Database, buckets: Buckets) -> None:
        self._db = db
        self._buckets = buckets

    async def get(self, caller: Principal, image_id: UUID) -> DictRow:
        async with self._db.as_user(caller) as connection:
            row = await (await connection.execute(GET, {"id": image_id})).fetchone()
        return _found(row, image_id)

    async def get_public(self, image_id: UUID) -> DictRow:
        return _found(await self._db.one(GET_PUBLIC, {"id": image_id}), image_id)

    async def page(self, caller: Principal, filters: dict[str, Any]) -> list[DictRow]:
        async with self._db.as_user(caller) as connection:
            return await (await connection.execute(LIST, filters)).fetchall()

    async def content(self, row: DictRow) -> bytes:
        return await self._buckets[row["bucket"]].get(row["key"])

    async def thumbnail(self, row: DictRow) -> bytes:
        """WebP, made when it is first asked for and kept beside the picture."""
        bucket, key = self._buckets[row["bucket"]], f"{row['key']}.thumbnail.webp"
        try:
            return await bucket.get(key)
        except ObjectMissing:
            small = await asyncio.to_thread(shrink, await bucket.get(row["key"]))
            await bucket.put(key, small, "image/webp")
            return small


def shrink(content: bytes) -> bytes:
    """The picture as WebP, ``THUMBNAIL_PIXELS`` on its longest side at most."""
    with Image.open(io.BytesIO(content), formats=("PNG", "JPEG", "WEBP")) as image:
        image.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS))
        kept = io.BytesIO()
        image.convert("RGB").save(kept, "WEBP", quality=80)
    return kept.getvalue()


def _images(request: Request) -> Images:
    return cast(Images, request.app.state.images)


def _renderer(request: Request) -> Renderer:
    return cast(Renderer, request.app.state.renderer)


Service = Annotated[Images, Depends(_images)]
Render = Annotated[Renderer, Depends(_renderer)]


@router.get("/v1/images")
async def list_images(
    caller: Reader,
    service: Service,
    render: Render,
    job_id: UUID | None = None,
    kind: str | None = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    after: UUID | None = None,
) -> ImageList:
    """The caller's pictures, newest first."""
    filters = {"job_id": job_id, "kind": kind, "after": after, "limit": limit + 1}
    rows = await service.page(caller, filters)
    data = await render.images(rows[:limit])
    return ImageList(
        data=data,
        has_more=len(rows) > limit,
        first_id=data[0].id if data else None,
        last_id=data[-1].id if data else None,
    )


@router.get("/v1/images/{image_id}")
async def get_image(image_id: UUID, caller: Reader, service: Service, render: Render) -> schemas.Image:
    """One picture and its addresses."""
    return await render.image(await service.get(caller, image_id))


@router.get("/v1/images/{image_id}/content", response_class=Response)
async def image_content(image_id: UUID, request: Request, caller: Reader, service: Service) -> Response:
    """The bytes of one picture."""
    row = await service.get(caller, image_id)
    return _unchanged(request, row["sha256"], PRIVATE) or _picture(
        await service.content(row), row["content_type"], row["sha256"], PRIVATE
    )


@router.get("/v1/images/{image_id}/thumbnail", response_class=Response)
async def image_thumbnail(image_id: UUID, request: Request, caller: Reader, service: Service) -> Response:
    """A small WebP of one picture."""
    row = await service.get(caller, image_id)
    tag = f"{row['sha256']}-thumbnail"
    return _unchanged(request, tag, PRIVATE) or _picture(
        await service.thumbnail(row), "image/webp", tag, PRIVATE
    )


@open_router.get("/images/{image_id}.{extension}", response_class=Response)
async def public_picture(image_id: UUID, extension: str, request: Request, service: Service) -> Response:
    """A public picture, without a credential, cacheable for ever."""
    row = await service.get_public(image_id)
    if not row["key"].endswith(f".{extension}"):
        raise NotFound(f"There is no picture {image_id}.{extension}.")
    return _unchanged(request, row["sha256"], FOREVER) or _picture(
        await service.content(row), row["content_type"], row["sha256"], FOREVER
    )


def _found(row: DictRow | None, image_id: UUID) -> DictRow:
    if row is None:
        raise NotFound(f"There is no picture {image_id}.")
    return row


def _unchanged(request: Request, tag: str, caching: str) -> Response | None:
    if request.headers.get("if-none-match") != f'"{tag}"':
        return None
    return Response(status_code=304, headers={"ETag": f'"{tag}"', "Cache-Control": caching})


def _picture(content: bytes, content_type: str, tag: str | None, caching: str) -> Response:
    headers = {"Cache-Control": caching, "X-Content-Type-Options": "nosniff"}
    if tag:
        headers["ETag"] = f'"{tag}"'
    if caching == FOREVER:
        headers |= ANY_ORIGIN
    return Response(content, media_type=content_type, headers=headers)
