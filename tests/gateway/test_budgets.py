"""Budgets and the ledger, on a GPU that costs something: what is reserved, charged, refused and told."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import psycopg
import pytest
import pytest_asyncio

from gateway.config import login_as
from tests.gateway.test_faults import killable, restart
from tests.support.stack import Stack, User, stack

PRICED = {"GPU_MODELS": "instant", "GPU_NAME": "B200", "INSTANT_SECONDS": "0.02"}
FAST = {"default_model": "instant", "webhook_patience_seconds": 0.3, "lease_seconds": 2.0}
SMALL: dict[str, Any] = {"prompt": "a", "size": "64x64"}

pytestmark = pytest.mark.usefixtures("same_day")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def priced(new_database: Callable[[], str], new_folder: Callable[[], Path]) -> AsyncIterator[Stack]:
    """The product on the most expensive GPU: the seconds that a job reserves cost half a cent."""
    async with stack(new_database(), new_folder(), gpu=PRICED, **FAST) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def slow(new_database: Callable[[], str], new_folder: Callable[[], Path]) -> AsyncIterator[Stack]:
    """The same, with pictures that take far longer than the catalogue says."""
    gpu = PRICED | {"INSTANT_SECONDS": "20"}
    async with stack(new_database(), new_folder(), gpu=gpu, **FAST) as running:
        yield running


@pytest.fixture
def folder(new_folder: Callable[[], Path]) -> Path:
    return new_folder()


async def set_budget(user: User, **budget: Any) -> dict[str, Any]:
    answer = await user.http.put("/v1/budget", json=budget)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def post(user: User, key: str | None = None, **body: Any) -> httpx.Response:
    headers = {"Idempotency-Key": key} if key else {}
    return await user.http.post("/v1/jobs", json=SMALL | body, headers=headers)


def ledger(product: Stack, user: User) -> list[dict[str, Any]]:
    return product.rows("select * from private.ledger where user_id = %s order by id", user.id)


def assert_settled(product: Stack, user: User) -> None:
    """Every job of the user has ended, and ledger, jobs and calls say the same to the micro-dollar."""
    (sums,) = product.rows(
        """select (select sum(usd_micros) from private.ledger where user_id = u.id) as held,
             (select sum(usd_micros) from private.ledger where user_id = u.id and kind = 'settle') as settled,
             (select sum(usd_micros) from private.generation_calls where user_id = u.id) as calls,
             (select sum(cost_usd_micros) from public.generation_jobs where user_id = u.id) as jobs
           from auth.users u where u.id = %s""",
        user.id,
    )
    assert len(set(sums.values())) == 1, sums
    kinds = product.rows(
        """select j.id, j.status::text, array_agg(l.kind order by l.id) as kinds
           from public.generation_jobs j left join private.ledger l on l.job_id = j.id
           where j.user_id = %s group by j.id""",
        user.id,
    )
    assert all(row["kinds"] == ["reserve", "release", "settle"] for row in kinds), kinds


def highest(product: Stack, user: User) -> int:
    """The most that was ever held: ids of reserves grow under the lock of the budget."""
    total = most = 0
    for row in ledger(product, user):
        total += row["usd_micros"]
        most = max(most, total)
    return most


async def all_ended(product: Stack, user: User, within: float = 120) -> None:
    async with asyncio.timeout(within):
        while product.rows(
            "select from public.generation_jobs where user_id = %s and wake_at is not null limit 1", user.id
        ):
            await asyncio.sleep(0.1)


async def test_a_job_beyond_the_budget_is_refused_and_leaves_nothing_behind(priced: Stack) -> None:
    user = priced.new_user()
    await set_budget(user, limit_usd_micros=100)
    answer = await post(user, key="one")
    assert (answer.status_code, answer.headers["x-should-retry"]) == (402, "false")
    problem = answer.json()
    assert (problem["code"], problem["retryable"]) == ("budget_exceeded", False)
    assert problem["error"]["type"] == "insufficient_quota"
    assert (await user.http.get("/v1/jobs")).json()["data"] == []
    for table in ("private.ledger", "private.idempotency_keys", "private.generation_calls"):
        assert priced.rows(f"select * from {table} where user_id = %s", user.id) == []

    await set_budget(user, limit_usd_micros=10_000)
    answer = await post(user, key="one")
    assert answer.status_code == 202
    again = await post(user, key="one")
    assert (again.json()["id"], again.headers["idempotent-replayed"]) == (answer.json()["id"], "true")
    await all_ended(priced, user)
    assert_settled(priced, user)


@pytest.mark.parametrize(
    ("quota", "body", "words"),
    [
        ({"max_images_per_day": 3}, {"num_images": 4}, "3 images"),
        ({"max_gpu_seconds_per_day": 2}, {}, "2 GPU seconds"),
    ],
)
async def test_a_job_beyond_the_days_quota_is_refused_until_tomorrow(
    priced: Stack, quota: dict[str, int], body: dict[str, Any], words: str
) -> None:
    user = priced.new_user()
    await set_budget(user, **quota)
    answer = await post(user, **body)
    assert (answer.status_code, answer.json()["code"]) == (429, "quota_exceeded")
    assert words in answer.json()["detail"]
    assert answer.headers["x-should-retry"] == "false"
    assert 0 < int(answer.headers["retry-after"]) <= 86_400
    assert ledger(priced, user) == []


async def test_images_count_against_the_quota_when_they_are_delivered(priced: Stack) -> None:
    user = priced.new_user()
    await set_budget(user, max_images_per_day=3)
    await user.create(**SMALL, num_images=2, wait=20)
    assert (await user.http.get("/v1/budget")).json()["images_today"] == 2
    assert (await post(user, num_images=2)).status_code == 429
    assert (await post(user)).status_code == 202
    await all_ended(priced, user)


async def test_two_hundred_jobs_at_once_never_pass_one_dollar(priced: Stack) -> None:
    user = priced.new_user()
    spend(priced, user, 700_000)
    await set_budget(user, period="day", limit_usd_micros=1_000_000)
    answers = await asyncio.gather(*(post(user, seed=n) for n in range(200)))
    assert {answer.status_code for answer in answers} == {202, 402}
    made = sum(answer.status_code == 202 for answer in answers)
    await all_ended(priced, user)
    assert highest(priced, user) <= 1_000_000
    assert_settled(priced, user)
    budget = (await user.http.get("/v1/budget")).json()
    assert (budget["reserved_usd_micros"], budget["images_today"]) == (0, made)
    assert 700_000 < budget["spent_usd_micros"] <= 1_000_000


async def test_jobs_are_refused_while_others_hold_the_budget_and_fit_once_those_have_ended(
    priced: Stack,
) -> None:
    user = priced.new_user()
    await set_budget(user, limit_usd_micros=20_000)
    answers = await asyncio.gather(*(post(user, seed=n) for n in range(40)))
    assert {answer.status_code for answer in answers} == {202, 402}
    await all_ended(priced, user)
    assert highest(priced, user) <= 20_000
    assert (await post(user)).status_code == 202
    await all_ended(priced, user)
    assert_settled(priced, user)


async def test_two_hundred_jobs_pass_no_dollar_either_when_the_gateway_is_killed_between_them(
    admin_url: str, folder: Path
) -> None:
    async with killable(admin_url, folder, gpu_name="B200") as product:
        user = product.user
        spend(product, user, 800_000)
        await set_budget(user, limit_usd_micros=1_000_000)
        asking = asyncio.gather(*(answered(user, key=f"job {n}", seed=n) for n in range(200)))
        for seconds in (0.5, 1.0):
            await asyncio.sleep(seconds)
            await restart(product.gateway)
        answers = await asking
        await all_ended(product, user)
        assert {202, 402} <= {answer.status_code for answer in answers} <= {200, 202, 402}
        told = {answer.json()["id"] for answer in answers if answer.status_code != 402}
        jobs = product.rows("select id::text, cost_usd_micros from public.generation_jobs")
        assert len(told) == len(jobs) - 1 == sum(0 < job["cost_usd_micros"] < 800_000 for job in jobs)
        assert highest(product, user) <= 1_000_000
        assert_settled(product, user)


async def answered(user: User, key: str, **body: Any) -> httpx.Response:
    """What a client is told that asks until it is told something, always under the same key."""
    async with asyncio.timeout(400):
        while True:
            with contextlib.suppress(httpx.TransportError):
                answer = await post(user, key, **body)
                if answer.status_code not in (409, 503):
                    return answer
            await asyncio.sleep(0.2)


async def test_a_ceiling_holds_whatever_the_user_allows_themself(priced: Stack) -> None:
    admin, user = priced.new_user(("generate", "read", "admin")), priced.new_user()
    path = f"/v1/admin/budgets/{user.id}"
    for method in ("GET", "PUT"):
        answer = await user.http.request(method, path, json={"limit_usd_micros": 10**9})
        assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
    assert (await admin.http.put(f"/v1/admin/budgets/{uuid4()}", json={})).status_code == 404
    assert (await admin.http.put(path, json={"limit_usd": 1})).status_code == 422
    assert (await admin.http.put(path, json={"limit_usd_micros": False})).status_code == 422
    ceiling = await admin.http.put(path, json={"period": "day", "limit_usd_micros": 100})
    assert (ceiling.status_code, ceiling.json()["limit_usd_micros"]) == (200, 100)

    own = await set_budget(user, limit_usd_micros=10**9)
    assert (own["limit_usd_micros"], own["ceiling"]["limit_usd_micros"]) == (10**9, 100)
    answer = await post(user)
    assert answer.status_code == 402
    assert "the administrator's budget" in answer.json()["detail"]
    assert (await admin.http.get(path)).json()["own"]["limit_usd_micros"] == 10**9

    await admin.http.put(path, json={})
    assert (await post(user)).status_code == 202
    await all_ended(priced, user)


async def test_users_write_their_own_budget_only_and_never_a_ceiling(priced: Stack) -> None:
    mine, theirs = priced.new_user(), priced.new_user()
    await set_budget(theirs, limit_usd_micros=5)
    with psycopg.connect(login_as(priced.admin_url, "gateway"), autocommit=True) as connection:

        def as_mine(statement: str) -> int:
            with connection.transaction():
                connection.execute(
                    """select set_config('role', 'authenticated', true),
                       set_config('request.jwt.claims', %s, true)""",
                    (f'{{"sub": "{mine.id}"}}',),
                )
                return connection.execute(statement.encode()).rowcount

        assert as_mine("select from public.budgets") == 0
        assert as_mine("update public.budgets set limit_usd_micros = 9") == 0
        for statement in (
            f"insert into public.budgets (user_id) values ('{theirs.id}')",
            f"insert into public.budgets (user_id, set_by) values ('{mine.id}', 'admin')",
            "update public.budgets set warned_at = now()",
            "select * from private.ledger",
            "select * from private.budget_use",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                as_mine(statement)


async def test_a_budget_without_a_row_shows_what_this_month_has_cost(priced: Stack) -> None:
    user = priced.new_user()
    job = await user.create(**SMALL, wait=20)
    budget = (await user.http.get("/v1/budget")).json()
    assert (budget["limit_usd_micros"], budget["remaining_usd_micros"]) == (None, None)
    assert budget["spent_usd_micros"] == job["cost"]["usd_micros"] > 0
    assert (budget["period"], budget["images_today"], budget["ceiling"]) == ("month", 1, None)


async def test_a_canceled_job_keeps_its_reserve_until_its_call_has_told_what_it_cost(slow: Stack) -> None:
    user = slow.new_user()
    await set_budget(user, limit_usd_micros=10_000_000)
    job = await user.create(prompt="a", size="64x64", num_inference_steps=100)
    async with asyncio.timeout(20):
        while (await user.job(job["id"]))["stage"] != "generating":
            await asyncio.sleep(0.05)
    waiting = await user.create(**SMALL)
    for each in (job, waiting):
        await user.http.post(f"/v1/jobs/{each['id']}/cancel")
    async with asyncio.timeout(20):
        while len(ledger(slow, user)) < 6:
            await asyncio.sleep(0.05)
    assert (await user.job(job["id"]))["cost"]["usd_micros"] > 0
    assert_settled(slow, user)


async def test_a_call_that_takes_more_than_its_job_has_reserved_is_stopped(slow: Stack) -> None:
    user = slow.new_user()
    await set_budget(user, limit_usd_micros=12_500)
    job = await user.create(prompt="a", size="1024x1024", num_inference_steps=100, wait=60)
    assert (job["status"], job["error"]["code"]) == ("failed", "cost_limit_reached")
    assert 5 < job["cost"]["gpu_seconds"] < 7.0  # three quarters of it, and what the last step may take
    assert job["cost"]["usd_micros"] <= highest(slow, user) <= 12_500
    assert_settled(slow, user)


async def test_four_fifths_and_the_first_refusal_are_told_once_in_a_period(priced: Stack) -> None:
    user = priced.new_user()
    spend(priced, user, 30_000)
    await set_budget(user, limit_usd_micros=37_500)
    for _ in range(2):
        await user.create(**SMALL, wait=20)
        assert told(priced, user) == ["budget.warning"]
    spend(priced, user, 5_000)
    for _ in range(2):
        assert (await post(user)).status_code == 402
        assert told(priced, user) == ["budget.warning", "budget.exceeded"]

    await set_budget(user, limit_usd_micros=42_000)
    await user.create(**SMALL, wait=20)
    assert told(priced, user)[2:] == ["budget.warning"]
    payload = priced.rows(
        "select payload from private.outbox where user_id = %s and kind = 'budget.exceeded'", user.id
    )[0]["payload"]
    assert (payload["limit_usd_micros"], payload["period"], payload["set_by"]) == (37_500, "month", "user")
    assert payload["spent_usd_micros"] > 35_000


def told(product: Stack, user: User) -> list[str]:
    rows = product.rows(
        "select kind from private.outbox where user_id = %s and kind like 'budget%%' order by id", user.id
    )
    return [row["kind"] for row in rows]


def spend(product: Stack, user: User, usd_micros: int) -> None:
    """A job of the past that cost so much."""
    with psycopg.connect(product.admin_url) as connection:
        job = uuid4()
        connection.execute(
            """insert into public.generation_jobs (
                 id, user_id, prompt_input, prompt_final, model, width, height, seed, status, stage)
               values (%s, %s, 'a', 'a', 'instant', 64, 64, 1, 'processing', 'storing')""",
            (job, user.id),
        )
        connection.execute(
            """insert into private.generation_calls (
                 job_id, seq, attempt, user_id, task, model, status, usd_micros, finished_at)
               values (%s, 1, 1, %s, 'image', 'instant', 'succeeded', %s, now())""",
            (job, user.id, usd_micros),
        )
        connection.execute(
            """update public.generation_jobs
               set status = 'completed', stage = null, wake_at = null, finished_at = now() where id = %s""",
            (job,),
        )
