"""``/v1/images/generations``, ``edits``, ``variations`` and ``/v1/models``, as OpenAI's SDKs call them."""

import json
from collections.abc import AsyncIterator
from typing import Annotated, Any, TypeVar, cast

from fastapi import APIRouter, Depends, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from sse_starlette import ServerSentEvent

from gateway.auth import AuthenticatedRoute, Generator, Principal, Reader
from gateway.errors import ApiError, openai_error
from gateway.jobs.answers import CACHE_HIT
from gateway.jobs.service import Created
from gateway.jobs.streams import event_stream
from gateway.jobs.submission import Submission, Submitted
from gateway.openai import forms, schemas
from gateway.openai.models import Models
from gateway.openai.service import OpenAIImages

router = APIRouter(route_class=AuthenticatedRoute, tags=["openai"])


async def _service(request: Request) -> OpenAIImages:
    return cast(OpenAIImages, request.app.state.openai_images)


async def _models(request: Request) -> Models:
    return cast(Models, request.app.state.models)


Service = Annotated[OpenAIImages, Depends(_service)]
Catalogue = Annotated[Models, Depends(_models)]

STREAMED: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {"text/event-stream": {"schema": {"type": "string", "title": "ImageEvents"}}},
        "description": "The pictures; with `stream` as server-sent events.",
    }
}


M = TypeVar("M", bound=schemas.ImageEdit)


def _body(kind: type[schemas.ImageEdit]) -> dict[str, Any]:
    """How the document describes a body that is read by hand."""
    described = kind.model_json_schema(ref_template="#/components/schemas/{model}")
    file = {"type": "string", "format": "binary"}
    files = {"image": file, "image[]": {"type": "array", "items": file}, "mask": file}
    urls = {"url": {"type": "string"}, "url[]": {"type": "array", "items": {"type": "string"}}}
    form = {
        **described,
        "title": f"{kind.__name__}Form",
        "properties": {**described["properties"], **files, **urls},
    }
    named = {"type": "object", "properties": {"image_url": {"type": "string"}, "file_id": {"type": "string"}}}
    pictures = {"images": {"type": "array", "items": named}, "mask": named}
    plain = {
        **described,
        "title": f"{kind.__name__}Json",
        "properties": {**described["properties"], **pictures},
    }
    content = {"multipart/form-data": {"schema": form}, "application/json": {"schema": plain}}
    return {"requestBody": {"required": True, "content": content}}


@router.post("/v1/images/generations", response_model=schemas.ImagesResponse, responses=STREAMED)
async def generate_images(
    asked: schemas.ImageGeneration, caller: Generator, service: Service, submission: Submitted
) -> Response:
    """OpenAI's `images.generate`. The answer is held until the pictures are there.

    A client that hangs up loses nothing: `GET /v1/jobs?metadata.request_id=` finds the job.
    """
    asking = submission.asking(asked.model_dump(mode="json"))
    created = await service.generate(caller, asked, asking)
    return await _answered(service, caller, asked, created, asking, "image_generation")


@router.post(
    "/v1/images/edits",
    response_model=schemas.ImagesResponse,
    responses=STREAMED,
    openapi_extra=_body(schemas.ImageEdit),
)
async def edit_images(
    request: Request, caller: Generator, service: Service, submission: Submitted
) -> Response:
    """OpenAI's `images.edit`: draw from pictures, or over one where a `mask` is transparent or white.

    `roles` says what each picture is for; a `strength` without a mask draws over the first one.
    """
    form = await forms.read(request)
    asked = _validated(schemas.ImageEdit, form.fields)
    return await _edited(service, caller, asked, form, submission)


@router.post(
    "/v1/images/variations",
    response_model=schemas.ImagesResponse,
    responses=STREAMED,
    openapi_extra=_body(schemas.ImageVariation),
)
async def create_variation(
    request: Request, caller: Generator, service: Service, submission: Submitted
) -> Response:
    """OpenAI's `images.create_variation`: another picture like the one that comes along."""
    form = await forms.read(request)
    asked = _validated(schemas.ImageVariation, form.fields)
    return await _edited(service, caller, asked, form, submission)


@router.get("/v1/models")
async def list_models(caller: Reader, models: Catalogue) -> schemas.ModelList:
    """Every model of the catalogue; `available` are those that the running GPU service draws with."""
    data = await models.all()
    return schemas.ModelList(data=data, first_id=data[0].id, last_id=data[-1].id)


@router.get("/v1/models/{model_id}")
async def get_model(model_id: str, caller: Reader, models: Catalogue) -> schemas.Model:
    """One model. OpenAI's own names (`gpt-image-*`, `dall-e-*`) show the one that they stand for."""
    return await models.get(model_id)


async def _edited(
    service: OpenAIImages,
    caller: Principal,
    asked: schemas.ImageEdit,
    form: forms.Form,
    submission: Submission,
) -> Response:
    asking = submission.asking({**asked.model_dump(mode="json"), **form.canonical})
    created = await service.edit(caller, asked, form, asking)
    return await _answered(service, caller, asked, created, asking, "image_edit")


def _validated(kind: type[M], fields: dict[str, Any]) -> M:
    """The fields of a form in their own types; texts are read as the numbers they spell."""
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        raise RequestValidationError([{**e, "loc": ("body", *e["loc"])} for e in error.errors()]) from error


async def _answered(
    service: OpenAIImages,
    caller: Principal,
    asked: schemas.ImageGeneration,
    created: Created,
    submission: Submission,
    kind: str,
) -> Response:
    headers = {"Location": f"/v1/jobs/{created.row['id']}"}
    if created.replayed:
        headers["Idempotent-Replayed"] = "true"
    if created.cached:
        headers |= CACHE_HIT
    if asked.stream:
        events = _events(service, caller, asked, created, submission, kind)
        return event_stream(events, headers)
    answer = await service.answer(caller, asked, created)
    return Response(answer.model_dump_json(exclude_none=True), media_type="application/json", headers=headers)


async def _events(
    service: OpenAIImages,
    caller: Principal,
    asked: schemas.ImageGeneration,
    created: Created,
    submission: Submission,
    kind: str,
) -> AsyncIterator[ServerSentEvent]:
    """An error that comes once the stream has begun is an event: OpenAI's SDKs raise it."""
    try:
        async for event in service.events(caller, asked, created, kind):
            yield ServerSentEvent(event.model_dump_json(exclude_none=True), event=event.type)
    except ApiError as error:
        told = {"type": "error", "error": openai_error(error), "request_id": submission.request_id}
        yield ServerSentEvent(json.dumps(told), event="error")
