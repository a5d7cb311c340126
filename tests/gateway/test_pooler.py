"""The gateway behind a transaction pooler: PgBouncer, on few server connections that change hands."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from uuid import UUID

import psycopg
import pytest
import pytest_asyncio

from gateway.app import create_app
from gateway.auth import Principal
from gateway.config import login_as
from gateway.db import Database
from gateway.doctor import examine
from gateway.doctor.subject import Subject
from tests.gateway.conftest import INSTANT
from tests.support.pooler import PROGRAM, SERVER_CONNECTIONS, pooler
from tests.support.stack import Stack, free_port, gateway_settings, serve, stack

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="pgbouncer is not installed")

PROMPT = "select prompt_input from public.generation_jobs"


@pytest.fixture(scope="module")
def direct(new_database: Callable[[], str]) -> str:
    """The database's owner, past the pooler."""
    return new_database()


@pytest.fixture(scope="module")
def pooled(direct: str, new_folder: Callable[[], Path]) -> Iterator[str]:
    """The login ``gateway``, through the pooler."""
    with pooler(direct, new_folder()) as url:
        yield url


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def product(direct: str, pooled: str, new_folder: Callable[[], Path]) -> AsyncIterator[Stack]:
    """A gateway that knows the pooler only."""
    folder = new_folder()
    async with stack(
        direct,
        folder,
        gpu=INSTANT,
        default_model="instant",
        database_url=pooled,
        webhook_patience_seconds=30.0,  # a job that ends sooner was told of by the webhook
    ) as running:
        yield running


@pytest.mark.parametrize(
    ("mode", "kind"), [("transaction", "transaction pooler"), ("session", "session pooler")]
)
async def test_the_doctor_says_what_kind_of_connection_it_is(
    direct: str, new_folder: Callable[[], Path], mode: str, kind: str
) -> None:
    folder = new_folder()
    with pooler(direct, folder, mode) as url:
        settings = gateway_settings(direct, folder, 1, "http://127.0.0.1:1", database_url=url)
        found = [
            result.finding for result in await examine(Subject("a test", settings=settings), ["migrations"])
        ]
    assert [finding.verdict for finding in found] == ["ok", "ok"]
    assert f"over a {kind}" in found[0].detail


@pytest.mark.parametrize("login", ["gateway", "gateway_service"])
def test_a_login_that_forgot_to_become_somebody_reads_nothing(pooled: str, login: str) -> None:
    table = "public.generated_assets" if login == "gateway" else "auth.users"
    with psycopg.connect(login_as(pooled, login), prepare_threshold=None, autocommit=True) as connection:
        for _ in range(2 * SERVER_CONNECTIONS):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(f"select * from {table}".encode())


async def test_nothing_is_heard_of_a_notification(pooled: str) -> None:
    """Why the gateway asks for events instead of waiting for them."""
    connect = psycopg.AsyncConnection.connect
    async with (
        await connect(pooled, autocommit=True, prepare_threshold=None) as ear,
        await connect(pooled, autocommit=True, prepare_threshold=None) as mouth,
    ):
        await ear.execute("listen news")
        await mouth.execute("notify news")
        assert [heard async for heard in ear.notifies(timeout=0.5, stop_after=1)] == []


async def test_a_job_is_drawn_and_told_by_the_webhook(product: Stack) -> None:
    job = await product.user.ended((await product.user.create(prompt="a dragon"))["id"], within=20)
    assert job["status"] == "completed"
    assert product.rows("select count(*) as n from private.webhook_inbox where job_id = %s", job["id"]) == [
        {"n": 1}
    ]
    picture = await product.user.http.get(f"/v1/images/{job['images'][0]['id']}/content")
    assert picture.headers["content-type"] == "image/png"


async def test_twenty_jobs_at_once_are_all_drawn(product: Stack) -> None:
    created = await asyncio.gather(*(product.user.create(prompt=f"dragon {n}") for n in range(20)))
    ended = [await product.user.ended(job["id"]) for job in created]
    assert [job["status"] for job in ended] == ["completed"] * 20
    assert sorted(job["prompt"]["input"] for job in ended) == sorted(f"dragon {n}" for n in range(20))
    servers = product.rows(
        "select usename, count(*) as n from pg_stat_activity where usename like 'gateway%%' "
        "and datname = current_database() group by 1"
    )
    assert {row["usename"] for row in servers} == {"gateway", "gateway_service"}
    assert all(row["n"] <= SERVER_CONNECTIONS for row in servers)


async def test_a_second_gateway_streams_what_the_first_one_does(
    product: Stack, direct: str, pooled: str
) -> None:
    """Over the pooler and without LISTEN: the second one moves no job and is given no hint."""
    port = free_port()
    settings = gateway_settings(
        direct, product.folder, port, "http://127.0.0.1:1", database_url=pooled, worker=False
    )
    seen: list[str] = []
    async with (
        serve(create_app(settings), port) as url,
        asyncio.timeout(20),
        product.user.http.stream("GET", f"{url}/v1/events") as stream,
    ):
        job = await product.user.create(prompt="a phoenix")
        async for line in stream.aiter_lines():
            if line.startswith("data: ") and json.loads(line[6:])["id"] == job["id"]:
                seen.append(json.loads(line[6:])["status"])
                if seen[-1] == "completed":
                    break
    assert "processing" in seen


async def test_claims_never_leak_from_one_transaction_to_another(product: Stack, pooled: str) -> None:
    """Two users take turns 200 times each on few server connections; each sees its own row and no other."""
    users = [product.new_user() for _ in range(2)]
    for n, user in enumerate(users):
        await user.create(prompt=f"secret {n}", wait=20)
    settings = gateway_settings(
        product.admin_url, product.folder, 1, "http://127.0.0.1:1", database_url=pooled
    )
    async with Database(settings) as db:

        async def look(n: int) -> None:
            caller = Principal(UUID(str(users[n % 2].id)), "test", frozenset())
            async with db.as_user(caller) as connection:
                rows = await (await connection.execute(PROMPT.encode())).fetchall()
            assert [row["prompt_input"] for row in rows] == [f"secret {n % 2}"]
            async with db._users.connection() as connection:  # the same servers, between two transactions
                left = await (
                    await connection.execute(
                        "select current_user as role, current_setting('request.jwt.claims', true) as claims"
                    )
                ).fetchone()
            assert left is not None and left["role"] == "gateway" and not left["claims"]

        await asyncio.gather(*(look(n) for n in range(400)))
