"""Batches as rows, with what their jobs add up to."""

from uuid import UUID

from psycopg.rows import DictRow

from gateway.auth import Principal
from gateway.db import Database
from gateway.jobs.plans import Statement

CREATE = "insert into public.batches (id, user_id) values (%(id)s, %(user_id)s)"

_SUMMARY = """
select b.id, b.created_at, jobs.*
from public.batches b cross join lateral (
  select count(*) as total,
    count(*) filter (where j.status = 'queued') as queued,
    count(*) filter (where j.status = 'processing') as processing,
    count(*) filter (where j.status = 'completed') as completed,
    count(*) filter (where j.status = 'failed') as failed,
    count(*) filter (where j.status = 'canceled') as canceled,
    sum(j.estimated_usd_micros)::bigint as estimated_usd_micros,
    sum(j.cost_usd_micros)::bigint as usd_micros,
    sum(j.gpu_seconds)::float as gpu_seconds,
    case when bool_and(j.finished_at is not null) then max(j.finished_at) end as finished_at
  from public.generation_jobs j where j.batch_id = b.id
) jobs
"""
GET = f"{_SUMMARY} where b.id = %(id)s"
LIST = f"""{_SUMMARY}
where %(after)s::uuid is null or (b.created_at, b.id) < (
  select created_at, id from public.batches where id = %(after)s)
order by b.created_at desc, b.id desc limit %(limit)s
"""


class BatchRows:
    """Read as their owner; made by the service, with the jobs."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def get(self, caller: Principal, batch_id: UUID) -> DictRow | None:
        return await self._db.read_one(caller, GET, {"id": batch_id})

    async def page(self, caller: Principal, after: UUID | None, limit: int) -> list[DictRow]:
        """Newest first."""
        return await self._db.read(caller, LIST, {"after": after, "limit": limit})


def creation(caller: Principal, batch_id: UUID) -> Statement:
    return Statement(CREATE, {"id": batch_id, "user_id": caller.user_id})
