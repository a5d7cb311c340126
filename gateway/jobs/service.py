"""What users do with jobs: create, look, wait, cancel, retry.  Other slices call this, not the rows."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

from psycopg.rows import DictRow

from gateway import tracing
from gateway.auth import Principal
from gateway.errors import BadRequest, Conflict, Malformed, NotFound, OverBudget
from gateway.events import EventHub, JobEvent
from gateway.jobs import cache, recipes
from gateway.jobs.drafts import Drafts
from gateway.jobs.language_plan import ANSWERS, LanguageAnswer, LanguageTask, fallback
from gateway.jobs.lifecycle import TERMINAL
from gateway.jobs.plans import Statement
from gateway.jobs.references import References
from gateway.jobs.repository import Jobs
from gateway.jobs.schemas import METADATA_LIMIT, JobCreate
from gateway.jobs.submission import OVERTAKING_SECONDS, Submission
from gateway.usage.budgets import Budgets

LIFETIME_SECONDS = 3600
"""How long another slice's job may take."""


@dataclass(frozen=True)
class Created:
    """The job that a request asks for; ``replayed`` when an earlier try of it has made the job, ``cached``
    when another request has."""

    row: DictRow
    replayed: bool = False
    cached: bool = False


@dataclass(frozen=True)
class Replay:
    """The answer that the first request with this idempotency key was given."""

    status: int
    body: dict[str, Any]


