"""Which objects belong to uploads: what ``storage.sweep`` asks, when it compares buckets with rows."""

from collections.abc import AsyncIterator
from datetime import datetime

from gateway.db import Database
from gateway.storage import UPLOADS, keys

PAGE = 1000

# What an upload's own sweep has still to look at is not the business of others.
LIVE = """
select wanted.key from unnest(%(keys)s::text[]) as wanted (key)
join public.uploads u on u.id = split_part(wanted.key, '/', 2)::uuid
where wanted.key in (u.key, u.raw_key) and (u.sweep_at is not null
  or (u.deleted_at is null and u.status = 'ready' and wanted.key = u.key))
"""

NAMED = """
select id, key from public.uploads
where status = 'ready' and deleted_at is null and created_at < %(before)s and id::text > %(after)s
order by id::text limit %(limit)s
"""


class UploadObjects:
    """Uploads remove their objects themselves; a crash at the wrong moment may leave one behind."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def owns(self, bucket: str, key: str) -> bool:
        return bucket == UPLOADS and keys.is_upload(key)

    async def live(self, bucket: str, wanted: list[str]) -> set[str]:
        own = [key for key in wanted if self.owns(bucket, key)]
        return {row["key"] for row in await self._db.all(LIVE, {"keys": own})}

    async def pending(self, bucket: str, wanted: list[str]) -> set[str]:
        """None: an upload has its row before it has an object."""
        return set()

    async def named(self, bucket: str, before: datetime) -> AsyncIterator[dict[str, str]]:
        after, more = "", bucket == UPLOADS
        while more:
            rows = await self._db.all(NAMED, {"before": before, "after": after, "limit": PAGE})
            more = len(rows) == PAGE
            after = str(rows[-1]["id"]) if rows else after
            yield {row["key"]: str(row["id"]) for row in rows}

    async def record_gone(self, bucket: str, wanted: list[str]) -> list[str]:
        """Nothing to record, and nobody to tell: what an upload held is removed by the uploads' own sweep."""
        return []
