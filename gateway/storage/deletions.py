"""Objects that have to go, one after the other, whatever fails on the way.

A bucket takes part in no transaction.  So the statement that makes an object useless writes a row of
``private.deletions`` beside it, and this carries the rows out: in batches, checked, again and again.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import datetime
from itertools import groupby
from typing import Protocol

import structlog

from gateway.db import Database
from gateway.storage import Bucket, Buckets, StorageError

log = structlog.get_logger()

BATCH = 500
COPIES_ASKED_FOR = "copies asked for"
"""The reason of a row whose writer has the copies dropped, and says what came of it: nobody asks again."""

# A claim is a lease and the pause before the next try in one: a minute, doubled up to a day.
CLAIM = """
with due as (
  select bucket, key from private.deletions
  where wake_at <= now() and bucket = any(%(buckets)s)
  order by wake_at limit %(batch)s
  for update skip locked
)
update private.deletions d
set attempts = attempts + 1,
    wake_at = now() + make_interval(secs => least(86400, 60 * power(2, least(d.attempts, 11))))
from due where d.bucket = due.bucket and d.key = due.key
returning d.bucket, d.key
"""

FORGET = "delete from private.deletions where bucket = %(bucket)s and key = any(%(keys)s)"

RECORD_FAILURE = """
update private.deletions set last_error = %(error)s where bucket = %(bucket)s and key = any(%(keys)s)
"""


class Keeper(Protocol):
    """A slice whose rows name objects."""

    def owns(self, bucket: str, key: str) -> bool:
        """Whether an object of such a key is one of this slice, so that one without a row is an orphan."""

    async def live(self, bucket: str, keys: list[str]) -> set[str]:
        """Those of ``keys`` that a row names and shows."""

    async def pending(self, bucket: str, keys: list[str]) -> set[str]:
        """Those of ``keys`` that work under way may still give a row."""

    def named(self, bucket: str, before: datetime) -> AsyncIterator[dict[str, str]]:
        """What rows made ``before`` show, in pages: id of the row by key."""

    async def record_gone(self, bucket: str, keys: list[str]) -> list[str]:
        """These objects have been removed; the hashes of what others may have copied.  May be told twice."""


class Deletions:
    """Carries out what ``private.deletions`` asks for.  Any number may run at once."""

    def __init__(
        self,
        db: Database,
        buckets: Buckets,
        keepers: Sequence[Keeper],
        drop_copies: Callable[[Sequence[str]], Awaitable[None]] | None = None,
    ) -> None:
        """``drop_copies`` is given the hashes of what is gone: others may have copies of it."""
        self._db = db
        self._buckets = buckets
        self._keepers = keepers
        self._drop_copies = drop_copies

    async def carry_out(self) -> int:
        """Remove what is due; returns how many objects are gone."""
        gone, claimed = 0, BATCH
        while claimed == BATCH:
            rows = await self._db.all(CLAIM, {"buckets": list(self._buckets), "batch": BATCH})
            claimed = len(rows)
            rows.sort(key=lambda row: row["bucket"])
            for name, group in groupby(rows, key=lambda row: row["bucket"]):
                gone += await self._remove(self._buckets[name], [row["key"] for row in group])
        return gone

    async def _remove(self, bucket: Bucket, keys: list[str]) -> int:
        keys = await self._spare_live(bucket, keys)
        try:
            removed = await bucket.delete(keys)
            left = await bucket.sign_get(set(keys).difference(removed), 60)
        except StorageError as error:
            await self._fail(bucket, keys, str(error))
            return 0
        gone = [key for key in keys if key not in left]
        hashes = [
            sha256 for keeper in self._keepers for sha256 in await keeper.record_gone(bucket.name, gone)
        ]
        await self._forget(bucket, gone)
        if self._drop_copies and hashes:
            await self._drop_copies(hashes)
        if left:
            await self._fail(bucket, list(left), "the bucket removed other objects and kept this one")
        return len(gone)

    async def _spare_live(self, bucket: Bucket, keys: list[str]) -> list[str]:
        """The last look before bytes are lost: nothing goes that a row still shows."""
        live: set[str] = set()
        for keeper in self._keepers:
            live |= await keeper.live(bucket.name, keys)
        if live:
            log.error("deletion_refused", bucket=bucket.name, keys=sorted(live))
            await self._forget(bucket, list(live))
        return [key for key in keys if key not in live]

    async def _forget(self, bucket: Bucket, keys: list[str]) -> None:
        await self._db.do(FORGET, {"bucket": bucket.name, "keys": keys})

    async def _fail(self, bucket: Bucket, keys: list[str], error: str) -> None:
        log.warning("objects_not_removed", bucket=bucket.name, count=len(keys), error=error)
        await self._db.do(RECORD_FAILURE, {"bucket": bucket.name, "keys": keys, "error": error[:500]})
