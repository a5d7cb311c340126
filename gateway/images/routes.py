"""``/v1/images``, and the open addresses of public pictures."""

from typing import Annotated, cast
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request, Response
from psycopg.rows import DictRow
from pydantic import BaseModel

from gateway.auth import AuthenticatedRoute, Generator, Reader
from gateway.errors import NotFound
from gateway.images.derivations import Derivations, UpscaleCreate, VariationsCreate
from gateway.images.service import THUMBNAIL_PIXELS, Images
from gateway.jobs import schemas
from gateway.jobs.answers import Prefer, answer_created
from gateway.jobs.rendering import Renderer, images_etag
from gateway.jobs.service import JobService
from gateway.jobs.submission import Submitted
from gateway.storage.serving import BYTES, FOREVER, PRIVATE, Served, from_bucket, from_memory, serve

router = APIRouter(route_class=AuthenticatedRoute, tags=["images"])
open_router = APIRouter(tags=["images"])


class ImageList(BaseModel):
    object: str = "list"
    data: list[schemas.Image]
    has_more: bool
    first_id: UUID | None
    last_id: UUID | None


async def _images(request: Request) -> Images:
    return cast(Images, request.app.state.images)


async def _derivations(request: Request) -> Derivations:
    return cast(Derivations, request.app.state.derivations)


async def _jobs(request: Request) -> JobService:
    return cast(JobService, request.app.state.jobs)


async def _renderer(request: Request) -> Renderer:
    return cast(Renderer, request.app.state.renderer)


Service = Annotated[Images, Depends(_images)]
Derive = Annotated[Derivations, Depends(_derivations)]
JobsOf = Annotated[JobService, Depends(_jobs)]
Render = Annotated[Renderer, Depends(_renderer)]
Side = Annotated[int, Query(ge=16, le=THUMBNAIL_PIXELS, description="Pixels of the longest side, at most.")]
Download = Annotated[bool, Query(description="Save it under a name instead of showing it.")]


@router.get("/v1/images", response_model=ImageList)
async def list_images(
    request: Request,
    response: Response,
    caller: Reader,
    service: Service,
    render: Render,
    job_id: UUID | None = None,
    kind: str | None = None,
    character_id: UUID | None = None,
    panel_id: UUID | None = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    after: UUID | None = None,
) -> Response | ImageList:
    """The caller's pictures, newest first. Supports `ETag` and `If-None-Match`."""
    filters = {"job_id": job_id, "kind": kind, "character_id": character_id, "panel_id": panel_id}
    rows = await service.page(caller, {**filters, "after": after, "limit": limit + 1})
    headers = {"ETag": images_etag(rows), "Cache-Control": "private, no-cache"}
    if request.headers.get("if-none-match") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    response.headers.update(headers)
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


@router.delete("/v1/images/{image_id}", status_code=204)
async def delete_image(image_id: UUID, caller: Generator, service: Service) -> None:
    """Take a picture away. It can be restored for 7 days; then its bytes are removed. Idempotent."""
    await service.delete(caller, image_id)


@router.post("/v1/images/{image_id}/restore")
async def restore_image(image_id: UUID, caller: Generator, service: Service, render: Render) -> schemas.Image:
    """Bring a deleted picture back, at the same address."""
    return await render.image(await service.restore(caller, image_id))


@router.post("/v1/images/{image_id}/variations", status_code=202, response_model=schemas.Job)
async def vary_image(
    image_id: UUID,
    body: VariationsCreate,
    caller: Generator,
    derive: Derive,
    jobs: JobsOf,
    render: Render,
    submission: Submitted,
    prefer: Prefer = None,
) -> Response:
    """Other pictures by the same recipe, with another seed. Those of a private picture are private."""
    created = await derive.vary(caller, image_id, body, submission)
    return await answer_created(caller, jobs, render, created, submission, prefer)


@router.post("/v1/images/{image_id}/upscale", status_code=202, response_model=schemas.Job)
async def upscale_image(
    image_id: UUID,
    body: UpscaleCreate,
    caller: Generator,
    derive: Derive,
    jobs: JobsOf,
    render: Render,
    submission: Submitted,
    prefer: Prefer = None,
) -> Response:
    """The picture at two or four times its size, up to 4096 pixels on the long side.

    It is drawn over tile by tile, with new detail; `strength` says how much.
    """
    created = await derive.upscale(caller, image_id, body, submission)
    return await answer_created(caller, jobs, render, created, submission, prefer)


@router.head("/v1/images/{image_id}/content", include_in_schema=False)
@router.get("/v1/images/{image_id}/content", response_class=Response, responses=BYTES)
async def image_content(
    image_id: UUID, request: Request, caller: Reader, service: Service, download: Download = False
) -> Response:
    """The bytes of one picture. Supports `Range`, `ETag` and `If-None-Match`."""
    return await _content(request, service, await service.get(caller, image_id), PRIVATE, download)


@router.head("/v1/images/{image_id}/thumbnail", include_in_schema=False)
@router.get("/v1/images/{image_id}/thumbnail", response_class=Response, responses=BYTES)
async def image_thumbnail(
    image_id: UUID, request: Request, caller: Reader, service: Service, size: Side = THUMBNAIL_PIXELS
) -> Response:
    """A small WebP of one picture."""
    return await _thumbnail(request, service, await service.get(caller, image_id), PRIVATE, size)


@open_router.head("/images/{image_id}/thumbnail.webp", include_in_schema=False)
@open_router.get("/images/{image_id}/thumbnail.webp", response_class=Response, responses=BYTES)
async def public_thumbnail(
    image_id: UUID, request: Request, service: Service, size: Side = THUMBNAIL_PIXELS
) -> Response:
    """A small WebP of a public picture, without a credential, cacheable for ever."""
    return await _thumbnail(request, service, await service.get_public(image_id), FOREVER, size)


@open_router.head("/images/{image_id}.{extension}", include_in_schema=False)
@open_router.get("/images/{image_id}.{extension}", response_class=Response, responses=BYTES)
async def public_picture(
    image_id: UUID, extension: str, request: Request, service: Service, download: Download = False
) -> Response:
    """A public picture, without a credential, cacheable for ever."""
    row = await service.get_public(image_id)
    if not row["key"].endswith(f".{extension}"):
        raise NotFound(f"There is no picture {image_id}.{extension}.")
    return await _content(request, service, row, FOREVER, download)


async def _content(request: Request, service: Images, row: DictRow, caching: str, download: bool) -> Response:
    extension = row["key"].rpartition(".")[2]
    served = Served(
        size=row["bytes"],
        content_type=row["content_type"],
        tag=row["sha256"],
        caching=caching,
        open=caching == FOREVER,
        download_name=f"{row['id']}.{extension}" if download else None,
    )
    return await serve(request, served, from_bucket(service.bucket(row), row["key"]))


async def _thumbnail(request: Request, service: Images, row: DictRow, caching: str, size: int) -> Response:
    content = await service.thumbnail(row, size)
    tag = f"{row['sha256']}-thumbnail" + (f"-{size}" if size < THUMBNAIL_PIXELS else "")
    served = Served(len(content), "image/webp", tag, caching, open=caching == FOREVER)
    return await serve(request, served, from_memory(content))
