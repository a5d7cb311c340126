"""Uploads as rows. Users read their own; every write is the gateway's."""

from typing import Any
from uuid import UUID

from psycopg.rows import DictRow

from gateway.auth import Principal
from gateway.db import Database

COLUMNS = """
  id, user_id, source, filename, status, content_type, bytes, bucket, raw_key, key, sha256, width, height,
  error_code, error_message, created_at, expires_at, deleted_at
"""

GET = f"""
select {COLUMNS} from public.uploads
where id = any(%(ids)s) and user_id = (select auth.uid()) and deleted_at is null
"""

CREATE = f"""
with reserved as (
  insert into private.idempotency_keys (user_id, key, request_sha256, job_id)
  select %(user_id)s, %(idempotency_key)s, %(request_sha256)s, %(id)s
  where %(idempotency_key)s::text is not null
  on conflict (user_id, key) do nothing
  returning job_id
)
insert into public.uploads (
  id, user_id, source, filename, content_type, bytes, raw_key, expires_at, sweep_at
)
select
  %(id)s, %(user_id)s, 'upload', %(filename)s, %(content_type)s, %(bytes)s, %(raw_key)s, %(expires_at)s,
  %(expires_at)s + make_interval(secs => %(grace)s)
where %(idempotency_key)s::text is null or exists (select from reserved)
returning {COLUMNS}
"""

FIRST_REQUEST = """
select request_sha256, job_id as upload_id from private.idempotency_keys
where user_id = %(user_id)s and key = %(key)s
"""

EXTEND = """
update public.uploads
set expires_at = greatest(expires_at, %(expires_at)s),
    sweep_at = greatest(sweep_at, %(expires_at)s + make_interval(secs => %(grace)s))
where id = %(id)s
"""

TAKE = f"""
insert into public.uploads (id, user_id, source, filename, content_type, bytes, sweep_at)
values (
  %(id)s, %(user_id)s, %(source)s, %(filename)s, %(content_type)s, %(bytes)s,
  now() + make_interval(secs => %(grace)s)
)
returning {COLUMNS}
"""

# The key is known before anything stands there, so that a crash leaves nothing that nobody knows.
PREPARE = """
update public.uploads set key = %(key)s
where id = %(id)s and status = 'pending' and deleted_at is null
returning id
"""

# What was fetched for a job waits to be kept by it; what was sent may be sent once more until it expires.
READY = f"""
update public.uploads
set status = 'ready', content_type = %(content_type)s, bytes = %(bytes)s, sha256 = %(sha256)s,
    width = %(width)s, height = %(height)s, sweep_at = case
      when raw_key is not null then sweep_at
      when source = 'url' then now() + make_interval(secs => %(unused)s)
    end
where id = %(id)s and status = 'pending' and deleted_at is null
returning {COLUMNS}
"""

FAIL = """
update public.uploads set status = 'failed', error_code = %(code)s, error_message = %(message)s
where id = %(id)s and status = 'pending'
"""

DELETE = f"""
update public.uploads set deleted_at = now(), sweep_at = now()
where id = %(id)s and user_id = %(user_id)s and deleted_at is null
returning {COLUMNS}
"""

KEEP = """
update public.uploads set sweep_at = null
where id = any(%(ids)s) and raw_key is null and status = 'ready' and deleted_at is null
"""

# A fetched picture that no job has kept is deleted; a file that never came has failed. The lease brings back
# what a sweeper leaves behind that dies in the middle.
CLAIM_DUE = f"""
with due as (
  select id from public.uploads where sweep_at <= now() order by sweep_at limit 100 for update skip locked
)
update public.uploads u
set sweep_at = now() + interval '10 minutes',
    deleted_at = case when u.raw_key is null then coalesce(u.deleted_at, now()) else u.deleted_at end,
    status = case when u.status = 'pending' then 'failed' else u.status end,
    error_code = case when u.status = 'pending' then 'upload_expired' else u.error_code end,
    error_message = case when u.status = 'pending' then 'No file was sent and completed in time.'
      else u.error_message end
from due where u.id = due.id
returning {", ".join(f"u.{name.strip()}" for name in COLUMNS.split(","))}
"""

SWEPT = """
update public.uploads
set sweep_at = case when expires_at > now() then expires_at + make_interval(secs => %(grace)s) end
where id = any(%(ids)s)
"""


class UploadRows:
    """Each method sends one statement."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def get(self, caller: Principal, ids: list[UUID]) -> dict[UUID, DictRow]:
        """Those of the caller's, by id."""
        async with self._db.as_user(caller) as connection:
            rows = await (await connection.execute(GET.encode(), {"ids": ids})).fetchall()
        return {row["id"]: row for row in rows}

    async def create(self, values: dict[str, Any]) -> DictRow | None:
        """The new row; None when the idempotency key was used before."""
        return await self._db.one(CREATE, values)

    async def first_request(self, user_id: UUID, key: str) -> DictRow | None:
        """Hash and upload of the first request with this idempotency key."""
        return await self._db.one(FIRST_REQUEST, {"user_id": user_id, "key": key})

    async def extend(self, upload_id: UUID, values: dict[str, Any]) -> None:
        await self._db.do(EXTEND, {"id": upload_id, **values})

    async def take(self, values: dict[str, Any]) -> DictRow:
        row = await self._db.one(TAKE, values)
        assert row is not None
        return row

    async def prepare(self, upload_id: UUID, key: str) -> bool:
        """Record where the picture will stand; False when the upload waits for nothing any more."""
        return await self._db.one(PREPARE, {"id": upload_id, "key": key}) is not None

    async def ready(self, upload_id: UUID, facts: dict[str, Any]) -> DictRow | None:
        """The row with what the picture is; None when the upload waited for nothing any more."""
        return await self._db.one(READY, {"id": upload_id, **facts})

    async def fail(self, upload_id: UUID, code: str, message: str) -> None:
        await self._db.do(FAIL, {"id": upload_id, "code": code, "message": message})

    async def delete(self, caller: Principal, upload_id: UUID) -> DictRow | None:
        return await self._db.one(DELETE, {"id": upload_id, "user_id": caller.user_id})

    async def keep(self, ids: list[UUID]) -> None:
        await self._db.do(KEEP, {"ids": ids})

    async def claim_due(self) -> list[DictRow]:
        return await self._db.all(CLAIM_DUE, {})

    async def record_swept(self, ids: list[UUID], grace: float) -> None:
        await self._db.do(SWEPT, {"ids": ids, "grace": grace})
