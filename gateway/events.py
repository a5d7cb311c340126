"""Server-sent events: one reader of the event log per gateway, any number of listeners.

The log is the truth and every gateway reads all of it, so any replica can serve any listener.  While
somebody listens, the log is read every ``INTERVAL`` and at once after a move made by this process
(``hint``).  A listener that comes back with the last id it saw is given what it missed, then goes on live.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from uuid import UUID

import psycopg
import structlog
from psycopg_pool import PoolTimeout

from gateway import tasks
from gateway.db import Database

log = structlog.get_logger()

INTERVAL = 0.5
"""Seconds between two looks at the log when nothing hints at news: how late another replica's events are."""
HINT_INTERVAL = 0.03
BATCH = 500
QUEUE_LIMIT = 1000
"""Events waiting for one slow listener; beyond it the stream ends and the client resumes by id."""

HEAD = "select pg_snapshot_xmin(pg_current_snapshot())::text::bigint * 4096 - 1 as id"

NEWS = """
select id, job_id, user_id, event, status, stage, step, steps, project_id from private.job_events
where id > %(after)s and id < pg_snapshot_xmin(pg_current_snapshot())::text::bigint * 4096
order by id limit %(limit)s
"""

MISSED = """
select id, job_id, user_id, event, status, stage, step, steps, project_id from private.job_events
where id > %(after)s and id <= %(until)s and user_id = %(user_id)s
  and (%(job_id)s::uuid is null or job_id = %(job_id)s)
order by id
"""

MISSED_OF_PROJECT = """
select id, job_id, user_id, event, status, stage, step, steps, project_id from private.job_events
where id > %(after)s and id <= %(until)s and project_id = %(project_id)s
order by id
"""


@dataclass(frozen=True)
class JobEvent:
    """One move of one job; ``id`` grows with every event a listener is given.

    ``project_id``: the comic of whose panels it draws one.
    """

    id: int
    job_id: UUID
    user_id: UUID
    event: str
    status: str
    stage: str | None
    step: int
    steps: int
    project_id: UUID | None = None


@dataclass(eq=False)
class Listener:
    """Who listens to a project is given everybody's jobs in it; whether they may is for the caller to say."""

    user_id: UUID | None
    job_id: UUID | None = None
    project_id: UUID | None = None
    queue: asyncio.Queue[JobEvent | None] = field(default_factory=asyncio.Queue)

    def wants(self, event: JobEvent) -> bool:
        if self.project_id is not None:
            return event.project_id == self.project_id
        return event.user_id == self.user_id and self.job_id in (None, event.job_id)


class EventHub:
    """Reads the log once for all listeners of this process."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._listeners: set[Listener] = set()
        self._news = asyncio.Event()
        self._closed = False
        self._cursor = 0
        self._reading = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "EventHub":
        self._task = asyncio.create_task(self._read_forever())
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._closed = True
        self._end(self._listeners)
        if self._task:
            await tasks.end([self._task])

    def hint(self) -> None:
        """A job moved in this process: look at the log now."""
        if self._listeners:
            self._news.set()

    async def head(self) -> int:
        """The id behind which everything is that happens from now on."""
        row = await self._db.one(HEAD, {})
        return int(row["id"]) if row else 0

    @asynccontextmanager
    async def listen(
        self, user_id: UUID, job_id: UUID | None = None, after: int | None = None
    ) -> AsyncIterator[tuple[int, AsyncIterator[JobEvent]]]:
        """(id, events): where the live stream starts, and the events of one user or of one job.

        They start behind ``after``, or behind that id when it is None.
        """
        async with self._listening(Listener(user_id, job_id), after) as joined:
            yield joined

    @asynccontextmanager
    async def listen_to_project(self, project_id: UUID, after: int) -> AsyncIterator[AsyncIterator[JobEvent]]:
        """The events of everybody's jobs in a project, behind ``after``."""
        async with self._listening(Listener(None, project_id=project_id), after) as (_, events):
            yield events

    @asynccontextmanager
    async def _listening(
        self, listener: Listener, after: int | None
    ) -> AsyncIterator[tuple[int, AsyncIterator[JobEvent]]]:
        since = await self._join(listener, after)
        try:
            yield since, self._events(listener, since, after)
        finally:
            self._listeners.discard(listener)

    async def _join(self, listener: Listener, after: int | None) -> int:
        """Register, and the id after which the listener is served live."""
        async with self._reading:
            if self._closed:
                listener.queue.put_nowait(None)
            if not self._listeners:
                self._cursor = await self.head()
            elif after is not None and after > self._cursor:
                await self._catch_up()  # with the gateway that told the listener of ``after``
            self._listeners.add(listener)
            self._news.set()
            return self._cursor

    async def _events(self, listener: Listener, since: int, after: int | None) -> AsyncIterator[JobEvent]:
        if after is not None:
            of_whom = {name: getattr(listener, name) for name in ("user_id", "job_id", "project_id")}
            missed = MISSED if listener.project_id is None else MISSED_OF_PROJECT
            for row in await self._db.all(missed, {"after": after, "until": since, **of_whom}):
                yield JobEvent(**row)
        while (event := await listener.queue.get()) is not None:
            yield event

    async def _read_forever(self) -> None:
        pause = INTERVAL
        while not self._closed:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), pause)
            hinted = self._news.is_set()
            self._news.clear()
            pause = INTERVAL
            if not self._listeners:
                continue
            try:
                found = await self._read()
            except (psycopg.Error, PoolTimeout) as error:
                log.warning("event_log_unreadable", error=str(error))
                await asyncio.sleep(INTERVAL)
            else:
                # Hinted at but not found: an older transaction still runs, and will not for long.
                pause = HINT_INTERVAL if hinted and not found else INTERVAL

    async def _read(self) -> bool:
        """Hand out what is new; whether there was anything."""
        before = self._cursor
        async with self._reading:
            await self._catch_up()
            return self._cursor != before

    async def _catch_up(self) -> None:
        while rows := await self._db.all(NEWS, {"after": self._cursor, "limit": BATCH}):
            for row in rows:
                self._hand_out(JobEvent(**row))
            self._cursor = rows[-1]["id"]

    def _hand_out(self, event: JobEvent) -> None:
        for listener in [listener for listener in self._listeners if listener.wants(event)]:
            if listener.queue.qsize() < QUEUE_LIMIT:
                listener.queue.put_nowait(event)
            else:
                self._end({listener})

    def _end(self, listeners: set[Listener]) -> None:
        for listener in list(listeners):
            self._listeners.discard(listener)
            listener.queue.put_nowait(None)
