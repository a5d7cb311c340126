"""What has been measured lately, remembered for a few seconds: no answer costs a statement of its own.

``History.now`` gives what is known at once and looks anew in the background; ``History.fresh`` waits.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar
from uuid import UUID

import psycopg
import structlog
from psycopg.rows import DictRow
from psycopg_pool import PoolTimeout

from gateway.db import Database
from gateway.usage import statements as sql
from gateway.usage.estimates import Sample, parallelism, quantile

log = structlog.get_logger()

REMEMBERED_SECONDS = 5.0
SAMPLES = 300
"""Newest calls of a model that are looked at."""
WARM_SECONDS = 60.0
"""For so long after a call, a GPU that would have to start is taken to be still there."""

T = TypeVar("T")


class Remembered(Generic[T]):
    """A value that is looked up again once it is a few seconds old; the old one while that fails."""

    def __init__(self, value: T, look: Callable[[], Awaitable[T]]) -> None:
        self._value = value
        self._look = look
        self._stale_at = 0.0
        self._looking: asyncio.Task[None] | None = None

    def now(self) -> T:
        """What is known; a look in the background if that is old."""
        self._start()
        return self._value

    async def fresh(self) -> T:
        """What is known and not old."""
        self._start()
        if self._looking is not None:
            await asyncio.shield(self._looking)
        return self._value

    def _start(self) -> None:
        if time.monotonic() >= self._stale_at and self._looking is None:
            self._looking = asyncio.create_task(self._refresh())

    async def _refresh(self) -> None:
        try:
            self._value = await self._look()
        except (psycopg.Error, PoolTimeout) as error:
            log.info("history_not_read", error=str(error))
        finally:
            self._stale_at = time.monotonic() + REMEMBERED_SECONDS
            self._looking = None


@dataclass(frozen=True)
class ModelHistory:
    """Newest calls of a model that succeeded, and how long the first of a GPU waited for it to start."""

    samples: list[Sample] = field(default_factory=list)
    start_seconds: float | None = None
    """Median of those that did wait; None when none was seen."""
    last_ended: float | None = None
    """Seconds since the last one ended, when this was read."""

    @property
    def warm(self) -> bool:
        return self.last_ended is not None and self.last_ended < WARM_SECONDS


@dataclass(frozen=True)
class Queue:
    """Who waits with how many jobs, and how many calls the GPU service runs at once."""

    waiting: dict[UUID, int] = field(default_factory=dict)
    running: int = 0
    parallel: float = 1.0

    def ahead(self, user_id: UUID, position: int) -> int:
        """Jobs that start before a user's job at a place in their own queue: users are served in turn."""
        others = sum(min(jobs, position) for user, jobs in self.waiting.items() if user != user_id)
        return position - 1 + others + self.running


class History:
    """Measurements by model, and the queue."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._models: dict[str, Remembered[ModelHistory]] = {}
        self.queue = Remembered(Queue(), self._look_at_queue)

    def of(self, model_id: str) -> Remembered[ModelHistory]:
        """Of a model of the catalogue."""
        if model_id not in self._models:
            self._models[model_id] = Remembered(ModelHistory(), lambda: self._look_at(model_id))
        return self._models[model_id]

    async def _look_at(self, model_id: str) -> ModelHistory:
        rows = await self._db.all(sql.SAMPLES, {"model": model_id, "limit": SAMPLES})
        starts = sorted(row["start_seconds"] for row in rows if row["start_seconds"] >= 0.5)
        return ModelHistory(
            samples=[_sample(row) for row in rows],
            start_seconds=quantile(starts, 0.5) if starts else None,
            last_ended=min((row["age"] for row in rows), default=None),
        )

    async def _look_at_queue(self) -> Queue:
        living = await self._db.all(sql.LIVING_JOBS, {})
        ended = await self._db.all(sql.LATE_CALLS, {})
        waiting = Counter({row["user_id"]: row["queued"] for row in living if row["queued"]})
        return Queue(
            waiting=dict(waiting),
            running=sum(row["running"] for row in living),
            parallel=parallelism((row["ended"] - row["gpu_seconds"], row["ended"]) for row in ended),
        )


def _sample(row: DictRow) -> Sample:
    names = ("task", "gpu", "gpu_seconds", "num_images", "passes", "pixels", "references")
    return Sample(**{name: row[name] for name in names})
