"""The jobs of all users, as rows: each method sends one statement of ``statements``."""

from typing import Any
from uuid import UUID

from psycopg.rows import DictRow
from psycopg.types.json import Jsonb

from gateway.auth import Principal
from gateway.db import Database
from gateway.jobs import statements as sql
from gateway.jobs.lifecycle import ClaimedJob, Fail, Requeue
from gateway.jobs.submission import RETRY_WINDOW_SECONDS
from gateway.storage import DESIGNS
from modal_app.contract import Call, ImageRequest


class Jobs:
    """The jobs of all users, as rows."""

    def __init__(self, db: Database) -> None:
        self._db = db

    # What users ask for

    async def create(self, values: dict[str, Any]) -> DictRow | None:
        """The new row; None when its id or its idempotency key was used before."""
        as_json = {k: Jsonb(values[k]) for k in ("params", "loras", "references", "metadata")}
        return await self._db.one(sql.CREATE, values | as_json)

    async def reserve(self, wanted: UUID, credential: str, sha256: str, retry: int) -> UUID:
        """``wanted``, or the id of the job that an earlier try of the same request has made or will make."""
        values = {"wanted": wanted, "credential": credential, "sha256": sha256, "retry": retry}
        row = await self._db.one(sql.RESERVE, values | {"window_seconds": RETRY_WINDOW_SECONDS})
        assert row is not None
        return UUID(str(row["id"]))

    async def find_answer(self, user_id: UUID, key: str) -> DictRow | None:
        """What the first request with this idempotency key was answered."""
        return await self._db.one(sql.FIND_ANSWER, {"user_id": user_id, "key": key})

    async def keep_answer(self, user_id: UUID, key: str, status: int, body: dict[str, Any]) -> None:
        await self._db.do(
            sql.KEEP_ANSWER, {"user_id": user_id, "key": key, "status": status, "body": Jsonb(body)}
        )

    async def get(self, principal: Principal, job_id: UUID) -> DictRow | None:
        async with self._db.as_user(principal) as connection:
            return await (await connection.execute(sql.GET.encode(), {"id": job_id})).fetchone()

    async def page(self, principal: Principal, filters: dict[str, Any]) -> list[DictRow]:
        """At most ``filters['limit']`` rows, newest first."""
        async with self._db.as_user(principal) as connection:
            rows = await connection.execute(
                sql.LIST.encode(), filters | {"metadata": Jsonb(filters["metadata"])}
            )
            return await rows.fetchall()

    async def calls(self, principal: Principal, job_id: UUID) -> list[DictRow]:
        return await self._db.all(sql.CALLS, {"job_id": job_id, "user_id": principal.user_id})

    async def pictures(self, principal: Principal, ids: list[UUID]) -> dict[UUID, dict[str, str]]:
        """Bucket, key and hash of each of the caller's pictures, by its id."""
        if not ids:
            return {}
        async with self._db.as_user(principal) as connection:
            rows = await (await connection.execute(sql.PICTURES.encode(), {"ids": ids})).fetchall()
        return {row["id"]: {name: row[name] for name in ("bucket", "key", "sha256")} for row in rows}

    async def cancel(self, principal: Principal, job_id: UUID) -> DictRow | None:
        """The id of the call to cancel, in a row; None when the job is not the caller's or has ended."""
        return await self._db.one(sql.CANCEL, {"id": job_id, "user_id": principal.user_id})

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

    async def record_dispatched(
        self, job: ClaimedJob, call_id: str, request: dict[str, Any], patience: float
    ) -> bool:
        """The service has accepted the call; False when its webhook overtook this answer."""
        values = {"call_id": call_id, "request": Jsonb(request), "patience": patience}
        return await self._moved(sql.RECORD_DISPATCHED, job, values)

    async def record_progress(
        self, key: tuple[UUID, int, int], call: Call, seq: int, patience: float
    ) -> bool:
        values = {"stage": _stage(call), "step": call.step, "steps": call.steps, "progress_seq": seq}
        job_id, job_seq, attempt = key
        place = {"id": job_id, "seq": job_seq, "attempt": attempt, "patience": patience}
        return await self._db.one(sql.RECORD_PROGRESS, values | place) is not None

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
            **{name: Jsonb(facts[name]) for name in ("result", "error", "timing", "fingerprint")},
            **{"gpu_seconds": call.timing.gpu_seconds, "usd_micros": usd_micros},
        }
        rows = _as_claimed(await self._db.all(sql.RECORD_RESULT, values))
        return rows[0] if rows else None

    async def postpone(self, job: ClaimedJob, seconds: float, call: Call | None = None) -> bool:
        progress = {"stage": _stage(call) if call else None, "step": call.step if call else 0}
        return await self._moved(sql.POSTPONE, job, {"seconds": seconds, **progress})

    async def requeue(self, job: ClaimedJob, move: Requeue, *, failed: bool) -> bool:
        values = {"seconds": move.seconds, "lost": move.lost, "failed": failed}
        return await self._moved(sql.REQUEUE, job, values)

    async def complete(self, job: ClaimedJob, assets: list[dict[str, Any]], result_url: str) -> bool:
        values = {
            "assets": Jsonb(assets),
            "visibility": job.visibility,
            "result_url": result_url,
            "output_bytes": sum(asset["bytes"] for asset in assets),
        }
        return await self._moved(sql.COMPLETE, job, values)

    async def fail(self, job: ClaimedJob, why: Fail) -> bool:
        return await self._moved(sql.FAIL, job, vars(why))

    async def expire_queued(self, why: Fail) -> int:
        """Fail what waited in the queue past its deadline; returns how many."""
        return len(await self._db.all(sql.EXPIRE_QUEUED, vars(why)))

    # Tidying

    async def stray_calls(self) -> list[DictRow]:
        return await self._db.all(sql.STRAY_CALLS, {})

    async def close_call(self, stray: DictRow) -> None:
        await self._db.do(sql.CLOSE_CALL, {name: stray[name] for name in ("job_id", "seq", "attempt")})

    async def prune(self) -> None:
        """Drop records that outlived their use."""
        for statement in sql.PRUNE:
            await self._db.do(statement, {})

    async def _moved(self, statement: str, job: ClaimedJob, values: dict[str, Any]) -> bool:
        place = {"id": job.id, "version": job.version, "seq": job.seq, "attempt": job.attempt}
        return await self._db.one(statement, values | place) is not None


