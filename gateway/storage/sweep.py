"""Do objects and rows still match?  Looked at from both sides, rarely.

An object without a row is what a crash may leave behind: it goes to ``private.deletions``.  A row without
an object is a picture that is lost: it is told, and nothing is done about it.
"""

import datetime
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

import structlog

from gateway.db import Database
from gateway.storage import Bucket, Buckets
from gateway.storage.deletions import Keeper

log = structlog.get_logger()

ORPHAN_AGE = datetime.timedelta(hours=24)
"""Younger objects may belong to work under way; a job ends within its deadline, 24 hours at most."""
PAGE = 1000
SUSPICIOUS_ORPHANS = 100
"""From here on, orphans in the majority mean that bucket and database are not of one installation."""

UNSCHEDULED = """
select key from unnest(%(keys)s::text[]) as key
where not exists (select from private.deletions d where d.bucket = %(bucket)s and d.key = key.key)
"""

SCHEDULE = """
insert into private.deletions (bucket, key, reason)
select %(bucket)s, key, 'orphan' from unnest(%(keys)s::text[]) as key
on conflict (bucket, key) do nothing
"""


@dataclass
class Findings:
    """What one bucket and its rows are to each other."""

    bucket: str
    objects: int = 0
    rows: int = 0
    orphans: list[str] = field(default_factory=list)
    """Keys of old objects that no row names."""
    unknown: list[str] = field(default_factory=list)
    """Keys of old objects that no part of the gateway would have written; they stay."""
    lost: dict[str, str] = field(default_factory=dict)
    """Key by id of rows whose object is not there."""

    @property
    def suspicious(self) -> bool:
        return len(self.orphans) > SUSPICIOUS_ORPHANS and len(self.orphans) * 2 > self.objects


class Sweep:
    """Compares every bucket with the rows of its keepers."""

    def __init__(self, db: Database, buckets: Buckets, keepers: Sequence[Keeper]) -> None:
        self._db = db
        self._buckets = buckets
        self._keepers = keepers

    async def run(
        self, *, age: datetime.timedelta = ORPHAN_AGE, dry_run: bool = False, force: bool = False
    ) -> list[Findings]:
        """Look, and schedule what is orphaned for deletion.

        Nothing is scheduled with ``dry_run``, or where most objects are orphans, unless by ``force``.
        """
        before = datetime.datetime.now(datetime.UTC) - age
        found = [await self._look(bucket, before) for bucket in self._buckets.values()]
        if not dry_run:
            for bucket in self._buckets.values():
                await bucket.discard_unfinished(before)
        for findings in found:
            _tell(findings)
            if findings.orphans and not dry_run and (force or not findings.suspicious):
                await self._db.do(SCHEDULE, {"bucket": findings.bucket, "keys": findings.orphans})
        return found

    async def _look(self, bucket: Bucket, before: datetime.datetime) -> Findings:
        findings = Findings(bucket.name)
        async for keys in self._old_keys(bucket, before, findings):
            await self._judge(keys, findings)
        for keeper in self._keepers:
            async for page in keeper.named(bucket.name, before):
                there = await bucket.sign_get(page, 60)
                findings.rows += len(page)
                findings.lost |= {row: key for key, row in page.items() if key not in there}
        return findings

    async def _old_keys(
        self, bucket: Bucket, before: datetime.datetime, findings: Findings
    ) -> AsyncIterator[list[str]]:
        page: list[str] = []
        async for found in bucket.list():
            findings.objects += 1
            if found.created_at < before:
                page.append(found.key)
            if len(page) == PAGE:
                yield page
                page = []
        yield page

    async def _judge(self, keys: list[str], findings: Findings) -> None:
        """Sort the keys that no row names into orphans and unknown ones."""
        named: set[str] = set()
        for keeper in self._keepers:
            named |= await keeper.live(findings.bucket, keys)
            named |= await keeper.pending(findings.bucket, keys)
        nameless = [key for key in keys if key not in named]
        place = {"bucket": findings.bucket, "keys": nameless}
        for row in await self._db.all(UNSCHEDULED, place):
            key = row["key"]
            ours = any(keeper.owns(findings.bucket, key) for keeper in self._keepers)
            (findings.orphans if ours else findings.unknown).append(key)


def _tell(findings: Findings) -> None:
    counts = {"objects": findings.objects, "rows": findings.rows, "unknown": len(findings.unknown)}
    log.info("bucket_swept", bucket=findings.bucket, orphans=len(findings.orphans), **counts)
    if findings.lost:
        log.error("objects_lost", bucket=findings.bucket, images=sorted(findings.lost))
    if findings.suspicious:
        log.error("too_many_orphans", bucket=findings.bucket, orphans=len(findings.orphans))
