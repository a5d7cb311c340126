"""Who is served when: users in turn, priorities inside a user, limits that hold."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import psycopg
import pytest

from gateway import tasks
from gateway.auth import key_sha256, new_key
from gateway.embedded import add_key
from tests.support.stack import Stack, stack

INSTANT = {"GPU_MODELS": "instant"}
QUEUED, OTHERS, URGENT = 10_000, 200, 40
PER_USER, IN_FLIGHT = 32, 64

FLOOD = """
insert into public.generation_jobs (
  user_id, prompt_input, prompt_final, model, width, height, seed, params, steps, priority, expires_at)
select %s, 'a', 'a', 'instant', 64, 64, n, '{"num_inference_steps": 1, "true_cfg_scale": 1}', 1,
  %s, now() + interval '1 hour'
from generate_series(1, %s) n
"""
BUSY = """
select coalesce(max(n), 0)::int as most, coalesce(sum(n), 0)::int as total
from (select count(*) as n from public.generation_jobs where status = 'processing' group by user_id) busy
"""
WAITS = """
select extract(epoch from j.started_at - j.created_at)::float as seconds, (
  select count(*)::int from public.generation_jobs other
  where other.user_id = %s and other.started_at between j.created_at and j.started_at) as first
from public.generation_jobs j where j.user_id = any(%s)
"""
"""How long each job has waited, and how many of another user were begun meanwhile."""


@pytest.fixture
def folder(new_folder: Callable[[], Path]) -> Path:
    return new_folder()


def new_users(product: Stack, count: int) -> dict[UUID, str]:
    """Keys by user, all in one go."""
    keys = {uuid4(): new_key() for _ in range(count)}
    with psycopg.connect(product.admin_url) as connection, connection.cursor() as cursor:
        cursor.executemany(
            b"insert into auth.users (id, email) values (%s, %s)",
            [(user, f"{user}@example.com") for user in keys],
        )
        cursor.executemany(
            b"insert into public.api_keys (user_id, prefix, sha256, scopes) values (%s, %s, %s, %s)",
            [(user, key[:7], key_sha256(key), ["generate", "read"]) for user, key in keys.items()],
        )
    return keys


def flood(product: Stack, user: UUID, count: int) -> None:
    """In portions, since a transaction has ids for 4096 events."""
    with psycopg.connect(product.admin_url, autocommit=True) as connection:
        for start in range(0, count, 2500):
            connection.execute(FLOOD.encode(), (user, "normal", min(2500, count - start)))


@contextlib.asynccontextmanager
async def watched(product: Stack) -> AsyncIterator[list[dict[str, Any]]]:
    """How many jobs were under way, of the busiest user and in all, many times over."""
    seen: list[dict[str, Any]] = []

    async def watch() -> None:
        async with await psycopg.AsyncConnection.connect(product.admin_url, autocommit=True) as connection:
            while True:
                row = await (await connection.execute(BUSY.encode())).fetchone()
                assert row is not None
                seen.append({"most": row[0], "total": row[1]})
                await asyncio.sleep(0.05)

    watching = asyncio.create_task(watch())
    try:
        yield seen
    finally:
        await tasks.end([watching])


async def started(product: Stack, users: list[UUID], within: float) -> None:
    async with asyncio.timeout(within):
        while product.rows(
            "select from public.generation_jobs where user_id = any(%s) and started_at is null limit 1", users
        ):
            await asyncio.sleep(0.1)


async def ended(product: Stack, users: list[UUID], within: float) -> None:
    async with asyncio.timeout(within):
        while product.rows(
            "select from public.generation_jobs where user_id = any(%s) and wake_at is not null limit 1",
            users,
        ):
            await asyncio.sleep(0.1)


async def test_ten_thousand_jobs_of_one_user_keep_nobody_else_waiting(admin_url: str, folder: Path) -> None:
    async with stack(admin_url, folder, gpu=INSTANT, default_model="instant") as product:
        flood(product, product.user.id, QUEUED)
        others = new_users(product, OTHERS)
        async with watched(product) as seen, httpx.AsyncClient(base_url=product.url, timeout=60) as http:
            places = asyncio.Semaphore(16)

            async def draw(key: str) -> None:
                body = {"prompt": "a", "size": "64x64"}
                async with places:
                    answer = await http.post(
                        "/v1/jobs", json=body, headers={"Authorization": f"Bearer {key}"}
                    )
                assert answer.status_code == 202, answer.text

            await asyncio.gather(*(draw(key) for key in others.values()))
            await started(product, list(others), within=120)
        found = product.rows(WAITS, product.user.id, list(others))
        waits, first = (sorted(row[name] for row in found) for name in ("seconds", "first"))
        told = f"waits: p50 {waits[100]:.2f} s, p95 {waits[190]:.2f} s, most {waits[-1]:.2f} s"
        told += f"; jobs of the long queue begun meanwhile: p50 {first[100]}, most {first[-1]}"
        print(told)  # noqa: T201 - the number that the test is about
        assert len(waits) == OTHERS
        # Seconds are the machine's (docs/reliability.md has them); who is served before whom is ours.
        assert first[100] <= IN_FLIGHT, told
        assert first[-1] <= 4 * IN_FLIGHT, told
        assert max(each["most"] for each in seen) <= PER_USER
        assert max(each["total"] for each in seen) <= IN_FLIGHT
        left = product.rows(
            "select count(*)::int as n from public.generation_jobs where user_id = %s and status = 'queued'",
            product.user.id,
        )
        assert left[0]["n"] > QUEUED / 2


async def test_two_long_queues_do_not_keep_a_third_user_out(admin_url: str, folder: Path) -> None:
    slow = INSTANT | {"INSTANT_SECONDS": "0.5"}
    limits = {"jobs_in_flight": 4, "jobs_in_flight_per_user": 2}
    async with stack(admin_url, folder, gpu=slow, default_model="instant", **limits) as product:
        for user in new_users(product, 2):
            flood(product, user, 100)
        await asyncio.sleep(0.5)
        job = await product.user.create(prompt="a", size="64x64")
        await product.user.ended(job["id"])
        (done,) = product.rows(
            """select count(*)::int as n from public.generation_jobs other, public.generation_jobs own
               where own.id = %s and other.finished_at between own.created_at and own.finished_at""",
            job["id"],
        )
        assert done["n"] <= 10, "itself, and what was under way"


def test_priority_counts_inside_a_user(admin_url: str) -> None:
    user, _ = add_key(admin_url, "a@example.com", ["generate"])
    with psycopg.connect(admin_url, autocommit=True) as connection:
        for priority, count in (("low", 100), ("normal", 100), ("high", URGENT)):
            connection.execute(FLOOD.encode(), (user, priority, count))
        claim = b"select priority from private.claim_queued_jobs('test', 60, 64, 64, 20)"
        claimed = [row[0] for _ in range(3) for row in connection.execute(claim)]
    assert claimed == ["high"] * 40 + ["normal"] * 20


async def test_a_budget_says_how_many_jobs_of_a_user_run_at_once(admin_url: str, folder: Path) -> None:
    slow = INSTANT | {"INSTANT_SECONDS": "0.1"}
    async with stack(admin_url, folder, gpu=slow, default_model="instant") as product:
        user = product.user
        await user.http.put("/v1/budget", json={"max_concurrent": 2})
        async with watched(product) as seen:
            jobs = [await user.create(prompt="a", size="64x64", seed=n) for n in range(10)]
            await ended(product, [user.id], within=30)
        assert max(each["most"] for each in seen) == 2
        rows = product.rows("select distinct status::text from public.generation_jobs")
        assert ([row["status"] for row in rows], len(jobs)) == (["completed"], 10)
