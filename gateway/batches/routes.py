"""``/v1/batches``."""

import json
from typing import Annotated, cast
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import JSONResponse

from gateway.auth import AuthenticatedRoute, Generator, Principal, Reader
from gateway.batches import rendering, schemas
from gateway.batches.service import Batches
from gateway.jobs.answers import Prefer, answer_again, wait_seconds
from gateway.jobs.plans import POLL_AFTER_MS
from gateway.jobs.rendering import Renderer
from gateway.jobs.service import JobService, Replay
from gateway.jobs.submission import Submitted

router = APIRouter(route_class=AuthenticatedRoute, tags=["batches"])


async def _batches(request: Request) -> Batches:
    return cast(Batches, request.app.state.batches)


async def _jobs(request: Request) -> JobService:
    return cast(JobService, request.app.state.jobs)


async def _renderer(request: Request) -> Renderer:
    return cast(Renderer, request.app.state.renderer)


Service = Annotated[Batches, Depends(_batches)]
JobsOf = Annotated[JobService, Depends(_jobs)]
Render = Annotated[Renderer, Depends(_renderer)]


@router.post("/v1/batches", status_code=202, response_model=schemas.Batch)
async def create_batch(
    body: schemas.BatchCreate,
    caller: Generator,
    service: Service,
    jobs: JobsOf,
    render: Render,
    submission: Submitted,
    prefer: Prefer = None,
) -> Response:
    """Up to 100 jobs, all or none: one that is refused, or a budget without room for all, refuses the batch.

    From then on each is a job like any other, and one that fails leaves the others alone.
    """
    created = await service.create(caller, body, submission)
    if isinstance(created, Replay):
        return answer_again(created)
    seconds = wait_seconds(prefer)
    if seconds:
        await service.wait(caller, created.id, seconds)
    answer = _answer(await _shown(caller, service, render, created.id))
    answer.headers["Location"] = f"/v1/batches/{created.id}"
    if seconds:
        answer.headers["Preference-Applied"] = f"wait={seconds}"
    if created.replayed:
        answer.headers["Idempotent-Replayed"] = "true"
    if submission.key is not None:
        await jobs.keep_answer(caller, submission.key, answer.status_code, json.loads(bytes(answer.body)))
    return answer


@router.post("/v1/batches/estimate")
async def estimate_batch(
    body: schemas.BatchCreate, caller: Reader, service: Service
) -> schemas.BatchEstimate:
    """What a batch of these requests would take and cost as a whole. Nothing is made."""
    return await service.estimate(caller, body)


@router.get("/v1/batches")
async def list_batches(
    caller: Reader,
    service: Service,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    after: UUID | None = None,
) -> schemas.BatchList:
    """The caller's batches, newest first, without their jobs."""
    rows = await service.page(caller, after, limit + 1)
    data = [rendering.summary(row) for row in rows[:limit]]
    first, last = (data[0].id, data[-1].id) if data else (None, None)
    return schemas.BatchList(data=data, has_more=len(rows) > limit, first_id=first, last_id=last)


@router.get("/v1/batches/{batch_id}")
async def get_batch(batch_id: UUID, caller: Reader, service: Service, render: Render) -> schemas.Batch:
    """A batch with its jobs, in the order of the requests."""
    return await _shown(caller, service, render, batch_id)


@router.get("/v1/batches/{batch_id}/results")
async def batch_results(
    batch_id: UUID, caller: Reader, service: Service, render: Render
) -> schemas.BatchResults:
    """Pictures, error and cost of each request, in their order; those that have not ended have none yet."""
    return await rendering.results(await service.jobs(caller, batch_id), render)


@router.post("/v1/batches/{batch_id}/cancel")
async def cancel_batch(batch_id: UUID, caller: Generator, service: Service, render: Render) -> schemas.Batch:
    """Cancel every job of it that has not ended. Idempotent; what was drawn stays."""
    await service.cancel(caller, batch_id)
    return await _shown(caller, service, render, batch_id)


async def _shown(caller: Principal, service: Batches, render: Renderer, batch_id: UUID) -> schemas.Batch:
    jobs = await service.jobs(caller, batch_id)
    return await rendering.batch(await service.get(caller, batch_id), jobs, render)


def _answer(shown: schemas.Batch) -> JSONResponse:
    """200 once all has ended, else 202 with the time after which to ask again."""
    ended = shown.finished_at is not None
    headers = {} if ended else {"Retry-After": str(POLL_AFTER_MS // 1000)}
    return JSONResponse(shown.model_dump(mode="json"), 200 if ended else 202, headers)
