"""What the worker does with a claimed job: hand the call over, ask after a late one, settle an ended one.

Which call it is, and what follows from its end, the job's plan says.

Every step may be cut off anywhere and done again: dispatch keys, picture ids and object keys are derived
from the row, and the row moves only through the repository's fenced statements.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import structlog
from psycopg.rows import DictRow

from gateway import tracing
from gateway.config import Settings
from gateway.errors import OverBudget, OverQuota
from gateway.gpu import CallUnknown, GpuBusy, GpuClient, GpuError, GpuRefused
from gateway.jobs import lifecycle
from gateway.jobs.ingestion import BadPicture, Ingestion, stored_as
from gateway.jobs.lifecycle import ClaimedJob, Fail, Move, Requeue, Settle, Step, Wait
from gateway.jobs.plans import (
    CallSpec,
    Changes,
    Child,
    Complete,
    FanOut,
    Next,
    Outcome,
    Picture,
    Plan,
    Plans,
    Row,
    WaitForChildren,
    stored,
)
from gateway.jobs.repository import Jobs
from gateway.storage import LORAS, Buckets, StorageError
from gateway.usage import usd_micros
from modal_app.contract import ENDED, Call, ImageResult

log = structlog.get_logger()

SOURCE_SECONDS = 3600
"""How long the GPU service may take until it fetches a file: a queue, and the start of a GPU."""


class SourceGone(Exception):
    """A file that the job draws from is no longer in its bucket."""


class Steps:
    """The steps of one worker, who signs its leases with ``worker``."""

    def __init__(
        self,
        jobs: Jobs,
        gpu: GpuClient,
        buckets: Buckets,
        ingestion: Ingestion,
        settings: Settings,
        worker: str,
        plans: Plans,
    ) -> None:
        self._jobs = jobs
        self._gpu = gpu
        self._buckets = buckets
        self._ingestion = ingestion
        self._settings = settings
        self._worker = worker
        self._plans = plans

    async def advance(self, job: ClaimedJob) -> bool:
        """Take a claimed job one step on; whether that has ended it."""
        step = lifecycle.next_step(job)
        if step is Step.SETTLE:
            return await self.settle(job)
        with _told(job, step):
            return await self._take(job, step)

    async def _take(self, job: ClaimedJob, step: Step) -> bool:
        if job.plan not in self._plans:
            return await self._leave(job)
        match step:
            case Step.EXPIRE:
                return await self._jobs.fail(job, lifecycle.EXPIRED)
            case Step.LOOK:
                return await self._go_on(job, await self._jobs.children(job))
            case Step.DISPATCH:
                return await self._go_on(job)
            case _:
                return await self._ask(job)

    async def settle(self, job: ClaimedJob) -> bool:
        """Do what follows from the ended call; whether that has ended the job."""
        with _told(job, Step.SETTLE):
            return await self._settle(job)

    async def _settle(self, job: ClaimedJob) -> bool:
        assert job.call is not None
        if job.plan not in self._plans:
            return await self._leave(job)
        if job.call.status != "succeeded" or job.call.result is None:
            return await self._move(job, lifecycle.after_failed_call(job, job.call))
        pictures: list[Picture] = []
        if isinstance(job.call.result, ImageResult):
            try:
                pictures = await self._ingestion.take(job, job.call, job.call.result)
            except CallUnknown:
                return await self._give_up(job, lifecycle.after_loss(job), job.call.result)
            except (GpuError, StorageError, BadPicture, OSError) as error:
                log.warning("job_not_stored", job_id=str(job.id), error=str(error))
                move = lifecycle.after_failed_store(job, str(error))
                return await self._give_up(job, move, job.call.result)
        outcome = self._plan(job).settle(job, job.call.result, pictures)
        return await self._carry_out(job, outcome, pictures)

    async def stumble(self, job: ClaimedJob) -> None:
        """A step broke in a way nobody foresaw: try again a few times, then fail rather than hang."""
        move = lifecycle.after_stumble(job)
        try:
            await self._move(job, move)
        except Exception:
            if not isinstance(move, Fail):
                raise
            log.exception("plan_broke", job_id=str(job.id))
            await self._jobs.fail(job, move, alone=True)

    async def close(self, stray: DictRow) -> None:
        """End a call whose job has ended without it, and charge what it had cost."""
        if stray["call_id"] is None:
            if stray["old"]:
                await self._jobs.close_call(stray)
            return
        try:
            call = await self._gpu.cancel(stray["call_id"])
        except CallUnknown:
            await self._jobs.close_call(stray)
        except GpuError as error:
            log.info("stray_call_not_reached", job_id=str(stray["job_id"]), error=str(error))
        else:
            if call.status in ENDED:
                await self._record((stray["job_id"], stray["seq"], stray["attempt"]), call)

    async def _leave(self, job: ClaimedJob) -> bool:
        """The plan is one of a newer gateway, while both run."""
        return await self._move(job, Wait(lifecycle.STRANGER_SECONDS))

    def _plan(self, job: ClaimedJob) -> Plan:
        return self._plans[job.plan]

    async def _go_on(self, job: ClaimedJob, children: Sequence[Row] = ()) -> bool:
        """Make the next call, or do what else the plan wants."""
        following = self._plan(job).next(job, children)
        if isinstance(following, CallSpec):
            return await self._dispatch(job, _within_budget(job, following))
        return await self._carry_out(job, following)

    async def _carry_out(self, job: ClaimedJob, outcome: Outcome, pictures: Sequence[Picture] = ()) -> bool:
        """Write what the plan has decided; whether that has ended the job."""
        candidates = {"candidates": [*stored(job), *pictures]} if pictures else {}
        match outcome:
            case Next(changes):
                return await self._go_further(job, replace(changes, state=changes.state | candidates))
            case FanOut(children, changes):
                changes = replace(changes, state=changes.state | candidates)
                return await self._fan_out(job, children, changes)
            case WaitForChildren():
                await self._jobs.wait_for_children(job, lifecycle.CHILDREN_SECONDS)
            case Complete(kept, changes):
                if any(picture not in kept for picture in pictures):
                    changes = replace(changes, state=changes.state | candidates)
                return await self._jobs.complete(job, kept, changes)
            case Fail():
                return await self._jobs.fail(job, outcome, candidates)
        return False

    async def _go_further(self, job: ClaimedJob, changes: Changes) -> bool:
        if job.seq >= lifecycle.CALLS_LIMIT:
            return await self._jobs.fail(job, lifecycle.TOO_MANY_CALLS, changes.state)
        lease = self._settings.lease_seconds
        moved = await self._jobs.next(job, changes, worker=self._worker, lease=lease)
        return moved is not None and await self.advance(moved)

    async def _fan_out(self, job: ClaimedJob, children: Sequence[Child], changes: Changes) -> bool:
        """Whether that has ended the job: its children may be more than its user can pay for."""
        try:
            await self._jobs.fan_out(job, children, changes, lifecycle.CHILDREN_SECONDS)
        except (OverBudget, OverQuota) as over:
            return await self._jobs.fail(job, Fail(over.code, over.detail, retryable=False))
        return False

    async def _dispatch(self, job: ClaimedJob, spec: CallSpec) -> bool:
        try:
            signed = await self._signed(spec.request)
            call_id = await self._gpu.submit(job.key, spec.task, signed)
        except SourceGone as gone:
            log.warning("source_gone", job_id=str(job.id), source=str(gone))
            is_lora = str(gone).startswith(f"{LORAS}/")
            return await self._move(job, lifecycle.LORA_GONE if is_lora else lifecycle.SOURCE_GONE)
        except GpuBusy as busy:
            await self._jobs.requeue(job, Requeue(busy.retry_after), failed=False)
        except GpuRefused as refused:
            return await self._move(job, lifecycle.after_refusal(str(refused)))
        except (GpuError, StorageError) as error:
            log.warning("not_submitted", job_id=str(job.id), error=str(error))
            return await self._move(job, lifecycle.after_failed_submit(job))
        else:
            patience = self._settings.webhook_patience_seconds
            log.info("call_accepted", **_names(job) | {"call_id": call_id})
            await self._jobs.record_dispatched(job, call_id, spec, patience)
        return False

    async def _signed(self, request: dict[str, Any]) -> dict[str, Any]:
        """The request as it is sent: files by an address that works for a while, which no row keeps.

        SourceGone when a file is no longer there.
        """
        addresses = await self._addresses([source["url"] for source in _sources(request)])
        return {name: _with_addresses(value, addresses) for name, value in request.items()}

    async def _addresses(self, places: list[str]) -> dict[str, str]:
        """A signed address for each ``bucket/key``."""
        keys: defaultdict[str, list[str]] = defaultdict(list)
        for place in places:
            bucket, _, key = place.partition("/")
            keys[bucket].append(key)
        addresses: dict[str, str] = {}
        for bucket, wanted in keys.items():
            signed = await self._buckets[bucket].sign_get(wanted, SOURCE_SECONDS)
            addresses |= {f"{bucket}/{key}": address for key, address in signed.items()}
        for place in places:
            if place not in addresses:
                raise SourceGone(place)
        return addresses

    async def _ask(self, job: ClaimedJob) -> bool:
        """The webhook is late: the call is the truth."""
        assert job.call_id is not None
        patience = self._settings.webhook_patience_seconds
        following = self._plan(job).next(job, ())
        polls = following.polls if isinstance(following, CallSpec) else None
        try:
            call = await self._gpu.call(job.call_id)
        except CallUnknown:
            return await self._move(job, lifecycle.after_loss(job))
        except GpuError as error:
            log.warning("gpu_unreachable", job_id=str(job.id), error=str(error))
            return await self._move(job, lifecycle.after_silence(job, patience, polls))
        return await self._move(job, lifecycle.after_answer(job, call, patience, polls), call)

    async def _move(self, job: ClaimedJob, move: Move, call: Call | None = None) -> bool:
        """Carry a move out; whether it has ended the job."""
        match move:
            case Wait(seconds):
                await self._jobs.postpone(job, seconds, call)
            case Requeue():
                await self._jobs.requeue(job, move, failed=not move.lost)
            case Fail():
                return await self._carry_out(job, self._plan(job).give_up(job, move))
            case Settle(ended):
                leased = await self._record((job.id, job.seq, job.attempt), ended)
                return leased is not None and await self.settle(leased)
        return False

    async def _give_up(self, job: ClaimedJob, move: Move, result: ImageResult) -> bool:
        """What an attempt may have stored goes away with it, once the fence has agreed that it is over."""
        pictures = [stored_as(job, picture) for picture in result.images]
        match move:
            case Fail():
                return await self._carry_out(job, self._plan(job).give_up(job, move), pictures)
            case Requeue():
                await self._jobs.requeue(job, move, failed=False, leftovers=pictures)
                return False
        return await self._move(job, move)

    async def _record(self, key: tuple[Any, int, int], call: Call) -> ClaimedJob | None:
        return await self._jobs.record_result(
            key,
            call,
            usd_micros=usd_micros(call.gpu, call.timing.gpu_seconds),
            worker=self._worker,
            lease=self._settings.lease_seconds,
        )


def _within_budget(job: ClaimedJob, spec: CallSpec) -> CallSpec:
    """The call, to be stopped where it would take more than its job has reserved of a budget."""
    limit = job.row["limit_gpu_seconds"]
    if limit is None:
        return spec
    left = max(0.001, float(limit) - float(job.row["gpu_seconds"]))
    left = min(left, spec.request.get("limit_gpu_seconds") or left)
    return replace(spec, request=spec.request | {"limit_gpu_seconds": left})


def _told(job: ClaimedJob, step: Step) -> AbstractContextManager[None]:
    """A step in the log and, as a span, in the job's trace."""
    name = step.name.lower()
    log.info("job_step", **_names(job), step=name)
    return tracing.job_span(job.id, name, key=job.key, model=job.model)


def _names(job: ClaimedJob) -> dict[str, str | None]:
    """A job is one trace, in W3C's form: its id in 32 digits."""
    return {"job_id": str(job.id), "call_id": job.call_id, "trace_id": job.id.hex, "key": job.key}


def _sources(value: Any) -> Iterator[dict[str, Any]]:
    """Every file that a request names, as ``bucket/key`` and sha256."""
    if isinstance(value, dict):
        if "sha256" in value:
            yield value
        for each in value.values():
            yield from _sources(each)
    elif isinstance(value, list):
        for each in value:
            yield from _sources(each)


def _with_addresses(value: Any, addresses: dict[str, str]) -> Any:
    if isinstance(value, list):
        return [_with_addresses(each, addresses) for each in value]
    if isinstance(value, dict) and "sha256" in value:
        return {**value, "url": addresses[value["url"]]}
    if isinstance(value, dict):
        return {name: _with_addresses(each, addresses) for name, each in value.items()}
    return value
