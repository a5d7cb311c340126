"""``/v1/characters``."""

import json
from typing import Annotated, Literal, cast
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import JSONResponse
from psycopg.rows import DictRow
from pydantic import BaseModel

from gateway.auth import AuthenticatedRoute, Generator, Principal, Reader
from gateway.characters import schemas
from gateway.characters.pictures import CharacterPictures
from gateway.characters.plans import POLL_AFTER_MS
from gateway.characters.rendering import CharacterRenderer, etag
from gateway.characters.service import Characters
from gateway.errors import BadRequest
from gateway.jobs.lifecycle import TERMINAL
from gateway.jobs.rendering import Renderer
from gateway.jobs.schemas import Job
from gateway.jobs.service import Created, JobService, Replay
from gateway.jobs.submission import Submission, Submitted

router = APIRouter(route_class=AuthenticatedRoute, tags=["characters"])


async def _characters(request: Request) -> Characters:
    return cast(Characters, request.app.state.characters)


async def _pictures(request: Request) -> CharacterPictures:
    return cast(CharacterPictures, request.app.state.character_pictures)


async def _renderer(request: Request) -> CharacterRenderer:
    return cast(CharacterRenderer, request.app.state.character_renderer)


Service = Annotated[Characters, Depends(_characters)]
Pictures = Annotated[CharacterPictures, Depends(_pictures)]
Render = Annotated[CharacterRenderer, Depends(_renderer)]
Limit = Annotated[int, Query(ge=1, le=100)]


@router.post("/v1/characters", status_code=202, response_model=schemas.Character)
async def create_character(
    body: schemas.CharacterCreate,
    request: Request,
    caller: Generator,
    service: Service,
    render: Render,
    submission: Submitted,
) -> Response:
    """A character from a photo, a LoRA or a description: its profile, a portrait, and three views of it."""
    asking = _asking(submission, body, body.run_token)
    created = await service.create(caller, body, asking)
    if isinstance(created, Replay):
        return _replayed(created)
    row = await service.get(caller, UUID(created.row["inputs"]["character_id"]))
    answer = _answer(await render.character(row), [row], 202, finished=False)
    answer.headers["Location"] = f"/v1/characters/{row['id']}"
    return await _kept(request, caller, asking, created, answer)


@router.get("/v1/characters", response_model=schemas.CharacterList)
async def list_characters(
    caller: Reader, service: Service, render: Render, limit: Limit = 20, after: UUID | None = None
) -> schemas.CharacterList:
    """The characters the caller sees, newest first: their own, and those of projects they take part in."""
    rows = await service.page(caller, after, limit + 1)
    data = await render.characters(rows[:limit])
    return schemas.CharacterList(
        data=data,
        has_more=len(rows) > limit,
        first_id=data[0].id if data else None,
        last_id=data[-1].id if data else None,
    )


@router.get("/v1/characters/{character_id}", response_model=schemas.Character)
async def get_character(
    character_id: UUID, request: Request, caller: Reader, service: Service, render: Render
) -> Response:
    """One character. Supports `ETag` and `If-None-Match`."""
    row = await service.get(caller, character_id)
    return _cached(request, [row]) or _shown(await render.character(row), row)


@router.patch("/v1/characters/{character_id}")
async def edit_character(
    character_id: UUID, body: schemas.CharacterEdit, caller: Generator, service: Service, render: Render
) -> schemas.Character:
    """Change what is known of a character. Pictures that are there stay as they are."""
    return await render.character(await service.edit(caller, character_id, body))


@router.delete("/v1/characters/{character_id}")
async def delete_character(
    character_id: UUID, caller: Generator, service: Service
) -> schemas.DeletedCharacter:
    """Delete a character, its photo, its pictures and what is known of it. Idempotent."""
    removed = await service.delete(caller, character_id)
    return schemas.DeletedCharacter(id=character_id, removed=removed)


@router.post("/v1/characters/{character_id}/retry", status_code=202, response_model=schemas.Character)
async def retry_character(
    character_id: UUID, caller: Generator, service: Service, render: Render
) -> Response:
    """Run the failed steps of a character again, and only those."""
    row = await service.retry(caller, character_id)
    return _answer(await render.character(row), [row], 202, finished=False)


@router.get("/v1/characters/{character_id}/initial-image-prompt")
async def initial_image_prompt(
    character_id: UUID, caller: Reader, service: Service, framing: Literal["two", "single"] = "two"
) -> schemas.Suggestion:
    """A prompt for the master reference, put together from stored values alone."""
    row = await service.get(caller, character_id)
    return schemas.Suggestion(success=True, prompt=service.suggestion(row, framing))


@router.post("/v1/characters/{character_id}/generate-initial-image", response_model=schemas.Drawn)
async def generate_initial_image(
    character_id: UUID,
    request: Request,
    caller: Generator,
    pictures: Pictures,
    submission: Submitted,
    body: schemas.InitialImage | None = None,
) -> Response:
    """A new master reference of exactly the typed prompt. Then all that was there before goes."""
    body = body or schemas.InitialImage()
    asking = _asking(submission, body)
    created = await pictures.draw_initial(caller, character_id, body, asking)
    return await _drawn(request, caller, pictures, asking, created)


@router.post("/v1/characters/{character_id}/generate-360-set", response_model=schemas.Drawn)
async def generate_360_set(
    character_id: UUID,
    request: Request,
    caller: Generator,
    pictures: Pictures,
    submission: Submitted,
    body: schemas.ReferenceSet | None = None,
) -> Response:
    """The character from all sides, a picture for each angle, beside what is there already."""
    body = body or schemas.ReferenceSet()
    asking = _asking(submission, body)
    created = await pictures.draw_set(caller, character_id, body, asking)
    return await _drawn(request, caller, pictures, asking, created)


