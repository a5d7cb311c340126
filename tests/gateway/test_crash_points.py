"""A worker that dies at every await of its steps, one after another; another goes on where it was.

Between two awaits on the outside nothing is done that the outside could see, so a death before each of them
covers a death after the one before: the row written and the answer lost, the picture stored and not told of.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from psycopg.rows import DictRow

from gateway.auth import Principal
from gateway.db import Connection, Database
from gateway.jobs import image_plan, recipes
from gateway.jobs.ingestion import Ingestion
from gateway.jobs.repository import Jobs
from gateway.jobs.service import JobService
from gateway.jobs.steps import Steps
from gateway.services import keepers
from gateway.storage import DESIGNS
from gateway.storage.deletions import Deletions
from tests.support import triptych
from tests.support.stack import Stack
from tests.support.talking import Speech, talking_stack

NO_WAITING = {"lease_seconds": 0.0, "webhook_patience_seconds": 0.005, "worker": False}
MOST = 200
"""More awaits than any of these jobs has."""


UNDONE = """
select from public.generation_jobs
where (id = %(id)s or parent_id = %(id)s) and (wake_at is not null or state ? 'candidates')
union all select from private.deletions
"""

AT_ONCE = "update private.deletions set wake_at = now()"
"""Instead of the pause after a deletion that a death has cut off."""


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Questions follow each other so fast here that their number says nothing about the time."""
    monkeypatch.setattr(image_plan, "LANGUAGE_POLLS", 10_000)


class Killed(BaseException):
    """Not an Exception: nothing on the way may catch it."""


class Fuse:
    """Lets ``left`` awaits pass, then kills, and lets none pass any more."""

    def __init__(self, left: int) -> None:
        self.left = left

    def burn(self) -> None:
        if self.left == 0:
            raise Killed
        self.left -= 1


class Doomed:
    """Another object whose coroutines die by the fuse."""

    def __init__(self, inner: Any, fuse: Fuse) -> None:
        self._inner = inner
        self._fuse = fuse

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if not asyncio.iscoroutinefunction(found):
            return found

        async def call(*args: Any, **named: Any) -> Any:
            self._fuse.burn()
            return await found(*args, **named)

        return call


class DoomedDatabase(Database):
    """The same pools; every statement is an await that may be the last."""

    def __init__(self, inner: Database, fuse: Fuse) -> None:
        self._users, self._service, self._fuse = inner._users, inner._service, fuse

    @asynccontextmanager
    async def as_service(self) -> AsyncIterator[Connection]:
        async with super().as_service() as connection:
            yield Doomed(connection, self._fuse)  # type: ignore[misc]

    @asynccontextmanager
    async def service_transaction(self) -> AsyncIterator[Connection]:
        async with super().as_service() as connection, connection.transaction():
            yield Doomed(connection, self._fuse)  # type: ignore[misc]
            self._fuse.burn()  # the last statement was answered, the commit was not


class Hands:
    """A worker's steps without its clock.  Claiming kills nobody: a lost claim is a lease that ends."""

    def __init__(self, product: Stack, fuse: Fuse) -> None:
        assert product.app is not None
        state, plans = product.app.state, triptych.plans()
        buckets = {name: Doomed(bucket, fuse) for name, bucket in state.buckets.items()}
        self._db = state.db
        self._jobs = Jobs(state.db, plans)
        jobs, gpu = Jobs(DoomedDatabase(state.db, fuse), plans), Doomed(state.gpu, fuse)
        ingestion = Ingestion(gpu, state.outside, buckets[DESIGNS])  # type: ignore[arg-type]
        self._steps = Steps(jobs, gpu, buckets, ingestion, state.settings, "hands", plans)  # type: ignore[arg-type]
        self._deletions = Deletions(DoomedDatabase(state.db, fuse), buckets, keepers(state.db))

    async def work(self, job_id: str) -> None:
        """Until the job and its children have ended and are tidied up."""
        limits = {"per_user": 9, "in_flight": 9, "batch": 9}
        async with asyncio.timeout(20):
            while await self._db.all(UNDONE, {"id": job_id}):
                for job in [
                    *await self._jobs.claim_queued("hands", lease=0.0, **limits),
                    *await self._jobs.claim_due("hands", lease=0.0, batch=9),
                ]:
                    await self._steps.advance(job)
                await self._jobs.discard_leftovers()
                if await self._db.do(AT_ONCE, {}):
                    await self._deletions.carry_out()
                await asyncio.sleep(0.002)


