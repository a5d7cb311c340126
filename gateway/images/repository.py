"""Pictures as rows: every statement, written and named as SQL."""

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg.rows import DictRow

from gateway.auth import Principal
from gateway.db import Database
from gateway.storage import DESIGNS
from gateway.storage.deletions import COPIES_ASKED_FOR
from gateway.storage.keys import THUMBNAIL, owners

RESTORE_DAYS = 7
"""For how long a deleted picture can be had back; after that its bytes are removed."""
PAGE = 1000

GET = "select * from public.generated_assets where id = %(id)s and deleted_at is null"
GET_PUBLIC = GET + " and visibility = 'public'"

LIST = """
select * from public.generated_assets a
where a.deleted_at is null
  and (%(job_id)s::uuid is null or a.job_id = %(job_id)s)
  and (%(kind)s::text is null or a.kind = %(kind)s)
  and (%(character_id)s::uuid is null or exists (
    select from public.character_images i
    where i.asset_id = a.id and i.character_id = %(character_id)s))
  and (%(panel_id)s::uuid is null or a.kind = 'panel' and exists (
    select from public.generation_jobs j
    where j.id = a.job_id and j.inputs ->> 'panel_id' = %(panel_id)s::text))
  and (%(after)s::uuid is null or (a.created_at, a.id) < (
    select created_at, id from public.generated_assets where id = %(after)s))
order by a.created_at desc, a.id desc
limit %(limit)s
"""

DELETE = f"""
with marked as (
  update public.generated_assets set deleted_at = now()
  where id = %(id)s and user_id = %(user_id)s and deleted_at is null
  returning bucket, key
)
insert into private.deletions (bucket, key, reason, wake_at)
select bucket, file, 'deleted', now() + interval '{RESTORE_DAYS} days'
from marked, unnest(array[key, key || '{THUMBNAIL}']) as file
on conflict (bucket, key) do update set reason = excluded.reason, wake_at = excluded.wake_at
"""

# Whoever deletes the outbox row first has won: the worker's claim counts it up, and then it stays.
RESTORE = f"""
with called_off as (
  delete from private.deletions d using public.generated_assets a
  where a.id = %(id)s and a.user_id = %(user_id)s
    and a.deleted_at > now() - interval '{RESTORE_DAYS} days'
    and d.bucket = a.bucket and d.key in (a.key, a.key || '{THUMBNAIL}') and d.attempts = 0
  returning d.key
)
update public.generated_assets set deleted_at = null
where id = %(id)s and user_id = %(user_id)s and purged_at is null and key in (select key from called_off)
"""

OWN = "select deleted_at from public.generated_assets where id = %(id)s and user_id = %(user_id)s"

# Thumbnails stand and fall with their picture.
_KEYS = f"""
select file, case when right(file, {len(THUMBNAIL)}) = '{THUMBNAIL}'
  then left(file, -{len(THUMBNAIL)}) else file end as picture
from unnest(%(keys)s::text[]) as file
"""

LIVE = f"""
select file as key from ({_KEYS.strip()}) as wanted
where exists (select from public.generated_assets a
  where a.bucket = %(bucket)s and a.key = wanted.picture and a.deleted_at is null)
"""

PENDING = """
select file as key
from unnest(%(keys)s::text[], %(jobs)s::uuid[], %(characters)s::text[]) as wanted (file, job_id, character_id)
where exists (select from public.generation_jobs j where j.id = wanted.job_id and j.wake_at is not null)
  or exists (select from public.generation_jobs j
    where j.wake_at is not null and j.inputs ->> 'character_id' = wanted.character_id)
"""

NAMED = """
select id, key from public.generated_assets
where bucket = %(bucket)s and deleted_at is null and created_at < %(before)s and key > %(after)s
order by key limit %(limit)s
"""

RECORD_GONE = f"""
with gone as (
  update public.generated_assets set purged_at = now()
  where bucket = %(bucket)s and key = any(%(keys)s) and deleted_at is not null and purged_at is null
  returning bucket, key, sha256
)
select sha256 from gone where not exists (select from private.deletions d
  where d.bucket = gone.bucket and d.key = gone.key and d.reason = '{COPIES_ASKED_FOR}')
"""


class ImageRows:
    """Read as their owner; marked and purged by the service, which alone may write."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def get(self, caller: Principal, image_id: UUID) -> DictRow | None:
        return await self._db.read_one(caller, GET, {"id": image_id})

    async def get_public(self, image_id: UUID) -> DictRow | None:
        return await self._db.one(GET_PUBLIC, {"id": image_id})

    async def page(self, caller: Principal, filters: dict[str, Any]) -> list[DictRow]:
        """At most ``filters['limit']`` rows, newest first."""
        return await self._db.read(caller, LIST, filters)

    async def own(self, caller: Principal, image_id: UUID) -> DictRow | None:
        """When the caller's picture was deleted, in a row; None when there is no such picture."""
        return await self._db.one(OWN, {"id": image_id, "user_id": caller.user_id})

    async def delete(self, caller: Principal, image_id: UUID) -> None:
        await self._db.do(DELETE, {"id": image_id, "user_id": caller.user_id})

    async def restore(self, caller: Principal, image_id: UUID) -> None:
        await self._db.do(RESTORE, {"id": image_id, "user_id": caller.user_id})

    # As a keeper of objects, see storage.deletions

    def owns(self, bucket: str, key: str) -> bool:
        return bucket == DESIGNS and owners(key) is not None

    async def live(self, bucket: str, keys: list[str]) -> set[str]:
        return {row["key"] for row in await self._db.all(LIVE, {"bucket": bucket, "keys": keys})}

    async def pending(self, bucket: str, keys: list[str]) -> set[str]:
        own = {key: found for key in keys if bucket == DESIGNS and (found := owners(key))}
        jobs = [job for job, _ in own.values()]
        characters = [str(character) if character else None for _, character in own.values()]
        place = {"keys": list(own), "jobs": jobs, "characters": characters}
        return {row["key"] for row in await self._db.all(PENDING, place)}

    async def named(self, bucket: str, before: datetime) -> AsyncIterator[dict[str, str]]:
        after, more = "", True
        while more:
            place = {"bucket": bucket, "before": before, "after": after, "limit": PAGE}
            rows = await self._db.all(NAMED, place)
            more = len(rows) == PAGE
            after = rows[-1]["key"] if rows else after
            yield {row["key"]: str(row["id"]) for row in rows}

    async def record_gone(self, bucket: str, keys: list[str]) -> list[str]:
        return [row["sha256"] for row in await self._db.all(RECORD_GONE, {"bucket": bucket, "keys": keys})]