class JobService:
    """``on_created`` and ``on_canceled`` tell this gateway's worker that there is something to do."""

    def __init__(
        self,
        jobs: Jobs,
        hub: EventHub,
        budgets: Budgets,
        drafts: Drafts,
        references: References,
        *,
        on_created: Callable[[], None],
        on_canceled: Callable[[], None],
    ) -> None:
        self._jobs = jobs
        self._hub = hub
        self._budgets = budgets
        self._drafts = drafts
        self._references = references
        self._on_created = on_created
        self._on_canceled = on_canceled

    async def create(
        self, caller: Principal, body: JobCreate, submission: Submission | None = None
    ) -> Created | Replay:
        """The job that is asked for, made once however often ``submission`` is repeated."""

        async def as_it_is() -> JobCreate:
            return body

        return await self.create_from(caller, as_it_is, submission, body.model_dump(mode="json"))

    async def create_from(
        self,
        caller: Principal,
        make_body: Callable[[], Awaitable[JobCreate]],
        submission: Submission | None,
        content: Any = None,
    ) -> Created | Replay:
        """As ``create``, of a body that takes work to make: it is made for the first try alone.

        ``content`` is what was asked for, as plain JSON, where the submission does not say it (``asking``).
        """
        sha256 = submission.sha256(content) if submission else ""
        job_id = await self._reserved(caller, submission, sha256)
        found = await self._found(caller, job_id, submission, sha256) if submission else None
        if found is not None:
            return found
        body = await make_body()
        values = await self._drafts.recipe(caller, body)
        if body.cache:
            values["cache_key"] = cache.key_of(body, values)
            cached = await self._cached(caller, values["cache_key"], submission, sha256)
            if cached is not None:
                return cached
        return await self._made(caller, job_id, values, body.expires_in_seconds, submission, sha256)

    async def create_batch(
        self,
        caller: Principal,
        bodies: Sequence[JobCreate],
        batch_id: UUID,
        submission: Submission,
        also: Sequence[Statement],
    ) -> Created | Replay:
        """A job for each body, all in one transaction or none; the row is that of the first.

        A refusal names the body it is about, ``requests.3.width`` say; ``also`` makes the batch itself.
        """
        sha256 = submission.sha256({})
        job_id = await self._reserved(caller, submission, sha256)
        found = await self._found(caller, job_id, submission, sha256)
        if found is not None:
            return found
        drafts = await self._drafts.batch(caller, bodies)
        columns = [
            {
                **values,
                "batch_id": batch_id,
                "batch_position": n,
                "expires_in_seconds": body.expires_in_seconds,
            }
            for n, (body, values) in enumerate(zip(bodies, drafts, strict=True))
        ]
        rest = [
            self._jobs.creation({**_ALONE, "id": uuid4(), "user_id": caller.user_id, **each})
            for each in columns[1:]
        ]
        references = [use for each in columns for use in each["references"]]
        lifetime = bodies[0].expires_in_seconds
        made = await self._made(caller, job_id, columns[0], lifetime, submission, sha256, [*also, *rest])
        if isinstance(made, Created) and not made.replayed:
            await self._references.keep(references)
        return made

    async def create_task(
        self,
        caller: Principal,
        columns: dict[str, Any],
        submission: Submission | None = None,
        *,
        job_id: UUID | None = None,
        lifetime: int = LIFETIME_SECONDS,
        also: Sequence[Statement] = (),
    ) -> Created | Replay:
        """Another slice's job, from columns of ``Drafts`` or ``recipes.task_columns``, changed at will.

        ``plan`` names who leads it, ``inputs`` is what that plan is told, ``image_kind`` what its pictures
        are; a job that another plan leads costs what ``priced`` has said, or nothing by itself.  ``also`` is
        executed in the transaction that makes the job; ``submission`` has the request's
        own body (``asking``), and without it the job is always Created.
        """
        sha256 = submission.sha256({}) if submission else ""
        job_id = job_id or await self._reserved(caller, submission, sha256)
        if columns["task"] in ANSWERS and columns["plan"] is None and not columns["reserved_gpu_seconds"]:
            columns = columns | await self._drafts.costs(columns)
        return await self._made(caller, job_id, columns, lifetime, submission, sha256, also)

    async def run(
        self, caller: Principal, task: LanguageTask, request: dict[str, Any], seconds: float
    ) -> LanguageAnswer:
        """The answer of a language task, or what stands in for it when there is none in ``seconds``.

        ``request`` is the contract's, without a model.
        """
        model = await self._drafts.language_model(task)
        if model is None:
            return fallback(task, request)
        columns = recipes.task_columns(task, model, request)
        job_id = uuid4()
        await self.create_task(caller, columns, job_id=job_id, lifetime=max(1, round(seconds)))
        row = await self.wait(caller, job_id, seconds)
        if row["status"] not in TERMINAL:
            row = await self.cancel(caller, row["id"])
        if row["status"] != "completed":
            return fallback(task, request)
        return ANSWERS[task].model_validate(row["state"]["result"])

    async def keep_answer(self, caller: Principal, key: str, status: int, body: dict[str, Any]) -> None:
        """Remember the answer that a repeat of this request will get."""
        await self._jobs.keep_answer(caller.user_id, key, status, body)

    async def get(self, caller: Principal, job_id: UUID) -> DictRow:
        row = await self._jobs.get(caller, job_id)
        if row is None:
            raise NotFound(f"There is no job {job_id}.")
        return row

    async def of_batch(self, caller: Principal, batch_id: UUID) -> list[DictRow]:
        """In the order in which they were asked for; none when the caller has no such batch."""
        return await self._jobs.of_batch(caller, batch_id)

    async def page(self, caller: Principal, filters: dict[str, Any]) -> list[DictRow]:
        return await self._jobs.page(caller, filters)

    async def calls(self, caller: Principal, job_id: UUID) -> list[DictRow]:
        await self.get(caller, job_id)
        return await self._jobs.calls(caller, job_id)

    async def describe(self, caller: Principal, job_id: UUID, changes: dict[str, Any]) -> DictRow:
        """The job with other metadata; BadRequest when that would be more than a job keeps."""
        await self.get(caller, job_id)
        if not await self._jobs.describe(caller, job_id, changes, METADATA_LIMIT):
            raise BadRequest(
                f"A job keeps at most {METADATA_LIMIT} values of metadata.",
                code="too_many_values",
                param="metadata",
            )
        return await self.get(caller, job_id)

    async def cancel(self, caller: Principal, job_id: UUID) -> DictRow:
        """The job, canceled unless it had ended before. Its call is ended before the next denoising step."""
        if await self._jobs.cancel(caller, job_id) is not None:
            self._on_canceled()
            self._hub.hint()
        return await self.get(caller, job_id)

    async def retry(
        self, caller: Principal, job_id: UUID, submission: Submission | None = None
    ) -> Created | Replay:
        """A new job with the recipe of one that failed or was canceled; once, as in ``create``."""
        old = await self.get(caller, job_id)
        if old["status"] not in ("failed", "canceled"):
            raise Conflict(f"A {old['status']} job cannot be retried.", code="job_not_retryable")
        lifetime = round((old["expires_at"] - old["created_at"]).total_seconds())
        values = {name: old[name] for name in RECIPE} | {"retry_of": job_id, **await self._drafts.costs(old)}
        sha256 = submission.sha256({}) if submission else ""
        new_id = await self._reserved(caller, submission, sha256)
        return await self._made(caller, new_id, values, lifetime, submission, sha256)

    async def wait(self, caller: Principal, job_id: UUID, seconds: float) -> DictRow:
        """The job once it has ended, or as it is after ``seconds``."""
        async with self._hub.listen(caller.user_id, job_id) as (_, events):
            row = await self.get(caller, job_id)
            if row["status"] in TERMINAL:
                return row
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    async for event in events:
                        if event.status in TERMINAL:
                            break
        return await self.get(caller, job_id)

    async def stream(
        self, caller: Principal, job_id: UUID | None, after: int | None
    ) -> AsyncGenerator[tuple[int, str, Mapping[str, Any]], None]:
        """(id, event, row) for every move; of one job from its state now until its end.

        The row of a ``preview`` has another column, ``preview``: how a picture looks so far.
        """
        async with self._hub.listen(caller.user_id, job_id, after) as (since, events):
            if job_id is not None and after is None:
                row = await self.get(caller, job_id)
                yield since, _event_of(row), row
                if row["status"] in TERMINAL:
                    return
                del row  # a stream waits far longer than it tells, and a row is 4 kB
            async for event in events:
                row = await self.get(caller, event.job_id)
                yield event.id, event.event, _as_of(event, row)
                if event.step and event.status not in TERMINAL:
                    look = await self._jobs.preview(event.job_id, event.id)
                    if look is not None:
                        yield look["event_id"], "preview", {**_as_of(event, row), "preview": look}
                if job_id is not None and event.status in TERMINAL:
                    return
                del row

    async def _reserved(self, caller: Principal, submission: Submission | None, sha256: str) -> UUID:
        """The id of the job to make: a new one, or that of an earlier try without a key."""
        wanted = uuid4()
        if submission is None or submission.key is not None or submission.retry is None:
            return wanted
        asking = caller.credential, sha256, submission.retry
        if submission.repeats:
            found = await self._jobs.reserve(None, *asking)
            if found is not None:
                return found
            await asyncio.sleep(OVERTAKING_SECONDS)
        return await self._jobs.reserve(wanted, *asking) or wanted

    async def _made(
        self,
        caller: Principal,
        job_id: UUID,
        values: dict[str, Any],
        lifetime: int,
        submission: Submission | None,
        sha256: str,
        also: Sequence[Statement] = (),
    ) -> Created | Replay:
        """The job, inserted unless another try of the same request was faster."""
        fixed = {"id": job_id, "user_id": caller.user_id, "expires_in_seconds": lifetime}
        repeats = {
            "idempotency_key": submission.key if submission else None,
            "credential": caller.credential if submission else None,
            "request_sha256": sha256,
        }
        try:
            row = await self._jobs.create({**_ALONE, **fixed, **values, **repeats}, also)
        except OverBudget as over:
            await self._budgets.refused(caller.user_id, over)
            raise
        if row is None:
            return await self._repeated(caller, job_id, submission, sha256)
        tracing.link_job(job_id)
        await self._references.keep(values["references"])
        self._on_created()
        self._hub.hint()
        return Created(row)

    async def _repeated(
        self, caller: Principal, job_id: UUID, submission: Submission | None, sha256: str
    ) -> Created | Replay:
        """What the try that made the job was answered, or its job where that is not known.

        A first request that was never answered, because its gateway died, stands in nobody's way.
        """
        if submission is None or submission.key is None:
            return Created(await self.get(caller, job_id), replayed=True)
        first = await self._first_answer(caller, submission.key, sha256)
        if first["status"] is not None:
            return Replay(first["status"], first["body"])
        row = await self.get(caller, first["job_id"])
        if row["status"] in TERMINAL or first["stale"] or submission.repeats:
            return Created(row, replayed=True, cached=first["cached"])
        raise Conflict(
            "The first request with this Idempotency-Key is still being answered.",
            code="idempotency_key_in_flight",
            headers={"Retry-After": "1"},
        )

    async def _found(
        self, caller: Principal, job_id: UUID, submission: Submission, sha256: str
    ) -> Created | Replay | None:
        """What an earlier try has made, before any work is done for this one."""
        if submission.key is not None:
            known = await self._jobs.find_answer(caller.user_id, submission.key)
            return await self._repeated(caller, job_id, submission, sha256) if known else None
        row = await self._jobs.get(caller, job_id) if submission.repeats else None
        return Created(row, replayed=True) if row else None

    async def _cached(
        self, caller: Principal, cache_key: str, submission: Submission | None, sha256: str
    ) -> Created | None:
        """The caller's job that has drawn the same."""
        key = submission.key if submission else None
        job_id = await self._jobs.find_cached(caller.user_id, cache_key, key, sha256)
        return Created(await self.get(caller, job_id), cached=True) if job_id else None

    async def _first_answer(self, caller: Principal, key: str, sha256: str) -> DictRow:
        first = await self._jobs.find_answer(caller.user_id, key)
        if first is None:
            raise Conflict("This Idempotency-Key has just expired.", code="idempotency_key_expired")
        if first["request_sha256"] != sha256:
            raise Malformed(
                "This Idempotency-Key was used with another body.",
                code="idempotency_key_reused",
                param="Idempotency-Key",
            )
        return first