async def die_everywhere(
    product: Stack, begin: Callable[[], Any], check: Callable[[str], None], every: int = 1
) -> int:
    """Run the job once for every await at which a worker can die, or for each so many; how many there are."""
    for point in range(0, MOST, every):
        job_id = await begin()
        try:
            await Hands(product, Fuse(point)).work(job_id)
        except Killed:
            await Hands(product, Fuse(-1)).work(job_id)
            check(job_id)
        else:
            check(job_id)
            return point
    raise AssertionError(f"not done after {MOST} awaits")


def facts(product: Stack, job_id: str) -> DictRow:
    """What has come of a job, once and for all."""
    (row,) = product.rows(
        """select status::text, prompt_final, seed, cost_usd_micros,
             (select count(*) from public.generated_assets where job_id = j.id) as pictures,
             (select array_agg(kind) from private.outbox where job_id = j.id) as told,
             (select count(*) from private.job_events e
              where e.job_id = j.id and e.event = j.status::text) as ends,
             (select coalesce(sum(usd_micros), 0) from private.generation_calls
              where job_id = j.id) as charged,
             (select array_agg(task || ' ' || status order by seq, attempt) from private.generation_calls
              where job_id = j.id) as calls
           from public.generation_jobs j where id = %s""",
        job_id,
    )
    assert row.pop("charged") == row.pop("cost_usd_micros")
    return row


async def test_an_enhanced_and_judged_job_is_the_same_wherever_its_worker_dies(
    admin_url: str, new_folder: Callable[[], Path]
) -> None:
    speech = Speech()
    async with talking_stack(admin_url, new_folder(), speech, webhook=False, **NO_WAITING) as product:

        async def begin() -> str:
            speech.asked.clear()
            speech.scores = [10.0, 90.0]
            return await begin_judged(product)

        def check(job_id: str) -> None:
            assert facts(product, job_id) == {
                "status": "completed",
                "prompt_final": "a detailed a fox, vibrant colors, detailed shading, anime art style",
                "seed": 7 + 1_000_003,
                "pictures": 1,
                "told": ["job.completed"],
                "ends": 1,
                "calls": [f"{task} succeeded" for task in ("enhance", "image", "judge", "image", "judge")],
            }
            assert [each.__class__.__name__ for each in speech.asked] == [
                "EnhanceRequest",
                "JudgeRequest",
                "JudgeRequest",
            ]
            keys = [
                row["key"] for row in product.rows("select key from public.generated_assets order by key")
            ]
            assert product.objects() == keys

        assert await die_everywhere(product, begin, check) > 30


async def begin_judged(product: Stack) -> str:
    assert product.app is not None
    service: JobService = product.app.state.jobs
    caller = Principal(UUID(str(product.user.id)), "test", frozenset({"generate"}))
    columns = {**recipes.task_columns("image", "instant", {}), "width": 64, "height": 64, "steps": 1}
    columns |= {"prompt_input": "a fox", "prompt_final": "a fox", "style": "design/anime", "seed": 7}
    columns |= {"inputs": {"enhance": {}, "judge": {"attributes": ["red"]}}, "enhance_status": "fallback"}
    job_id = uuid4()
    await service.create_task(caller, columns | {"params": {"num_inference_steps": 1}}, job_id=job_id)
    return str(job_id)


async def test_a_parent_has_its_children_once_wherever_its_worker_dies(
    admin_url: str, new_folder: Callable[[], Path]
) -> None:
    speech = Speech()
    async with talking_stack(admin_url, new_folder(), speech, webhook=False, **NO_WAITING) as product:

        async def begin() -> str:
            return triptych.begin(product, product.user.id, views=("front", "back"))

        def check(job_id: str) -> None:
            parent = facts(product, job_id)
            assert (parent["status"], parent["told"], parent["calls"]) == (
                "completed",
                ["job.completed"],
                None,
            )
            children = product.rows(
                "select id::text, slot from public.generation_jobs where parent_id = %s", job_id
            )
            assert sorted(child["slot"] for child in children) == ["back", "front"]
            for child in children:
                view = facts(product, child["id"])
                assert (view["status"], view["pictures"], view["ends"]) == ("completed", 1, 1)
                assert view["calls"] == ["image succeeded"]
            (ending,) = product.rows("select * from private.endings where job_id = %s", job_id)
            assert ending["status"] == "completed"

        assert await die_everywhere(product, begin, check) > 12
