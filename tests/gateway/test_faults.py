"""What may go wrong in the middle: kills, lost and doubled webhooks, a bucket that refuses.

Every test ends with the same invariants, read from the database and the bucket: each job has ended, each
completed one has one picture, one charge and one outbox row, and no object lies there without a row.
"""

import asyncio
import os
import random
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.config import Settings
from gateway.embedded import EmbeddedPostgres
from tests.support import triptych
from tests.support.faults import (
    FAST,
    SCALE,
    SLOW,
    all_ended,
    another,
    assert_invariants,
    eventually,
    killable,
    no_open_calls,
    restart,
)
from tests.support.stack import Stack, User, WebhookGate, serve, stack

OUTAGE_SECONDS = float(os.environ.get("OUTAGE_SECONDS", "5"))
"""How long all webhooks are lost; ``make faults`` takes ten minutes."""
RECOVERY_SECONDS = 10
"""What any fault may cost a job."""


async def create_many(product: Stack, count: int) -> list[str]:
    jobs = await asyncio.gather(
        *(product.user.create(prompt=f"number {n}", size="64x64", seed=n) for n in range(count))
    )
    return [job["id"] for job in jobs]


@pytest.fixture
def folder(new_folder: Callable[[], Path]) -> Path:
    return new_folder()


async def test_a_gateway_killed_with_twenty_jobs_in_flight_completes_all_of_them(
    admin_url: str, folder: Path
) -> None:
    async with killable(admin_url, folder) as product:
        jobs = await create_many(product, 20)
        await asyncio.sleep(0.4)
        await restart(product.gateway)
        await all_ended(product, jobs)
        assert_invariants(product, jobs)


async def test_a_gateway_killed_again_and_again_loses_and_doubles_nothing(
    admin_url: str, folder: Path
) -> None:
    dice = random.Random(1)
    async with killable(admin_url, folder) as product:
        jobs = await create_many(product, 40 * SCALE)
        for _ in range(4 * min(SCALE, 5)):
            await asyncio.sleep(dice.uniform(0.05, 0.8) * min(SCALE, 5))
            await restart(product.gateway)
        await all_ended(product, jobs)
        assert_invariants(product, jobs)


async def test_jobs_end_when_the_gpu_service_is_killed_and_comes_back(admin_url: str, folder: Path) -> None:
    async with killable(admin_url, folder) as product:
        jobs = await create_many(product, 20)
        await asyncio.sleep(0.5)
        await restart(product.gpu)
        await all_ended(product, jobs)
        assert_invariants(product, jobs, allowed=("completed", "failed"))
        failures = product.rows(
            "select distinct error_code from public.generation_jobs where status = 'failed'"
        )
        assert {row["error_code"] for row in failures} <= {"call_lost"}


async def test_no_job_hangs_when_the_gpu_service_never_comes_back(admin_url: str, folder: Path) -> None:
    slow = SLOW | {"INSTANT_SECONDS": "60"}  # what it had drawn would be asked for beyond the deadline
    async with killable(admin_url, folder, gpu=slow) as product:
        jobs = []
        for n in range(5):
            body: dict[str, Any] = {"prompt": str(n), "size": "64x64", "expires_in_seconds": 3}
            jobs.append((await product.user.create(**body))["id"])
        await asyncio.sleep(0.15)
        product.gpu.kill()
        await all_ended(product, jobs)
        assert_invariants(product, jobs, allowed=("failed",))


async def test_a_second_gateway_takes_over_from_one_that_dies_for_good(admin_url: str, folder: Path) -> None:
    async with killable(admin_url, folder) as product, another(product) as _:
        jobs = await create_many(product, 20 * SCALE)
        await asyncio.sleep(0.3)
        product.gateway.kill()
        await all_ended(product, jobs)
        assert_invariants(product, jobs)


