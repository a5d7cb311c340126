"""``/v1/jobs``, its event streams, the GPU service's webhook, and the compatibility paths."""

from typing import Annotated, cast
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import JSONResponse
from psycopg.rows import DictRow
from sse_starlette import EventSourceResponse
from starlette.background import BackgroundTask

from gateway.auth import AuthenticatedRoute, Generator, Principal, Reader
from gateway.errors import PayloadTooLarge
from gateway.jobs import schemas
from gateway.jobs.answers import Prefer, answer_again, answer_created, answer_job, kept
from gateway.jobs.callbacks import Callbacks
from gateway.jobs.estimates import Estimates
from gateway.jobs.rendering import Renderer, etag, jobs_etag
from gateway.jobs.service import JobService, Replay
from gateway.jobs.streams import LastEventId, documented, event_id, event_stream, told
from gateway.jobs.submission import Submitted
from modal_app.contract import EVENT_LIMIT_BYTES

EVENTS = documented("JobEvents")

router = APIRouter(route_class=AuthenticatedRoute, tags=["jobs"])
callback_router = APIRouter(tags=["callbacks"])


async def _service(request: Request) -> JobService:
    return cast(JobService, request.app.state.jobs)


async def _renderer(request: Request) -> Renderer:
    return cast(Renderer, request.app.state.renderer)


Service = Annotated[JobService, Depends(_service)]
Render = Annotated[Renderer, Depends(_renderer)]


@router.post("/v1/jobs", status_code=202, response_model=schemas.Job)
async def create_job(
    body: schemas.JobCreate,
    caller: Generator,
    service: Service,
    render: Render,
    submission: Submitted,
    prefer: Prefer = None,
) -> Response:
    """Draw something. Answers before any GPU work; `Prefer: wait=N` holds the answer for the pictures."""
    created = await service.create(caller, body, submission)
    return await answer_created(caller, service, render, created, submission, prefer)


@router.post("/v1/jobs/estimate", response_model=schemas.JobEstimate)
async def estimate_job(body: schemas.JobCreate, request: Request, caller: Reader) -> schemas.JobEstimate:
    """What a job with this body would take and cost. Nothing is made; its model need not be served."""
    estimates = cast(Estimates, request.app.state.estimates)
    return await estimates.one(caller, body)


@router.get("/v1/jobs", response_model=schemas.JobList)
async def list_jobs(
    request: Request,
    response: Response,
    caller: Reader,
    service: Service,
    render: Render,
    status: schemas.JobStatus | None = None,
    model: str | None = None,
    style: str | None = None,
    task: str | None = None,
    parent_id: UUID | None = None,
    batch_id: UUID | None = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    after: UUID | None = None,
) -> Response | schemas.JobList:
    """The caller's jobs, newest first. `metadata.<key>=<value>` filters by what was sent along.

    Supports `ETag` and `If-None-Match`.
    """
    filters = {"status": status, "model": model, "style": style, "task": task}
    family = {"parent_id": parent_id, "batch_id": batch_id}
    page = {"after": after, "limit": limit + 1}
    rows = await service.page(caller, {**filters, **family, **page, "metadata": _metadata(request)})
    headers = {"ETag": jobs_etag(rows), "Cache-Control": "private, no-cache"}
    if request.headers.get("if-none-match") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    response.headers.update(headers)
    data = await render.jobs(rows[:limit])
    return schemas.JobList(
        data=data,
        has_more=len(rows) > limit,
        first_id=data[0].id if data else None,
        last_id=data[-1].id if data else None,
    )


@router.get("/v1/jobs/{job_id}", response_model=schemas.Job)
async def get_job(
    job_id: UUID, request: Request, caller: Reader, service: Service, render: Render
) -> Response:
    """One job. Supports `ETag` and `If-None-Match`."""
    request.app.state.usage.polling.note()
    row = await service.get(caller, job_id)
    return _cached(request, row) or answer_job(await render.job(row), row)


@router.patch("/v1/jobs/{job_id}", response_model=schemas.Job)
async def update_job(
    job_id: UUID, body: schemas.JobUpdate, caller: Generator, service: Service, render: Render
) -> Response:
    """Change a job's metadata, also after its end: what a frontend keeps with it, say a cart's reference."""
    row = await service.describe(caller, job_id, body.metadata)
    return answer_job(await render.job(row), row)