def _stage(call: Call) -> str:
    return "loading" if call.stage in (None, "loading") else "generating"


_CLAIMED = (
    *("id", "user_id", "task", "model", "stage", "version", "seq", "attempt", "tries", "step", "call_id"),
    *("visibility", "expired"),
)


def _as_claimed(rows: list[DictRow]) -> list[ClaimedJob]:
    return [
        ClaimedJob(
            **{name: row[name] for name in _CLAIMED},
            call=Call.model_validate(row["call"]) if row["call"] else None,
            request=image_request(row),
        )
        for row in rows
    ]


def image_request(row: DictRow) -> dict[str, Any]:
    """The request of task ``image`` that a job's row describes; its files are named ``bucket/key``."""
    named = ("model", "width", "height", "num_images", "seed")
    uses = [{**use, "url": f"{use.get('bucket', DESIGNS)}/{use['key']}"} for use in row["references"]]
    request = ImageRequest.model_validate(
        {
            **{name: row[name] for name in named},
            **row["params"],
            "prompt": row["prompt_final"],
            "negative_prompt": row["prompt_negative"],
            "references": [use for use in uses if use["role"] != "mask"],
            "mask": next((use for use in uses if use["role"] == "mask"), None),
        }
    )
    return request.model_dump(mode="json", exclude_none=True)