async def test_what_a_dead_gateway_had_begun_goes_on_elsewhere_when_its_leases_end(
    admin_url: str, folder: Path
) -> None:
    default = Settings.model_fields
    settings = {
        name.upper(): str(default[name].default) for name in ("lease_seconds", "webhook_patience_seconds")
    }
    async with killable(admin_url, folder, **settings) as product, another(product, **settings) as dying:
        there = User(dying.url, admin_url, "there@example.com", ["generate", "read"])
        jobs, begun = [], 0
        while not begun:
            dying.send(signal.SIGCONT)
            made = (there.create(size="64x64", prompt=str(n)) for n in range(10))
            jobs += [job["id"] for job in await asyncio.gather(*made)]
            dying.send(signal.SIGSTOP)
            (left,) = product.rows(
                """select now() as died, count(*) filter (where leased_by is not null) as begun
                   from public.generation_jobs where id = any(%s::uuid[]) and wake_at is not null""",
                jobs,
            )
            begun = left["begun"]
        dying.kill()
        await all_ended(product, jobs)
        assert_invariants(product, jobs)
        (last,) = product.rows(
            "select max(finished_at) as ended from public.generation_jobs where id = any(%s::uuid[])", jobs
        )
        took = (last["ended"] - left["died"]).total_seconds()
        sys.stdout.write(f"{begun} jobs were begun by the dead gateway; all ended {took:.1f} s after it\n")
        assert took < 3 * RECOVERY_SECONDS, "and under 10 s where nothing else is at work"


async def test_a_gateway_that_freezes_past_its_leases_writes_nothing_when_it_goes_on(
    admin_url: str, folder: Path
) -> None:
    async with killable(admin_url, folder) as product, another(product) as _:
        for _ in range(min(SCALE, 10)):
            jobs = await create_many(product, 20)
            await asyncio.sleep(0.3)
            product.gateway.send(signal.SIGSTOP)
            await asyncio.sleep(1.6 * FAST["lease_seconds"])
            product.gateway.send(signal.SIGCONT)
            await all_ended(product, jobs)
            await asyncio.sleep(0.5)  # what it still has in hand is refused by then
            assert_invariants(product, jobs)


async def test_gateways_are_replaced_one_by_one_and_no_job_fails(admin_url: str, folder: Path) -> None:
    async with killable(admin_url, folder) as product, another(product) as other:
        jobs = await create_many(product, 30 * min(SCALE, 10))
        for gateway in (product.gateway, other):
            await asyncio.to_thread(gateway.stop)
            await asyncio.to_thread(gateway.start)
        await all_ended(product, jobs)
        assert_invariants(product, jobs)


@asynccontextmanager
async def gated(admin_url: str, folder: Path) -> AsyncIterator[tuple[Stack, WebhookGate]]:
    gate = WebhookGate("")
    async with (
        serve(gate.app) as gate_url,
        stack(
            admin_url, folder, webhook_url=f"{gate_url}/", gpu={"GPU_MODELS": "instant"}, **FAST
        ) as product,
    ):
        gate.target = f"{product.url}/v1/callbacks/gpu"
        yield product, gate


async def are_lost(gate: WebhookGate, jobs: list[str]) -> bool:
    """Whether the ends of all these have come to the gate, which lets none through."""
    return set(jobs) <= gate.lost


async def test_every_job_completes_when_all_webhooks_are_lost(admin_url: str, folder: Path) -> None:
    async with gated(admin_url, folder) as (product, gate):
        gate.drop_all()
        jobs = await create_many(product, 20 * SCALE)
        await all_ended(product, jobs)
        assert_invariants(product, jobs)
        await eventually(lambda: are_lost(gate, jobs))
        assert product.rows("select * from private.webhook_inbox") == []


