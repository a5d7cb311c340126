"""The jobs of all users, as rows: each method sends one statement of ``statements``."""

import base64
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import psycopg
import structlog
from psycopg.rows import DictRow
from psycopg.types.json import Jsonb

import styles
from gateway.auth import Principal
from gateway.db import Connection, Database
from gateway.jobs import statements as sql
from gateway.jobs.lifecycle import ClaimedJob, Fail, Requeue
from gateway.jobs.plans import CallSpec, Changes, Child, Picture, Plans, Statement, child_id
from gateway.jobs.submission import RETRY_WINDOW_SECONDS
from modal_app.contract import ENDED, Call, ImageResult

log = structlog.get_logger()

JSON_COLUMNS = ("params", "loras", "references", "metadata", "inputs")


class Jobs:
    """The jobs of all users, as rows; ``plans`` say what other slices keep of an end."""

    def __init__(self, db: Database, plans: Plans) -> None:
        self._db = db
        self._plans = plans

    # What users ask for

    async def create(self, values: dict[str, Any], also: Sequence[Statement] = ()) -> DictRow | None:
        """The new row; None when its id or its idempotency key was used before.

        ``also`` is executed with it, or not at all.
        """
        creation = self.creation(values)
        if not also:
            return await self._db.one(*creation)
        async with self._db.service_transaction() as connection:
            row = await (await connection.execute(creation.sql.encode(), creation.parameters)).fetchone()
            if row is not None:
                await _execute(connection, also)
        return row

    def creation(self, values: dict[str, Any]) -> Statement:
        """What makes a job; executed with another's, as ``also`` of it."""
        return Statement(sql.CREATE, values | {name: Jsonb(values[name]) for name in JSON_COLUMNS})

    async def reserve(self, wanted: UUID | None, credential: str, sha256: str, retry: int) -> UUID | None:
        """``wanted``, or the id of the job that an earlier try of the same request has made or will make."""
        values = {"wanted": wanted, "credential": credential, "sha256": sha256, "retry": retry}
        row = await self._db.one(sql.RESERVE, values | {"window_seconds": RETRY_WINDOW_SECONDS})
        return row["id"] if row else None

    async def find_cached(
        self, user_id: UUID, cache_key: str, idempotency_key: str | None, request_sha256: str
    ) -> UUID | None:
        """The user's newest job with this cache key that has all its pictures.

        The idempotency key is remembered with it; where it was used meanwhile, nothing is found.
        """
        values = {"user_id": user_id, "cache_key": cache_key}
        asking = {"idempotency_key": idempotency_key, "request_sha256": request_sha256}
        row = await self._db.one(sql.FIND_CACHED, values | asking)
        return row["id"] if row else None

    async def find_answer(self, user_id: UUID, key: str) -> DictRow | None:
        """What the first request with this idempotency key was answered."""
        return await self._db.one(sql.FIND_ANSWER, {"user_id": user_id, "key": key})

    async def keep_answer(self, user_id: UUID, key: str, status: int, body: dict[str, Any]) -> None:
        await self._db.do(
            sql.KEEP_ANSWER, {"user_id": user_id, "key": key, "status": status, "body": Jsonb(body)}
        )

    async def get(self, principal: Principal, job_id: UUID) -> DictRow | None:
        return await self._db.read_one(principal, sql.GET, {"id": job_id})

    async def page(self, principal: Principal, filters: dict[str, Any]) -> list[DictRow]:
        """At most ``filters['limit']`` rows, newest first."""
        wanted = filters | {"metadata": Jsonb(filters["metadata"])}
        return await self._db.read(principal, sql.LIST, wanted)

    async def of_batch(self, principal: Principal, batch_id: UUID) -> list[DictRow]:
        """In the order in which they were asked for."""
        return await self._db.read(principal, sql.OF_BATCH, {"batch_id": batch_id})

    async def calls(self, principal: Principal, job_id: UUID) -> list[DictRow]:
        return await self._db.all(sql.CALLS, {"job_id": job_id, "user_id": principal.user_id})

    async def pictures(self, principal: Principal, ids: list[UUID]) -> dict[UUID, dict[str, str]]:
        """Bucket, key and hash of each of the caller's pictures, by its id."""
        if not ids:
            return {}
        rows = await self._db.read(principal, sql.PICTURES, {"ids": ids})
        return {row["id"]: {name: row[name] for name in ("bucket", "key", "sha256")} for row in rows}

    async def describe(self, principal: Principal, job_id: UUID, changes: dict[str, Any], limit: int) -> bool:
        """Change metadata, keys with None taken away; False without such a job, or beyond ``limit`` keys."""
        values = {"id": job_id, "user_id": principal.user_id, "changes": Jsonb(changes), "limit": limit}
        return await self._db.one(sql.DESCRIBE, values) is not None

    async def cancel(self, principal: Principal, job_id: UUID) -> DictRow | None:
        """The row as it was canceled, with all below it; None when it is not the caller's or has ended."""
        rows = await self._end(sql.CANCEL, {"id": job_id, "user_id": principal.user_id})
        if rows:
            await self.cancel_orphans()
        return rows[0] if rows else None

    # How jobs move

    async def claim_queued(
        self, worker: str, *, lease: float, per_user: int, in_flight: int, batch: int
    ) -> list[ClaimedJob]:
        limits = {"lease": lease, "per_user": per_user, "in_flight": in_flight, "batch": batch}
        return _as_claimed(await self._db.all(sql.CLAIM_QUEUED, {"worker": worker, **limits}))

    async def claim_due(self, worker: str, *, lease: float, batch: int) -> list[ClaimedJob]:
        return _as_claimed(
            await self._db.all(sql.CLAIM_DUE, {"worker": worker, "lease": lease, "batch": batch})
        )

    async def children(self, job: ClaimedJob) -> list[DictRow]:
        """As users see them, in the order of their slots."""
        return await self._db.all(sql.CHILDREN, {"id": job.id})

    async def record_dispatched(self, job: ClaimedJob, call_id: str, spec: CallSpec, patience: float) -> bool:
        """The service has accepted the call; False when its webhook overtook this answer."""
        values = {"call_id": call_id, "task": spec.task, "request": Jsonb(spec.request), "patience": patience}
        told = {
            "model": spec.request["model"],
            "stage": _STAGES.get(spec.task, "loading"),
            "style_version": _style_version(job),
        }
        return await self._moved(sql.RECORD_DISPATCHED, job, values | told)

    async def record_progress(
        self, key: tuple[UUID, int, int], call: Call, seq: int, patience: float
    ) -> bool:
        counted = {"step": call.step, "steps": call.steps or None}  # a language task has no steps to count
        values = {"stage": _stage(call), "progress_seq": seq, **counted, **_preview(call)}
        job_id, job_seq, attempt = key
        place = {"id": job_id, "seq": job_seq, "attempt": attempt, "patience": patience}
        return await self._db.one(sql.RECORD_PROGRESS, values | place) is not None

    async def preview(self, job_id: UUID, event_id: int) -> DictRow | None:
        """The look at the pictures that came with an event, if it is the newest."""
        return await self._db.one(sql.PREVIEW, {"job_id": job_id, "event_id": event_id})

    async def record_result(
        self,
        key: tuple[UUID, int, int],
        call: Call,
        *,
        usd_micros: int,
        worker: str,
        lease: float,
        webhook_id: str | None = None,
        body_sha256: str | None = None,
    ) -> ClaimedJob | None:
        """Keep how a call ended and lease its job for storing; None when the job is past waiting for it."""
        job_id, seq, attempt = key
        facts = call.model_dump(mode="json", by_alias=True)
        values = {
            **{"id": job_id, "seq": seq, "attempt": attempt, "worker": worker, "lease": lease},
            **{"webhook_id": webhook_id, "body_sha256": body_sha256, "call": Jsonb(facts)},
            **{"call_id": call.call_id, "call_status": call.status, "gpu": call.gpu, "step": call.step},
            **{"task": call.task, "stage": _stage(call)},
            **{name: Jsonb(facts[name]) for name in ("result", "error", "timing", "fingerprint")},
            **{"gpu_seconds": call.timing.gpu_seconds, "usd_micros": usd_micros},
        }
        rows = _as_claimed(await self._db.all(sql.RECORD_RESULT, values))
        return rows[0] if rows else None

    async def postpone(self, job: ClaimedJob, seconds: float, call: Call | None = None) -> bool:
        progress = {"stage": _stage(call) if call else None, "step": call.step if call else 0}
        return await self._moved(sql.POSTPONE, job, {"seconds": seconds, **progress})

    async def requeue(
        self, job: ClaimedJob, move: Requeue, *, failed: bool, leftovers: Sequence[Picture] = ()
    ) -> bool:
        """``leftovers`` are what the attempt may have stored: to be deleted, the next one has other keys."""
        keys = [picture["key"] for picture in leftovers]
        values = {"seconds": move.seconds, "lost": move.lost, "failed": failed, "leftovers": keys}
        return await self._moved(sql.REQUEUE, job, values)

    async def next(
        self, job: ClaimedJob, changes: Changes, *, worker: str, lease: float
    ) -> ClaimedJob | None:
        """Keep what a call has left behind, and lease its job for the next call."""
        values = {"worker": worker, "lease": lease, **_changes(changes)}
        rows = _as_claimed(await self._db.all(sql.NEXT, values | _place(job)))
        return rows[0] if rows else None

    async def fan_out(
        self, job: ClaimedJob, children: Sequence[Child], changes: Changes, seconds: float
    ) -> bool:
        born = [
            {**child.columns, "id": str(child_id(job.id, child.slot)), "slot": child.slot}
            for child in children
        ]
        values = {"children": Jsonb(born), "seconds": seconds, **_changes(changes)}
        return await self._moved(sql.FAN_OUT, job, values)

    async def wait_for_children(self, job: ClaimedJob, seconds: float) -> bool:
        return await self._moved(sql.WAIT_FOR_CHILDREN, job, {"seconds": seconds})

    async def complete(self, job: ClaimedJob, pictures: Sequence[Picture], changes: Changes) -> bool:
        values = {
            "assets": Jsonb(list(pictures)),
            "style_version": _style_version(job),
            "result_url": _page(pictures[0]) if pictures else None,
            "output_bytes": sum(picture["bytes"] for picture in pictures),
            **_changes(changes),
        }
        return await self._ended(sql.COMPLETE, job, values, pictures)

    async def fail(
        self, job: ClaimedJob, why: Fail, state: dict[str, Any] | None = None, *, alone: bool = False
    ) -> bool:
        """``state`` is what the job leaves behind all the same; ``alone`` keeps no rows of its plan's."""
        values = {**vars(why), "state": Jsonb(state or {})}
        return await (self._moved if alone else self._ended)(sql.FAIL, job, values)

    async def expire_queued(self, why: Fail) -> int:
        """Fail what waited in the queue past its deadline; returns how many."""
        return len(await self._end(sql.EXPIRE_QUEUED, vars(why)))

    async def cancel_orphans(self) -> int:
        """Cancel what still runs for a parent that has ended, children's children too; returns how many."""
        count = 0
        while rows := await self._end(sql.CANCEL_ORPHANS, {}):
            count += len(rows)
        return count

    # Tidying

    async def stray_calls(self) -> list[DictRow]:
        return await self._db.all(sql.STRAY_CALLS, {})

    async def close_call(self, stray: DictRow) -> None:
        await self._db.do(sql.CLOSE_CALL, {name: stray[name] for name in ("job_id", "seq", "attempt")})

    async def discard_leftovers(self) -> None:
        """What ended jobs had stored and did not keep is to be deleted."""
        await self._db.do(sql.DISCARD_LEFTOVERS, {})

    async def settle_forgotten(self) -> None:
        """Have the ledger catch up with jobs that it holds for open and that are not."""
        await self._db.all(sql.SETTLE_FORGOTTEN, {})

    async def prune(self) -> None:
        """Drop records that outlived their use."""
        for statement in sql.PRUNE:
            await self._db.do(statement, {})

    async def _moved(self, statement: str, job: ClaimedJob, values: dict[str, Any]) -> bool:
        return await self._db.one(statement, values | _place(job)) is not None

    async def _ended(
        self, statement: str, job: ClaimedJob, values: dict[str, Any], pictures: Sequence[Picture] = ()
    ) -> bool:
        """One statement, unless a plan keeps rows of its own: those need a transaction around both."""
        if job.plan not in self._plans or not self._plans[job.plan].keeps_rows:
            return await self._moved(statement, job, values)
        async with self._db.service_transaction() as connection:
            row = await (await connection.execute(statement.encode(), values | _place(job))).fetchone()
            if row is not None:
                await _execute(connection, self._plans[job.plan].ended(row, pictures))
        return row is not None

    async def _end(self, statement: str, values: dict[str, Any]) -> list[DictRow]:
        """The rows, of any plan, that a statement has ended; a plan that is broken holds nobody up."""
        async with self._db.service_transaction() as connection:
            rows = await (await connection.execute(statement.encode(), values)).fetchall()
            for row in rows:
                plan = self._plans.get(row["plan"] or row["task"])
                if plan is None or not plan.keeps_rows:
                    continue
                try:
                    async with connection.transaction():
                        await _execute(connection, plan.ended(row, ()))
                except psycopg.OperationalError:
                    raise
                except Exception:
                    log.exception("plan_broke", job_id=str(row["id"]))
        return rows