@router.post("/v1/characters/{character_id}/generate-scene-image", response_model=schemas.Drawn)
async def generate_scene_image(
    character_id: UUID,
    body: schemas.Scene,
    request: Request,
    caller: Generator,
    pictures: Pictures,
    submission: Submitted,
) -> Response:
    """The character somewhere, as `sceneContext` says."""
    asking = _asking(submission, body)
    created = await pictures.draw_scene(caller, character_id, body, asking)
    return await _drawn(request, caller, pictures, asking, created)


@router.get("/v1/characters/{character_id}/images", response_model=schemas.CharacterImageList)
async def list_character_images(
    character_id: UUID,
    request: Request,
    caller: Reader,
    pictures: Pictures,
    render: Render,
    kind: schemas.Kind | None = None,
    include: Annotated[
        Literal["replaced"] | None, Query(description="Also what was replaced: prompts without pictures.")
    ] = None,
    limit: Limit = 20,
    after: UUID | None = None,
) -> Response:
    """A character's pictures, newest first. Supports `ETag` and `If-None-Match`."""
    filters = {"kind": kind, "replaced": include == "replaced", "after": after, "limit": limit + 1}
    rows = await pictures.page(caller, character_id, filters)
    if unchanged := _cached(request, rows):
        return unchanged
    data = await render.images(rows[:limit])
    page = schemas.CharacterImageList(
        data=data,
        has_more=len(rows) > limit,
        first_id=data[0].id if data else None,
        last_id=data[-1].id if data else None,
    )
    return _answer(page, rows, 200, finished=True)


@router.delete("/v1/characters/{character_id}/images/{character_image_id}")
async def delete_character_image(
    character_id: UUID, character_image_id: UUID, caller: Generator, pictures: Pictures
) -> schemas.DeletedImage:
    """Delete one picture, for good. The answer tells of each part; one that fails is not tried again."""
    deleted = await pictures.delete(caller, character_id, character_image_id)
    return schemas.DeletedImage(id=character_image_id, deleted=deleted)


@router.post("/v1/characters/{character_id}/images/{character_image_id}/select")
async def select_character_image(
    character_id: UUID, character_image_id: UUID, caller: Generator, pictures: Pictures, render: Render
) -> schemas.CharacterImage:
    """Pick the picture that stands for the character; the one before is let go."""
    return await render.image(await pictures.select(caller, character_id, character_image_id))


def _asking(submission: Submission, body: BaseModel, run_token: str | None = None) -> Submission:
    """A run token is a key; one of each would be two wishes in one."""
    asking = submission.asking(body.model_dump(mode="json"))
    if run_token is None:
        return asking
    if submission.key not in (None, run_token):
        raise BadRequest(
            "`run_token` and `Idempotency-Key` are two names of one thing: send one.",
            code="two_keys",
            param="run_token",
        )
    return asking.keyed(run_token)


async def _drawn(
    request: Request,
    caller: Principal,
    pictures: CharacterPictures,
    submission: Submission,
    created: Created | Replay,
) -> Response:
    """What was drawn; past the limit of waiting, the job that goes on."""
    if isinstance(created, Replay):
        return _replayed(created)
    row = await pictures.wait(caller, created.row)
    answer = await _finished(request, caller, pictures, row) if row["status"] in TERMINAL else None
    answer = answer or _job_answer(await cast(Renderer, request.app.state.renderer).job(row))
    answer.headers["Location"] = f"/v1/jobs/{row['id']}"
    return await _kept(request, caller, submission, created, answer)


async def _finished(
    request: Request, caller: Principal, pictures: CharacterPictures, row: DictRow
) -> JSONResponse:
    images = await (await _renderer(request)).images(await pictures.drawn(caller, row))
    success = all(image.status == "succeeded" for image in images)
    body = schemas.Drawn(success=success, job_id=row["id"], images=images)
    return JSONResponse(body.model_dump(mode="json"), headers={"Cache-Control": "no-store"})


def _job_answer(job: Job) -> JSONResponse:
    headers = {"Retry-After": str(job.poll_after_ms // 1000), "Cache-Control": "no-store"}
    return JSONResponse(job.model_dump(mode="json"), 202, headers)


async def _kept(
    request: Request, caller: Principal, submission: Submission, created: Created, answer: JSONResponse
) -> JSONResponse:
    """The answer, remembered for repeats with the same key."""
    if created.replayed:
        answer.headers["Idempotent-Replayed"] = "true"
    if submission.key is not None:
        jobs = cast(JobService, request.app.state.jobs)
        await jobs.keep_answer(caller, submission.key, answer.status_code, json.loads(bytes(answer.body)))
    return answer


def _replayed(first: Replay) -> JSONResponse:
    return JSONResponse(first.body, first.status, headers={"Idempotent-Replayed": "true"})


def _shown(body: schemas.Character, row: DictRow) -> JSONResponse:
    return _answer(body, [row], 200, finished=body.status in ("ready", "failed"))


def _answer(body: BaseModel, rows: list[DictRow], status: int, *, finished: bool) -> JSONResponse:
    headers = {"ETag": etag(rows), "Cache-Control": "private, no-cache"}
    if not finished:
        headers["Retry-After"] = str(POLL_AFTER_MS // 1000)
    return JSONResponse(body.model_dump(mode="json"), status, headers)


def _cached(request: Request, rows: list[DictRow]) -> Response | None:
    headers = {"ETag": etag(rows), "Cache-Control": "private, no-cache"}
    if request.headers.get("if-none-match") != headers["ETag"]:
        return None
    return Response(status_code=304, headers=headers)