async def test_an_outage_of_all_webhooks_makes_no_job_late_and_ends_without_a_trace(
    admin_url: str, folder: Path
) -> None:
    async with gated(admin_url, folder) as (product, gate):
        gate.drop_all()
        jobs, until = [], time.monotonic() + OUTAGE_SECONDS
        while time.monotonic() < until:
            jobs += await create_many(product, 1)
            await asyncio.sleep(0.5)
        await all_ended(product, jobs)
        slowest = "select extract(epoch from max(finished_at - created_at)) as seconds"
        (late,) = product.rows(f"{slowest} from public.generation_jobs where id = any(%s::uuid[])", jobs)
        assert late["seconds"] < RECOVERY_SECONDS
        await eventually(lambda: are_lost(gate, jobs))
        assert product.rows("select * from private.webhook_inbox") == []
        gate.copies = lambda event: 1
        told = await create_many(product, 5)
        await all_ended(product, told)
        assert_invariants(product, jobs + told)

        async def are_told() -> bool:
            inbox = product.rows("select distinct job_id::text from private.webhook_inbox")
            assert {row["job_id"] for row in inbox} <= set(told)
            return len(inbox) == len(told)

        await eventually(are_told)  # a job that was asked after may have ended before its webhook came


async def test_doubled_and_lost_webhooks_move_each_job_once(admin_url: str, folder: Path) -> None:
    dice = random.Random(2)
    async with gated(admin_url, folder) as (product, gate):
        gate.copies = lambda event: dice.choice((0, 1, 2, 2))
        jobs = await create_many(product, 40 * SCALE)
        await all_ended(product, jobs)
        assert_invariants(product, jobs)
        ends = product.rows(
            "select job_id from private.job_events where event = 'completed' group by 1 having count(*) > 1"
        )
        assert ends == []


async def test_webhooks_that_are_doubled_lost_late_and_overtaken_move_each_job_once(
    admin_url: str, folder: Path
) -> None:
    dice = random.Random(6)
    async with gated(admin_url, folder) as (product, gate):
        gate.copies = lambda event: dice.choices((0, 1, 2), (30, 20, 50))[0]
        gate.late = lambda event: dice.uniform(0.2, 1.5) if dice.random() < 0.1 else 0.0
        jobs = await create_many(product, 40 * SCALE)
        await all_ended(product, jobs)
        await gate.all_delivered()
        assert_invariants(product, jobs)
        moves = product.rows(
            """select job_id, event, stage from private.job_events where event <> 'progress'
               group by 1, 2, 3 having count(*) > 1"""
        )
        assert moves == []


async def test_jobs_canceled_at_any_moment_are_canceled_or_completed_and_never_both(
    admin_url: str, folder: Path
) -> None:
    dice = random.Random(3)
    async with stack(admin_url, folder, gpu={**SLOW, "INSTANT_SECONDS": "0.02"}, **FAST) as product:
        jobs = await create_many(product, 30 * SCALE)
        jobs += await create_enhanced(product, 15 * SCALE)

        async def cancel(job: str) -> None:
            await asyncio.sleep(dice.uniform(0, 1.0 * SCALE))
            assert (await product.user.http.post(f"/v1/jobs/{job}/cancel")).status_code == 200

        await asyncio.gather(*(cancel(job) for job in jobs))
        await all_ended(product, jobs)
        await eventually(lambda: no_open_calls(product))
        assert_invariants(product, jobs, allowed=("completed", "canceled"))


async def test_a_canceled_run_stops_and_is_charged_what_it_had_cost(admin_url: str, folder: Path) -> None:
    async with stack(admin_url, folder, gpu={**SLOW, "INSTANT_SECONDS": "60"}, **FAST) as product:
        job = await product.user.create(prompt="long", size="64x64", num_inference_steps=100)
        await eventually(lambda: is_running(product, job["id"]))
        await asyncio.sleep(1.0)
        canceled = (await product.user.http.post(f"/v1/jobs/{job['id']}/cancel")).json()
        assert (canceled["status"], canceled["images"]) == ("canceled", [])
        await eventually(lambda: no_open_calls(product))
        after = await product.user.job(job["id"])
        assert after["status"] == "canceled"
        assert 0.5 < after["cost"]["gpu_seconds"] < 30
        assert after["cost"]["usd_micros"] > 0
        assert_invariants(product, [job["id"]], allowed=("canceled",))


