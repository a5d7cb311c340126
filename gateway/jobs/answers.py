"""How a request that makes a job is answered: at once, or once it has ended; and the same to its repeats."""

import json
import re
from typing import Annotated

from fastapi import Header, Response
from fastapi.responses import JSONResponse
from psycopg.rows import DictRow

from gateway.auth import Principal
from gateway.jobs import schemas
from gateway.jobs.lifecycle import TERMINAL
from gateway.jobs.plans import POLL_AFTER_MS
from gateway.jobs.rendering import Renderer, etag
from gateway.jobs.service import Created, JobService, Replay
from gateway.jobs.submission import Submission

WAIT_LIMIT_SECONDS = 60
CACHE_HIT = {"Cache-Status": "Tenkaigen; hit"}
"""RFC 9211."""

Prefer = Annotated[
    str | None, Header(description="`wait=N` holds the answer until the job ends, 60 s at most.")
]


async def answer_created(
    caller: Principal,
    service: JobService,
    render: Renderer,
    created: Created | Replay,
    submission: Submission,
    prefer: str | None,
) -> Response:
    """202, or 200 with the job as it ended within the seconds that the caller prefers to wait."""
    if isinstance(created, Replay):
        return answer_again(created)
    answer = await _after_waiting(caller, service, render, created, prefer)
    return await kept(caller, service, submission, created, answer)


async def kept(
    caller: Principal, service: JobService, submission: Submission, created: Created, answer: JSONResponse
) -> JSONResponse:
    """The answer, remembered for repeats with the same key."""
    if created.replayed:
        answer.headers["Idempotent-Replayed"] = "true"
    if created.cached:
        answer.headers.update(CACHE_HIT)
    if submission.key is not None:
        await service.keep_answer(caller, submission.key, answer.status_code, json.loads(bytes(answer.body)))
    return answer


def answer_again(first: Replay) -> JSONResponse:
    return JSONResponse(first.body, first.status, headers={"Idempotent-Replayed": "true"})


def answer_job(body: schemas.Job | schemas.CompatJobStatus, row: DictRow, status: int = 200) -> JSONResponse:
    headers = {"ETag": etag(row), "Cache-Control": "private, no-cache"}
    if row["status"] not in TERMINAL:
        after_ms = body.poll_after_ms if isinstance(body, schemas.Job) else POLL_AFTER_MS
        headers["Retry-After"] = str(after_ms // 1000)
    return JSONResponse(body.model_dump(mode="json"), status, headers)


async def _after_waiting(
    caller: Principal, service: JobService, render: Renderer, created: Created, prefer: str | None
) -> JSONResponse:
    row, seconds = created.row, wait_seconds(prefer)
    if seconds:
        row = await service.wait(caller, row["id"], seconds)
    ended = row["status"] in TERMINAL
    job = (await render.job(row)).model_copy(update={"cached": created.cached})
    answer = answer_job(job, row, status=200 if ended else 202)
    answer.headers["Location"] = f"/v1/jobs/{row['id']}"
    if seconds:
        answer.headers["Preference-Applied"] = f"wait={seconds}"
    return answer


def wait_seconds(prefer: str | None) -> int:
    """N of `wait=N`, 60 at most; 0 when there is none: an odd preference may be ignored."""
    found = re.search(r"(?:^|[,;\s])wait=(\d{1,6})(?:$|[,;\s])", prefer or "")
    return min(int(found.group(1)), WAIT_LIMIT_SECONDS) if found else 0