_ALONE = {
    **recipes.NO_PLAN,
    **dict.fromkeys(("retry_of", "batch_id", "batch_position", "cache_key", "idempotency_key", "credential")),
    "request_sha256": "",
}
"""Columns and parameters of a job that belongs to nothing and that no request is known for."""


RECIPE = (
    *(
        "task",
        "priority",
        "prompt_input",
        "prompt_enhanced",
        "prompt_final",
        "prompt_negative",
        "enhance_status",
    ),
    *(
        "style",
        "model",
        "width",
        "height",
        "num_images",
        "seed",
        "params",
        "loras",
        "references",
        "visibility",
    ),
    *("metadata", "steps", "plan", "inputs", "image_kind"),
)
"""Columns that a retry takes over."""


def _event_of(row: Mapping[str, Any]) -> str:
    return str(row["status"]) if row["status"] in TERMINAL else "status"


def _as_of(event: JobEvent, row: DictRow) -> Mapping[str, Any]:
    """The row as it was at an event that is not the last: nothing later shows through."""
    if event.status in TERMINAL:
        return row
    then = {"status": event.status, "stage": event.stage, "step": event.step, "steps": event.steps}
    not_yet: dict[str, Any] = {
        "images": [],
        "error_code": None,
        "finished_at": None,
        "processing_time_ms": None,
    }
    return {**row, **then, **not_yet}