async def is_running(product: Stack, job_id: str) -> bool:
    return (await product.user.job(job_id))["stage"] == "generating"


async def test_a_bucket_that_refuses_for_a_while_delays_the_job_and_loses_nothing(
    admin_url: str, folder: Path
) -> None:
    async with stack(admin_url, folder, gpu={"GPU_MODELS": "instant"}, **FAST) as product:
        bucket = folder / "buckets" / "generated-designs"
        bucket.rmdir()
        bucket.write_text("a file where the folder should be")
        job = await product.user.create(prompt="a", size="64x64")

        async def was_refused() -> bool:
            storing = "select from public.generation_jobs where id = %s and stage = 'storing' and tries > 0"
            return bool(product.rows(storing, job["id"]))

        await eventually(was_refused)
        assert (await product.user.job(job["id"]))["stage"] == "storing"
        bucket.unlink()
        assert (await product.user.ended(job["id"]))["status"] == "completed"
        assert_invariants(product, [job["id"]])


async def test_a_bucket_that_hangs_past_the_leases_delays_the_jobs_and_loses_nothing(
    admin_url: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with stack(admin_url, folder, gpu={"GPU_MODELS": "instant"}, **FAST) as product:
        assert product.app is not None
        bucket, answers = product.app.state.buckets["generated-designs"], asyncio.Event()
        put, asked = bucket.put, asyncio.Event()

        async def put_at_last(*arguments: Any) -> None:
            asked.set()
            await answers.wait()
            await put(*arguments)

        monkeypatch.setattr(bucket, "put", put_at_last)
        jobs = await create_many(product, 5 * SCALE)
        await asyncio.wait_for(asked.wait(), 30)
        await asyncio.sleep(2 * FAST["lease_seconds"])
        assert product.objects() == []
        answers.set()
        await all_ended(product, jobs)
        assert_invariants(product, jobs)


async def test_no_job_is_lost_when_postgres_is_killed_and_comes_back(folder: Path) -> None:
    dice = random.Random(7)
    async with AsyncExitStack() as running:
        postgres = EmbeddedPostgres(folder, alone=True)
        await asyncio.to_thread(postgres.__enter__)
        running.callback(lambda: postgres.__exit__(None, None, None))
        product = await running.enter_async_context(killable(postgres.admin_url, folder))
        jobs = await create_many(product, 40 * SCALE)
        for _ in range(2 * min(SCALE, 5)):
            await asyncio.sleep(dice.uniform(0.2, 0.6))
            os.kill(int((folder / "postgres" / "postmaster.pid").read_text().split()[0]), signal.SIGKILL)
            postgres.__exit__(None, None, None)
            await asyncio.to_thread(postgres.__enter__)
        await all_ended(product, jobs)
        assert_invariants(product, jobs)


async def test_a_hundred_equal_creates_at_three_gateways_make_one_job(admin_url: str, folder: Path) -> None:
    async with (
        killable(admin_url, folder) as product,
        another(product) as second,
        another(product) as third,
        httpx.AsyncClient(timeout=60) as http,
    ):
        urls = [product.url, second.url, third.url]
        for race in range(min(SCALE, 10)):
            headers = {"Authorization": f"Bearer {product.user.key}", "Idempotency-Key": f"race-{race}"}

            async def create(n: int, prompt: str, headers: dict[str, str] = headers) -> httpx.Response:
                body = {"prompt": prompt, "size": "64x64"}
                return await http.post(f"{urls[n % 3]}/v1/jobs", json=body, headers=headers)

            answers = await asyncio.gather(*(create(n, "a phoenix") for n in range(100)))
            made = {answer.json()["id"] for answer in answers if answer.status_code != 409}
            assert len(made) == 1
            # 200: the job had ended before the answer to the first was kept
            assert {answer.status_code for answer in answers} <= {200, 202, 409}
            assert (await create(race, "another wish")).status_code == 422
        jobs = [row["id"] for row in product.rows("select id::text from public.generation_jobs")]
        assert len(jobs) == min(SCALE, 10)
        await all_ended(product, jobs)
        assert_invariants(product, jobs)


async def test_a_job_survives_postgres_cutting_every_connection(admin_url: str, folder: Path) -> None:
    async with stack(admin_url, folder, gpu=SLOW, **FAST) as product:
        jobs = await create_many(product, 10)
        for _ in range(3):
            await asyncio.sleep(0.2)
            product.rows(
                """select pg_terminate_backend(pid) from pg_stat_activity
                   where usename like 'gateway%%' and datname = current_database()"""
            )
        await all_ended(product, jobs)
        assert_invariants(product, jobs)


CALLS = """
select job_id::text, task, status from private.generation_calls where job_id = any(%s::uuid[])
order by job_id, seq, attempt
"""


async def create_enhanced(product: Stack, count: int) -> list[str]:
    bodies: list[dict[str, Any]] = [
        {"prompt": f"number {n}", "size": "64x64", "enhance": True} for n in range(count)
    ]
    return [job["id"] for job in await asyncio.gather(*(product.user.create(**body) for body in bodies))]


def done_once(product: Stack, jobs: list[str]) -> None:
    """Of each job one call of each kind has succeeded, and no call is open."""
    for job in jobs:
        rows = [row for row in product.rows(CALLS, jobs) if row["job_id"] == job]
        succeeded = [row["task"] for row in rows if row["status"] == "succeeded"]
        assert succeeded == ["enhance", "image"], rows
        assert {row["status"] for row in rows} <= {"succeeded", "lost"}, rows


async def test_enhanced_jobs_make_each_call_once_however_often_the_gateway_is_killed(
    admin_url: str, folder: Path
) -> None:
    dice = random.Random(4)
    async with killable(admin_url, folder) as product:
        jobs = await create_enhanced(product, 20)
        for _ in range(4):
            await asyncio.sleep(dice.uniform(0.05, 0.6))
            await restart(product.gateway)
        await all_ended(product, jobs)
        assert_invariants(product, jobs)
        done_once(product, jobs)


async def test_a_gpu_service_killed_between_two_calls_costs_no_call_that_had_ended(
    admin_url: str, folder: Path
) -> None:
    async with killable(admin_url, folder) as product:
        jobs = await create_enhanced(product, 5)

        async def enhanced() -> bool:
            rows = [row for row in product.rows(CALLS, jobs) if row["task"] == "enhance"]
            return len(rows) == len(jobs) and all(row["status"] == "succeeded" for row in rows)

        await eventually(enhanced)
        await restart(product.gpu)
        await all_ended(product, jobs)
        assert_invariants(product, jobs, allowed=("completed", "failed"))
        rows = product.rows(CALLS, jobs)
        assert [row["task"] for row in rows].count("enhance") == len(jobs)
        failures = product.rows(
            "select distinct error_code from public.generation_jobs where status = 'failed'"
        )
        assert {row["error_code"] for row in failures} <= {"call_lost"}


async def test_every_child_is_made_once_however_often_the_gateway_is_killed_while_it_fans_out(
    admin_url: str, folder: Path
) -> None:
    dice = random.Random(5)
    async with killable(admin_url, folder, module="tests.support.triptych") as product:
        parents = []
        for _ in range(6):
            parents += [triptych.begin(product, product.user.id) for _ in range(2)]
            await asyncio.sleep(dice.uniform(0.0, 0.5))
            await restart(product.gateway)
        await all_ended(product, parents)
        children = product.rows(
            "select id::text, parent_id::text, slot from public.generation_jobs where parent_id is not null"
        )
        for parent in parents:
            slots = [child["slot"] for child in children if child["parent_id"] == parent]
            assert sorted(slots) == sorted(triptych.VIEWS)
        assert_invariants(product, [child["id"] for child in children])
        ends = product.rows("select job_id::text, status from private.endings")
        assert sorted(end["job_id"] for end in ends) == sorted(parents)
        assert {end["status"] for end in ends} == {"completed"}
