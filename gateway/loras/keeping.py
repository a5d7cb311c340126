"""The objects of LoRAs, for those who compare buckets with rows."""

import re
from collections.abc import AsyncIterator
from datetime import datetime

from gateway.db import Database
from gateway.storage import LORAS

PAGE = 1000

LIVE = "select key from public.loras where key = any(%(keys)s) and deleted_at is null"

HASHES = """
select sha256 from public.loras where key = any(%(keys)s) and deleted_at is not null and sha256 is not null
"""

NAMED = """
select id, key from public.loras
where status = 'ready' and deleted_at is null and created_at < %(before)s and id::text > %(after)s
order by id::text limit %(limit)s
"""

_ID = "[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_OWN_KEY = re.compile(rf"{_ID}/(?:sent/{_ID}|{_ID}/[0-9]+)\.safetensors")


class LoraObjects:
    """LoRAs remove their objects themselves; what is sent and never registered is left for the sweep."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def owns(self, bucket: str, key: str) -> bool:
        return bucket == LORAS and _OWN_KEY.fullmatch(key) is not None

    async def live(self, bucket: str, keys: list[str]) -> set[str]:
        own = [key for key in keys if self.owns(bucket, key)]
        return {row["key"] for row in await self._db.all(LIVE, {"keys": own})}

    async def pending(self, bucket: str, keys: list[str]) -> set[str]:
        """None: a fetch ends, and a registration follows what was sent, long before an orphan's age."""
        return set()

    async def named(self, bucket: str, before: datetime) -> AsyncIterator[dict[str, str]]:
        after, more = "", bucket == LORAS
        while more:
            rows = await self._db.all(NAMED, {"before": before, "after": after, "limit": PAGE})
            more = len(rows) == PAGE
            after = str(rows[-1]["id"]) if rows else after
            yield {row["key"]: str(row["id"]) for row in rows}

    async def record_gone(self, bucket: str, keys: list[str]) -> list[str]:
        """Nothing to record: the row of a deleted LoRA says so already."""
        rows = await self._db.all(HASHES, {"keys": keys}) if bucket == LORAS else []
        return [row["sha256"] for row in rows]
