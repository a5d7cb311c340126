"""``/v1/images/{id}/recipe``, ``/v1/recipes`` and ``/v1/replay``."""

import hashlib
from typing import Annotated, Any, cast
from uuid import UUID

from fastapi import APIRouter, Depends, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from gateway.auth import AuthenticatedRoute, Generator, Reader
from gateway.errors import Malformed, UnsupportedMedia
from gateway.jobs import schemas as jobs_schemas
from gateway.jobs.answers import Prefer, answer_created
from gateway.jobs.rendering import Renderer
from gateway.jobs.service import JobService
from gateway.jobs.submission import Submitted
from gateway.replay import schemas
from gateway.replay.service import Replays

router = APIRouter(route_class=AuthenticatedRoute, tags=["images"])

FILE: dict[str, Any] = {
    "title": "ReplayFile",
    "type": "object",
    "properties": {"file": {"type": "string", "format": "binary"}},
    "required": ["file"],
    "additionalProperties": False,
}
FORM: dict[str, Any] = {
    "requestBody": {"required": True, "content": {"multipart/form-data": {"schema": FILE}}}
}
BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {"schema": FILE},
            "application/json": {"schema": schemas.ReplayImage.model_json_schema()},
        },
    }
}


async def _replays(request: Request) -> Replays:
    return cast(Replays, request.app.state.replays)


async def _jobs(request: Request) -> JobService:
    return cast(JobService, request.app.state.jobs)


async def _renderer(request: Request) -> Renderer:
    return cast(Renderer, request.app.state.renderer)


Service = Annotated[Replays, Depends(_replays)]
JobsOf = Annotated[JobService, Depends(_jobs)]
Render = Annotated[Renderer, Depends(_renderer)]


@router.get("/v1/images/{image_id}/recipe")
async def get_recipe(image_id: UUID, caller: Reader, service: Service) -> schemas.Recipe:
    """What drew a picture: model, prompts, seed, sizes, files by their hash, and the engine's fingerprint."""
    return await service.recipe(caller, image_id)


@router.post("/v1/recipes", openapi_extra=FORM)
async def read_recipe(request: Request, caller: Reader, service: Service) -> schemas.FileRecipe:
    """What drew the picture in a file, from its signed recipe. Nothing is drawn or kept.

    A file without a recipe of ours is 400 `recipe_missing`, unless it is one of the caller's pictures.
    """
    return await service.read(caller, await _file_of_form(request))


@router.post("/v1/replay", status_code=202, response_model=jobs_schemas.Job, openapi_extra=BODY)
async def replay_image(
    request: Request,
    caller: Generator,
    service: Service,
    jobs: JobsOf,
    render: Render,
    submission: Submitted,
    prefer: Prefer = None,
) -> Response:
    """Draw a picture of this service again, from its file alone or by its id.

    `replay` of the job says whether the pixels are the same and, if not, what of the engine is another.
    """
    brought = await _brought(request)
    if isinstance(brought, bytes):
        asking = submission.asking({"file": hashlib.sha256(brought).hexdigest()})
        created = await service.replay_file(caller, brought, asking)
    else:
        asking = submission.asking(brought.model_dump(mode="json"))
        created = await service.replay_image(caller, brought.image_id, asking)
    return await answer_created(caller, jobs, render, created, asking, prefer)


async def _brought(request: Request) -> bytes | schemas.ReplayImage:
    """The file of a form, or the id in a JSON body."""
    kind = _kind(request)
    if kind == "multipart/form-data":
        return await _file(request)
    if kind != "application/json":
        raise UnsupportedMedia("The body must be multipart/form-data or application/json.")
    try:
        return schemas.ReplayImage.model_validate_json(await request.body())
    except ValidationError as error:
        raise RequestValidationError([{**e, "loc": ("body", *e["loc"])} for e in error.errors()]) from error


def _kind(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def _file_of_form(request: Request) -> bytes:
    if _kind(request) != "multipart/form-data":
        raise UnsupportedMedia("The body must be multipart/form-data.")
    return await _file(request)


async def _file(request: Request) -> bytes:
    try:
        async with request.form(max_files=1, max_fields=1) as form:
            file = form.get("file")
            if not isinstance(file, UploadFile) or len(form) != 1:
                raise Malformed("The form has one field, `file`, with the picture.", param="file")
            return await file.read()
    except ClientDisconnect:
        raise Malformed("The body ended too early.", code="invalid_form") from None
    except HTTPException as error:
        if error.status_code != 400:
            raise
        raise Malformed("The body is not a form with one file.", code="invalid_form") from None