@router.get("/v1/jobs/{job_id}/calls", response_model=schemas.CallList)
async def list_calls(job_id: UUID, caller: Reader, service: Service) -> schemas.CallList:
    """Every GPU call of a job: what was sent, what it took, what it cost."""
    rows = await service.calls(caller, job_id)
    return schemas.CallList(data=[schemas.JobCall.model_validate(row) for row in rows])


@router.post("/v1/jobs/{job_id}/cancel", response_model=schemas.Job)
async def cancel_job(job_id: UUID, caller: Generator, service: Service, render: Render) -> schemas.Job:
    """Stop a job before its next denoising step. A job that has ended stays as it is."""
    return await render.job(await service.cancel(caller, job_id))


@router.post("/v1/jobs/{job_id}/retry", status_code=202, response_model=schemas.Job)
async def retry_job(
    job_id: UUID,
    caller: Generator,
    service: Service,
    render: Render,
    submission: Submitted,
    prefer: Prefer = None,
) -> Response:
    """A new job with the recipe of one that failed or was canceled."""
    created = await service.retry(caller, job_id, submission)
    return await answer_created(caller, service, render, created, submission, prefer)


@router.get("/v1/jobs/{job_id}/events", response_class=EventSourceResponse, responses=EVENTS)
async def stream_job_events(
    job_id: UUID, caller: Reader, service: Service, render: Render, last_event_id: LastEventId = None
) -> EventSourceResponse:
    """The moves of one job as server-sent events, until it has ended."""
    await service.get(caller, job_id)
    return _event_stream(service, render, caller, job_id, last_event_id)


@router.get("/v1/events", response_class=EventSourceResponse, responses=EVENTS)
async def stream_events(
    caller: Reader, service: Service, render: Render, last_event_id: LastEventId = None
) -> EventSourceResponse:
    """The moves of all the caller's jobs as server-sent events. `Last-Event-ID` resumes without loss."""
    return _event_stream(service, render, caller, None, last_event_id)


@router.post("/api/generate", status_code=202, response_model=schemas.CompatJobCreated)
async def compat_generate(
    body: schemas.JobCreate, caller: Generator, service: Service, submission: Submitted
) -> Response:
    """Alias of `POST /v1/jobs` with a short answer."""
    created = await service.create(caller, body, submission)
    if isinstance(created, Replay):
        return answer_again(created)
    answer = JSONResponse({"jobId": str(created.row["id"]), "status": created.row["status"]}, 202)
    return await kept(caller, service, submission, created, answer)


@router.get("/api/generate/status/{job_id}", response_model=schemas.CompatJobStatus)
async def compat_status(
    job_id: UUID, request: Request, caller: Reader, service: Service, render: Render
) -> Response:
    """Alias of `GET /v1/jobs/{id}` with a short answer."""
    request.app.state.usage.polling.note()
    row = await service.get(caller, job_id)
    short = schemas.CompatJobStatus(
        jobId=row["id"],
        status=row["status"],
        result_url=await render.result_url(row),
        error_message=row["error_message"],
        processing_time_ms=row["processing_time_ms"],
    )
    return _cached(request, row) or answer_job(short, row)


@callback_router.post("/v1/callbacks/gpu", status_code=204, include_in_schema=False)
@callback_router.post("/api/generate/webhook", status_code=204, include_in_schema=False)
async def gpu_callback(request: Request) -> Response:
    """The GPU service's signed webhook. The picture is fetched and stored after the answer."""
    callbacks: Callbacks = request.app.state.callbacks
    job = await callbacks.receive(await _small_body(request), dict(request.headers))
    go_on = BackgroundTask(request.app.state.on_callback, job)
    return Response(status_code=204, background=go_on)


async def _small_body(request: Request) -> bytes:
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > EVENT_LIMIT_BYTES:
            raise PayloadTooLarge(f"An event has at most {EVENT_LIMIT_BYTES} bytes.")
    return bytes(body)


def _cached(request: Request, row: DictRow) -> Response | None:
    known = request.headers.get("if-none-match")
    if known is None or known != etag(row):
        return None
    return Response(status_code=304, headers={"ETag": etag(row), "Cache-Control": "private, no-cache"})


def _metadata(request: Request) -> dict[str, str]:
    """The `metadata.<key>=` filters of a query string."""
    pairs = request.query_params.items()
    return {name.removeprefix("metadata."): value for name, value in pairs if name.startswith("metadata.")}


def _event_stream(
    service: JobService, render: Renderer, caller: Principal, job_id: UUID | None, last_event_id: str | None
) -> EventSourceResponse:
    moves = service.stream(caller, job_id, event_id(last_event_id))
    return event_stream(told(moves, render.event))
