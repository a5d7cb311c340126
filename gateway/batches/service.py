"""What users do with batches."""

import asyncio
from dataclasses import dataclass
from uuid import UUID, uuid4

from psycopg.rows import DictRow

from gateway.auth import Principal
from gateway.batches.repository import BatchRows, creation
from gateway.batches.schemas import BatchCreate, BatchEstimate
from gateway.errors import NotFound
from gateway.jobs.estimates import Estimates
from gateway.jobs.lifecycle import TERMINAL
from gateway.jobs.schemas import EstimateWarning, JobEstimate
from gateway.jobs.service import JobService, Replay
from gateway.jobs.submission import Submission

LIMITS = ("budget_exceeded", "quota_exceeded")


@dataclass(frozen=True)
class CreatedBatch:
    """``replayed`` when an earlier try of the request has made it."""

    id: UUID
    replayed: bool


class Batches:
    def __init__(self, rows: BatchRows, jobs: JobService, estimates: Estimates) -> None:
        self._rows = rows
        self._jobs = jobs
        self._estimates = estimates

    async def create(
        self, caller: Principal, body: BatchCreate, submission: Submission
    ) -> CreatedBatch | Replay:
        """The batch that is asked for, made once however often ``submission`` is repeated.

        Nothing is made when one request is refused, or when the budget has no room for all of them.
        """
        batch_id = uuid4()
        asking = submission.asking(body.model_dump(mode="json"))
        also = [creation(caller, batch_id)]
        created = await self._jobs.create_batch(caller, body.requests, batch_id, asking, also)
        if isinstance(created, Replay):
            return created
        return CreatedBatch(created.row["batch_id"], created.replayed)

    async def estimate(self, caller: Principal, body: BatchCreate) -> BatchEstimate:
        """What the whole would take and cost; nothing is made."""
        found = await self._estimates.all(caller, body.requests)
        etas = [each.eta_seconds for each in found]
        return BatchEstimate(
            estimated_usd_micros=sum(each.estimated_usd_micros for each in found),
            low=sum(each.low for each in found),
            high=sum(each.high for each in found),
            eta_seconds=None if None in etas else max(eta for eta in etas if eta is not None),
            requests=found,
            warnings=_of_the_whole(found),
        )

    async def get(self, caller: Principal, batch_id: UUID) -> DictRow:
        row = await self._rows.get(caller, batch_id)
        if row is None:
            raise NotFound(f"There is no batch {batch_id}.")
        return row

    async def page(self, caller: Principal, after: UUID | None, limit: int) -> list[DictRow]:
        return await self._rows.page(caller, after, limit)

    async def jobs(self, caller: Principal, batch_id: UUID) -> list[DictRow]:
        """In the order of the requests; NotFound when the caller has no such batch."""
        await self.get(caller, batch_id)
        return await self._jobs.of_batch(caller, batch_id)

    async def cancel(self, caller: Principal, batch_id: UUID) -> None:
        """Every job that has not ended; those that have stay as they are."""
        for row in await self.jobs(caller, batch_id):
            if row["status"] not in TERMINAL:
                await self._jobs.cancel(caller, row["id"])

    async def wait(self, caller: Principal, batch_id: UUID, seconds: float) -> None:
        """Until every job has ended, ``seconds`` at most."""
        clock = asyncio.get_running_loop()
        deadline = clock.time() + seconds
        for row in await self.jobs(caller, batch_id):
            left = deadline - clock.time()
            if left <= 0:
                return
            await self._jobs.wait(caller, row["id"], left)


def _of_the_whole(found: list[JobEstimate]) -> list[EstimateWarning]:
    """Limits of the last request, which has all others before it, and whatever else any has to say, once."""
    said = {
        warning.code: warning
        for each in found
        for warning in each.warnings
        if warning.code not in LIMITS or each is found[-1]
    }
    return list(said.values())