async def _execute(connection: Connection, statements: Sequence[Statement]) -> None:
    for statement in statements:
        await connection.execute(statement.sql.encode(), statement.parameters)


def _place(job: ClaimedJob) -> dict[str, Any]:
    """Where a move starts, and the fence that it has to pass."""
    return {"id": job.id, "version": job.version, "seq": job.seq, "attempt": job.attempt}


def _changes(changes: Changes) -> dict[str, Any]:
    references = None if changes.references is None else Jsonb(changes.references)
    return {**vars(changes), "state": Jsonb(changes.state), "references": references}


_STAGES = {"enhance": "enhancing", "judge": "judging"}


def _preview(call: Call) -> dict[str, Any]:
    """Columns of the look that came with a call; nothing where it is no base64."""
    none = {"n": None, "content_type": None, "content": None}
    if call.preview is None:
        return none
    try:
        content = base64.b64decode(call.preview.b64_json, validate=True)
    except ValueError:
        return none
    return {"n": call.preview.n, "content_type": call.preview.content_type, "content": content or None}


def _stage(call: Call) -> str:
    """What users are told of a call that the service has accepted."""
    if call.task in _STAGES:
        return _STAGES[call.task]
    if call.status in ENDED:
        return "storing" if isinstance(call.result, ImageResult) else "generating"
    return "loading" if call.stage in (None, "loading") else "generating"


def _style_version(job: ClaimedJob) -> int | None:
    style = styles.find(job.row["style"]) if job.row["style"] else None
    return style.version if style else None


def _page(picture: Picture) -> str:
    """The stable path of a picture on the gateway."""
    return f"/images/{picture['id']}.{picture['key'].rpartition('.')[2]}"


_CLAIMED = (
    *("id", "user_id", "task", "model", "stage", "version", "seq", "attempt", "tries", "step", "call_id"),
    *("waiting", "visibility", "expired"),
)


def _as_claimed(rows: list[DictRow]) -> list[ClaimedJob]:
    return [
        ClaimedJob(
            **{name: row[name] for name in _CLAIMED},
            plan=row["plan"] or row["task"],
            call=Call.model_validate(row["call"]) if row["call"] else None,
            row=row,
        )
        for row in rows
    ]
