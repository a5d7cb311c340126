"""``/v1/images/generations`` and ``/v1/models``, as OpenAI's SDKs call them."""

import json
from collections.abc import AsyncIterator
from typing import Annotated, Any, cast

from fastapi import APIRouter, Depends, Request, Response
from sse_starlette import EventSourceResponse, ServerSentEvent

from gateway.auth import AuthenticatedRoute, Generator, Principal, Reader
from gateway.errors import ApiError, openai_error
from gateway.jobs.service import Created
from gateway.jobs.submission import Submission, Submitted
from gateway.openai import schemas
from gateway.openai.models import Models
from gateway.openai.service import OpenAIImages

HEARTBEAT_SECONDS = 15

router = APIRouter(route_class=AuthenticatedRoute, tags=["openai"])


def _service(request: Request) -> OpenAIImages:
    return cast(OpenAIImages, request.app.state.openai_images)


def _models(request: Request) -> Models:
    return cast(Models, request.app.state.models)


Service = Annotated[OpenAIImages, Depends(_service)]
Catalogue = Annotated[Models, Depends(_models)]

STREAMED: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
        "description": "The pictures; with `stream` as server-sent events.",
    }
}


@router.post("/v1/images/generations", response_model=schemas.ImagesResponse, responses=STREAMED)
async def generate_images(
    asked: schemas.ImageGeneration, caller: Generator, service: Service, submission: Submitted
) -> Response:
    """OpenAI's `images.generate`. The answer is held until the pictures are there.

    A client that hangs up loses nothing: `GET /v1/jobs?metadata.request_id=` finds the job.
    """
    asking = submission.asking(asked.model_dump(mode="json"))
    created = await service.start(caller, asked, asking)
    return await _answered(service, caller, asked, created, asking, "image_generation")


@router.get("/v1/models")
async def list_models(caller: Reader, models: Catalogue) -> schemas.ModelList:
    """Every model of the catalogue; `available` are those that the running GPU service draws with."""
    data = await models.all()
    return schemas.ModelList(data=data, first_id=data[0].id, last_id=data[-1].id)


@router.get("/v1/models/{model_id}")
async def get_model(model_id: str, caller: Reader, models: Catalogue) -> schemas.Model:
    """One model. OpenAI's own names (`gpt-image-*`, `dall-e-*`) show the one that they stand for."""
    return await models.get(model_id)


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
    if asked.stream:
        events = _events(service, caller, asked, created, submission, kind)
        headers |= {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return EventSourceResponse(events, ping=HEARTBEAT_SECONDS, headers=headers)
    answer = await service.answer(caller, asked, created.row)
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
        async for event in service.events(caller, asked, created.row, kind):
            yield ServerSentEvent(event.model_dump_json(exclude_none=True), event=event.type)
    except ApiError as error:
        told = {"type": "error", "error": openai_error(error), "request_id": submission.request_id}
        yield ServerSentEvent(json.dumps(told), event="error")
