"""The loop: claim due jobs and advance them; tidy up now and then.

Any number of workers may run, each inside a gateway.  What a dead one had leased falls due again.
"""

import asyncio
import os
import secrets
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import psycopg
import structlog
from psycopg_pool import PoolTimeout

from gateway import tasks, tracing
from gateway.config import Settings
from gateway.events import EventHub
from gateway.jobs import lifecycle
from gateway.jobs.lifecycle import ClaimedJob
from gateway.jobs.repository import Jobs
from gateway.jobs.steps import Steps
from gateway.storage import StorageError

log = structlog.get_logger()

UNREACHABLE = (psycopg.OperationalError, psycopg.InterfaceError, PoolTimeout)
"""The database does not answer, or had to choose between two: the same statement may work later."""
BATCH = 50
STEPS_AT_ONCE = 64
SWEEP_SECONDS = 2.0
PRUNE_SECONDS = 600.0
GRACE_SECONDS = 10.0
"""How long a stopping worker finishes what it has begun; the rest is left to the leases."""


def new_name() -> str:
    """How a worker signs its leases."""
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}"


@dataclass(frozen=True)
class Chore:
    """Something besides jobs that is done now and then, by every gateway: it must bear company."""

    name: str
    do: Callable[[], Awaitable[object]]
    every_seconds: float
    first_after_seconds: float = 0.0


class Worker:
    """``async with Worker(...)`` runs the loop in the background; ``chores`` are done now and then."""

    def __init__(
        self,
        name: str,
        jobs: Jobs,
        steps: Steps,
        hub: EventHub,
        settings: Settings,
        chores: Sequence[Chore] = (),
    ) -> None:
        self._name = name
        self._jobs = jobs
        self._steps = steps
        self._hub = hub
        self._settings = settings
        self._chores = chores
        self._wake = asyncio.Event()
        self._stopping = False
        self._stopped = asyncio.Event()
        self._swept = asyncio.Event()
        self._in_flight = 0  # of this gateway, as far as it knows: others may end what it began
        self._unclaimed = 0  # likewise: jobs that it made and that a limit may hold back
        self._running: set[asyncio.Task[None]] = set()
        self._loops: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> "Worker":
        if self._settings.worker:
            loops = [self._run(), self._sweep_forever(), *(self._repeat(chore) for chore in self._chores)]
            self._loops = [asyncio.create_task(loop) for loop in loops]
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._stopping = True
        self._stopped.set()
        self._wake.set()
        self._swept.set()
        if unfinished := {*self._loops, *self._running}:
            await asyncio.wait(unfinished, timeout=GRACE_SECONDS)
        await tasks.end(self._loops)  # first, because they start steps
        await tasks.end(self._running)

    def wake(self) -> None:
        """Something may be due now."""
        self._wake.set()

    def expect(self) -> None:
        """A job was made."""
        self._unclaimed += 1
        self._wake.set()

    def sweep(self) -> None:
        """A job was canceled: end its call now."""
        self._swept.set()

    def settle(self, job: ClaimedJob) -> None:
        """Go on with a job that a webhook has just leased to this gateway."""
        self._start(self._steps.settle, job)

    async def _run(self) -> None:
        """Queued jobs are claimed at every wake; due ones by the clock, which alone makes them due."""
        next_due = 0.0
        while not self._stopping:
            self._wake.clear()
            claimed = 0
            try:
                claimed = await self._claim_queued()
                if time.monotonic() >= next_due:
                    next_due = time.monotonic() + self._settings.worker_interval_seconds
                    claimed += await self._claim_due()
            except UNREACHABLE as error:
                log.warning("worker_round_failed", error=str(error))
            except Exception:
                log.exception("worker_round_broke")
            if claimed < BATCH:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), self._settings.worker_interval_seconds)

    async def _claim_queued(self) -> int:
        jobs = await self._jobs.claim_queued(
            self._name,
            lease=self._settings.lease_seconds,
            per_user=self._settings.jobs_in_flight_per_user,
            in_flight=self._settings.jobs_in_flight,
            batch=self._free_hands,
        )
        self._in_flight += len(jobs)
        self._unclaimed = max(0, self._unclaimed - len(jobs)) if self._in_flight else 0
        for job in jobs:
            self._start(self._steps.advance, job)
        if jobs:
            self._hub.hint()
        return len(jobs)

    async def _claim_due(self) -> int:
        lease = self._settings.lease_seconds
        jobs = await self._jobs.claim_due(self._name, lease=lease, batch=self._free_hands)
        for job in jobs:
            self._start(self._steps.advance, job)
        return len(jobs)

    @property
    def _free_hands(self) -> int:
        return max(0, min(BATCH, STEPS_AT_ONCE - len(self._running)))

    def _start(self, step: Callable[[ClaimedJob], Awaitable[bool]], job: ClaimedJob) -> None:
        task = asyncio.create_task(self._carry_out(step, job))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _carry_out(self, step: Callable[[ClaimedJob], Awaitable[bool]], job: ClaimedJob) -> None:
        """One step.  Whatever goes wrong, the lease brings the job back."""
        try:
            ended = await step(job)
        except UNREACHABLE as error:
            log.warning("step_failed", job_id=str(job.id), error=str(error))
        except Exception:
            log.exception("step_broke", job_id=str(job.id))
            await self._stumble(job)
        else:
            if ended:
                tracing.end_job(job.id, job.row["created_at"], model=job.model)
                self._make_room()
        self._hub.hint()

    async def _stumble(self, job: ClaimedJob) -> None:
        try:
            await self._steps.stumble(job)
        except (psycopg.Error, PoolTimeout) as error:
            log.warning("step_failed", job_id=str(job.id), error=str(error))

    def _make_room(self) -> None:
        """A place in flight is free: look at the queue again if a limit may have held something back."""
        limit = min(self._settings.jobs_in_flight_per_user, self._settings.jobs_in_flight)
        if self._unclaimed or self._in_flight >= limit:
            self.wake()
        self._in_flight = max(0, self._in_flight - 1)

    async def _sweep_forever(self) -> None:
        next_prune = 0.0
        while not self._stopping:
            self._swept.clear()
            try:
                await self._sweep()
                if time.monotonic() >= next_prune:
                    next_prune = time.monotonic() + PRUNE_SECONDS
                    await self._jobs.prune()
                    await self._jobs.settle_forgotten()
            except UNREACHABLE as error:
                log.warning("sweep_failed", error=str(error))
            except Exception:
                log.exception("sweep_broke")
            with suppress(TimeoutError):
                await asyncio.wait_for(self._swept.wait(), SWEEP_SECONDS)

    async def _repeat(self, chore: Chore) -> None:
        pause = chore.first_after_seconds
        while not self._stopping:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopped.wait(), pause)
                return
            pause = chore.every_seconds
            try:
                await chore.do()
            except (*UNREACHABLE, StorageError) as error:
                log.warning("chore_failed", chore=chore.name, error=str(error))
            except Exception:
                log.exception("chore_broke", chore=chore.name)

    async def _sweep(self) -> None:
        if await self._jobs.expire_queued(lifecycle.EXPIRED) + await self._jobs.cancel_orphans():
            self._hub.hint()
        await self._jobs.discard_leftovers()
        strays = await self._jobs.stray_calls()
        await asyncio.gather(*(self._steps.close(stray) for stray in strays))
