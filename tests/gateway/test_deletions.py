"""Objects and rows go together, whatever is killed in between: the outbox of deletions, and the sweep."""

import asyncio
import datetime
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import psycopg
import pytest
import pytest_asyncio
from psycopg.rows import dict_row
from typer.testing import CliRunner

from gateway.cli import app as cli
from gateway.config import login_as
from gateway.db import Database
from gateway.images.repository import DELETE
from gateway.services import keepers
from gateway.storage import DESIGNS, UPLOADS, Bucket, sweep
from gateway.storage.deletions import Deletions
from gateway.storage.local import LocalBucket
from gateway.storage.supabase import SupabaseBucket
from gateway.storage.sweep import Findings, Sweep
from tests.support.stack import (
    Process,
    Stack,
    free_port,
    gateway_process,
    gateway_settings,
    gpu_process,
    serve,
)
from tests.support.storage_server import LOSE_ANSWER, SECRET, StorageServer

NOW = datetime.timedelta(0)
PNG = "image/png"
END = "update public.generation_jobs set status = 'failed', error_code = 'x', wake_at = null where id = %s"


class World:
    """A database, its buckets, and who tidies them; no gateway runs."""

    def __init__(self, admin_url: str, db: Database, buckets: dict[str, Bucket]) -> None:
        self.admin_url = admin_url
        self.db = db
        self.buckets = buckets
        self.designs = buckets[DESIGNS]
        self.deletions = Deletions(db, buckets, keepers(db))
        self._sweep = Sweep(db, buckets, keepers(db))
        self.user = self._new_user()

    def rows(self, statement: str, *values: object) -> list[dict[str, Any]]:
        with psycopg.connect(self.admin_url, row_factory=dict_row) as connection:
            return connection.execute(statement.encode(), values).fetchall()

    def _new_user(self) -> str:
        (row,) = self.rows("insert into auth.users (email) values (%s) returning id", f"{uuid4()}@a")
        return str(row["id"])

    async def sweep(self, **how: Any) -> Findings:
        """What was found about the designs."""
        return (await self.sweep_all(**how))[0]

    async def sweep_all(self, **how: Any) -> list[Findings]:
        return await self._sweep.run(**{"age": NOW, **how})

    def upload(self, key: str, status: str) -> None:
        """The row of an upload that its own sweep is done with."""
        self.rows(
            """insert into public.uploads
                 (id, user_id, source, filename, content_type, bytes, key, status, sha256, width, height,
                  error_code)
               select %s, %s, 'upload', 'a.png', 'image/png', 7, %s, %s,
                 repeat('a', 64), 8, 8, case when %s = 'failed' then 'x' end returning 1""",
            *(key.split("/")[1], self.user, key, status, status),
        )

    def job(self, ended: bool = True) -> str:
        (row,) = self.rows(
            """insert into public.generation_jobs
                 (user_id, prompt_input, prompt_final, model, width, height, seed, status, wake_at)
               values (%s, 'a', 'a', 'instant', 64, 64, 1, %s, %s) returning id""",
            self.user,
            *(("completed", None) if ended else ("processing", datetime.datetime.now(datetime.UTC))),
        )
        return str(row["id"])

    def key(self, job: str, n: int = 0) -> str:
        return f"{self.user}/{job}/1-1-{n}.png"

    async def picture(self) -> tuple[str, str]:
        """A stored picture with its row: id and key."""
        job = self.job()
        key = self.key(job)
        await self.designs.put(key, b"picture", PNG)
        return self.row(job, key), key

    def row(self, job: str, key: str) -> str:
        (row,) = self.rows(
            """insert into public.generated_assets
                 (id, user_id, job_id, n, key, content_type, bytes, sha256, width, height, seed)
               values (gen_random_uuid(), %s, %s, 0, %s, 'image/png', 7, repeat('a', 64), 64, 64, 1)
               returning id""",
            *(self.user, job, key),
        )
        return str(row["id"])

    async def delete(self, image_id: str) -> None:
        """As the API does; then its grace is over."""
        await self.db.do(DELETE, {"id": image_id, "user_id": self.user})
        self.pass_time("8 days")

    def pass_time(self, interval: str) -> None:
        self.rows("update private.deletions set wake_at = wake_at - %s::interval returning 1", interval)

    async def keys(self, name: str = DESIGNS) -> list[str]:
        return sorted([found.key async for found in self.buckets[name].list()])

    def due(self) -> list[dict[str, Any]]:
        return self.rows("select key, reason, attempts, last_error from private.deletions order by key")


@asynccontextmanager
async def local(folder: Path) -> AsyncIterator[dict[str, Bucket]]:
    yield {name: LocalBucket(folder, name=name, signing_key="k", base_url="") for name in (DESIGNS, UPLOADS)}


@asynccontextmanager
async def supabase(folder: Path) -> AsyncIterator[dict[str, Bucket]]:
    async with serve(StorageServer()) as url, httpx.AsyncClient() as http:
        yield remote_buckets(http, url)


def remote_buckets(http: httpx.AsyncClient, url: str) -> dict[str, Bucket]:
    return {n: SupabaseBucket(http, url, SECRET, name=n, backoff=(0.01,)) for n in (DESIGNS, UPLOADS)}


@pytest.fixture(scope="module")
def shared_url(new_database: Callable[[], str]) -> str:
    return new_database()


@pytest.fixture
def empty_url(shared_url: str) -> str:
    """One database for all, emptied for each: what it counts is the test's own."""
    with psycopg.connect(shared_url) as connection:
        connection.execute("truncate private.deletions, public.uploads, public.generation_jobs cascade")
    return shared_url


@pytest_asyncio.fixture(params=[local, supabase], ids=lambda make: make.__name__)
async def world(request: pytest.FixtureRequest, empty_url: str, tmp_path: Path) -> AsyncIterator[World]:
    async with (
        Database(gateway_settings(empty_url, tmp_path, 1, "http://127.0.0.1:9")) as db,
        request.param(tmp_path) as buckets,
    ):
        yield World(empty_url, db, buckets)


# Deletions


async def test_nothing_goes_before_its_grace_is_over(world: World) -> None:
    image, key = await world.picture()
    await world.delete(image)
    world.pass_time("-1 day -1 minute")  # of seven days, a minute to go
    assert await world.deletions.carry_out() == 0
    assert await world.keys() == [key]


async def test_a_deleted_picture_goes_with_its_thumbnail_and_leaves_a_tombstone(world: World) -> None:
    image, key = await world.picture()
    _, other = await world.picture()
    await world.designs.put(f"{key}.thumbnail.webp", b"small", "image/webp")
    await world.delete(image)
    assert await world.deletions.carry_out() == 2
    assert await world.keys() == [other]
    (row,) = world.rows("select sha256, purged_at from public.generated_assets where id = %s", image)
    assert row["purged_at"] is not None
    assert world.due() == []
    assert (await world.sweep()).lost == {}


async def test_many_objects_go_in_batches(world: World) -> None:
    job = world.job()
    world.rows(
        """insert into private.deletions (bucket, key, reason)
           select 'generated-designs', %s || '/' || n || '.png', 'leftover' from generate_series(1, 1100) n
           returning 1""",
        f"{world.user}/{job}",
    )
    await world.designs.put(f"{world.user}/{job}/700.png", b"x", PNG)
    await world.deletions.carry_out()
    assert (await world.keys(), world.due()) == ([], [])


async def test_what_a_row_shows_is_never_removed(world: World) -> None:
    _, key = await world.picture()
    await world.designs.put(f"{key}.thumbnail.webp", b"small", "image/webp")
    world.rows(
        "insert into private.deletions (bucket, key, reason) "
        "values ('generated-designs', %s, 'x'), ('generated-designs', %s, 'x') returning 1",
        *(key, f"{key}.thumbnail.webp"),
    )
    assert await world.deletions.carry_out() == 0
    assert await world.keys() == [key, f"{key}.thumbnail.webp"]
    assert world.due() == []


# The sweep


async def test_an_orphan_is_found_scheduled_and_removed(world: World) -> None:
    _, key = await world.picture()
    orphan = world.key(world.job())
    await world.designs.put(orphan, b"orphan", PNG)
    await world.designs.put(f"{orphan}.thumbnail.webp", b"orphan", "image/webp")
    found = await world.sweep()
    assert (found.objects, found.rows, sorted(found.orphans)) == (3, 1, [orphan, f"{orphan}.thumbnail.webp"])
    assert await world.deletions.carry_out() == 2
    assert await world.keys() == [key]
    assert (await world.sweep()).orphans == []


async def test_a_look_changes_nothing(world: World) -> None:
    orphan = world.key(world.job())
    await world.designs.put(orphan, b"orphan", PNG)
    assert (await world.sweep(dry_run=True)).orphans == [orphan]
    assert world.due() == []


async def test_young_objects_and_those_of_running_jobs_are_left_alone(world: World) -> None:
    running, young = world.key(world.job(ended=False)), world.key(world.job())
    await world.designs.put(running, b"x", PNG)
    assert (await world.sweep()).orphans == []
    await world.designs.put(young, b"x", PNG)
    assert (await world.sweep(age=datetime.timedelta(hours=1))).orphans == []


async def test_a_characters_pictures_are_left_alone_while_one_of_its_jobs_runs(world: World) -> None:
    job, character = world.job(ended=False), uuid4()
    world.rows(
        "update public.generation_jobs set inputs = jsonb_build_object('character_id', %s::text) "
        "where id = %s returning 1",
        *(str(character), job),
    )
    key = f"{world.user}/characters/{character}/{uuid4()}.png"
    await world.designs.put(key, b"x", PNG)
    assert (await world.sweep()).orphans == []
    world.rows(END + " returning 1", job)
    assert (await world.sweep()).orphans == [key]


async def test_deleted_pictures_within_their_grace_are_no_orphans(world: World) -> None:
    image, key = await world.picture()
    await world.delete(image)
    world.pass_time("-8 days")
    assert (await world.sweep()).orphans == []
    assert await world.keys() == [key]


async def test_objects_that_nobody_knows_are_told_and_stay(world: World) -> None:
    await world.designs.put("somebody/else.png", b"x", PNG)
    found = await world.sweep()
    assert (found.orphans, found.unknown) == ([], ["somebody/else.png"])
    assert world.due() == []


async def test_a_row_without_its_object_is_told(world: World) -> None:
    image, key = await world.picture()
    await world.picture()
    await world.designs.delete([key])
    found = await world.sweep()
    assert (found.rows, found.lost) == (2, {image: key})


async def test_a_bucket_of_another_installation_is_not_emptied(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "SUSPICIOUS_ORPHANS", 2)
    job = world.job()
    for n in range(3):
        await world.designs.put(world.key(job, n), b"x", PNG)
    assert (await world.sweep()).suspicious
    assert world.due() == []
    await world.sweep(force=True)
    assert len(world.due()) == 3


async def test_an_upload_is_kept_by_its_row(world: World) -> None:
    bucket = world.buckets[UPLOADS]
    keys = {name: f"{world.user}/{uuid4()}/picture.png" for name in ("kept", "orphan", "lost", "refused")}
    for name in ("kept", "orphan", "refused"):
        await bucket.put(keys[name], b"picture", PNG)
    for name, status in (("kept", "ready"), ("lost", "ready"), ("refused", "failed")):
        world.upload(keys[name], status)
    _, found = await world.sweep_all()
    assert (found.objects, found.orphans) == (3, sorted([keys["orphan"], keys["refused"]]))
    assert list(found.lost.values()) == [keys["lost"]]
    assert await world.deletions.carry_out() == 2
    assert await world.keys(UPLOADS) == [keys["kept"]]


# With Supabase: what the service may do


@pytest_asyncio.fixture
async def server() -> StorageServer:
    return StorageServer()


@pytest_asyncio.fixture
async def remote(server: StorageServer, empty_url: str, tmp_path: Path) -> AsyncIterator[World]:
    async with (
        Database(gateway_settings(empty_url, tmp_path, 1, "http://127.0.0.1:9")) as db,
        serve(server) as url,
        httpx.AsyncClient() as http,
    ):
        yield World(empty_url, db, remote_buckets(http, url))


async def test_an_object_that_the_service_keeps_is_tried_again(remote: World, server: StorageServer) -> None:
    image, key = await remote.picture()
    server.kept = {key}
    await remote.delete(image)
    await remote.deletions.carry_out()
    (due,) = remote.due()
    assert (due["key"], due["attempts"]) == (key, 1)
    assert "kept" in due["last_error"]
    assert await remote.deletions.carry_out() == 0  # not before its pause is over
    server.kept = set()
    remote.pass_time("1 hour")
    assert await remote.deletions.carry_out() == 1
    (row,) = remote.rows("select purged_at from public.generated_assets where id = %s", image)
    assert row["purged_at"] is not None


async def test_a_service_that_is_down_delays_deletions(remote: World, server: StorageServer) -> None:
    image, _ = await remote.picture()
    await remote.delete(image)
    server.faults.extend([503] * 2)
    assert await remote.deletions.carry_out() == 0
    assert {due["attempts"] for due in remote.due()} == {1}
    remote.pass_time("1 hour")
    assert await remote.deletions.carry_out() == 2
    assert (await remote.keys(), remote.due()) == ([], [])


async def test_a_lost_answer_to_a_removal_is_a_removal(remote: World, server: StorageServer) -> None:
    image, _ = await remote.picture()
    await remote.delete(image)
    server.faults.append(LOSE_ANSWER)
    await remote.deletions.carry_out()
    assert (await remote.keys(), remote.due()) == ([], [])


# Killed in between


class Killable(Stack):
    gateway: Process

    def die(self, place: str) -> None:
        """The gateway dies when it next comes there."""
        (self.folder / place).touch()

    async def created_before_it_dies(self, count: int) -> list[dict[str, Any]]:
        """Jobs whose creation is answered before the gateway dies of storing the first of their pictures."""
        self.gpu.send(signal.SIGSTOP)
        jobs = [await self.user.create(prompt=str(n), size="64x64") for n in range(count)]
        self.die("stored")
        self.gpu.send(signal.SIGCONT)
        return jobs

    async def death(self, place: str) -> None:
        """Wait for it."""
        assert self.gateway.process is not None
        assert await asyncio.to_thread(self.gateway.process.wait, 30) == 9
        assert not (self.folder / place).exists()

    async def died(self, place: str) -> None:
        """Wait for its death, and start the gateway again."""
        await self.death(place)
        await asyncio.to_thread(self.gateway.start)

    def keys(self) -> set[str]:
        rows = self.rows("select key from public.generated_assets where purged_at is null")
        return {row["key"] for row in rows}


@asynccontextmanager
async def killable(admin_url: str, folder: Path) -> AsyncIterator[Killable]:
    port, gpu_port = free_port(), free_port()
    hook = f"http://127.0.0.1:{port}/api/generate/webhook"
    gpu = gpu_process(folder, gpu_port, hook, GPU_MODELS="instant")
    settings = {"LEASE_SECONDS": "1", "WEBHOOK_PATIENCE_SECONDS": "0.3", "DEFAULT_MODEL": "instant"}
    address = f"http://127.0.0.1:{gpu_port}"
    settings |= {"DIE_IN": str(folder), "module": "tests.support.dying_gateway"}
    gateway = gateway_process(folder, port, admin_url, address, **settings)
    try:
        await asyncio.to_thread(gpu.start)
        await asyncio.to_thread(gateway.start)
        product = Killable(admin_url, folder, gpu, f"http://127.0.0.1:{port}")
        product.gateway = gateway
        yield product
    finally:
        await asyncio.to_thread(gateway.stop)
        await asyncio.to_thread(gpu.stop)


async def eventually(check: Callable[[], Awaitable[bool] | bool], within: float = 30) -> None:
    async with asyncio.timeout(within):
        while not check():
            await asyncio.sleep(0.1)


def swept(product: Killable, monkeypatch: pytest.MonkeyPatch) -> str:
    """What ``tenkaigen sweep`` says, run at once."""
    monkeypatch.setenv("DATABASE_URL", login_as(product.admin_url, "gateway"))
    ran = CliRunner().invoke(cli, ["sweep", "--older-than-hours", "0", "--data", str(product.folder)])
    assert ran.exit_code == 0, ran.output
    return ran.output


@pytest.fixture
def folder(new_folder: Callable[[], Path]) -> Path:
    return new_folder()


async def test_killed_between_storing_and_finishing_leaves_no_object_without_a_row(
    admin_url: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with killable(admin_url, folder) as product:
        jobs = await product.created_before_it_dies(5)
        await product.died("stored")
        for job in jobs:
            assert (await product.user.ended(job["id"]))["status"] == "completed"
        assert (set(product.objects()), len(product.keys())) == (product.keys(), 5)
        assert "0 objects deleted" in await asyncio.to_thread(swept, product, monkeypatch)

        # and a job that never gets to finish: somebody ends it while no gateway runs
        (job,) = await product.created_before_it_dies(1)
        await product.death("stored")
        product.rows(END + " returning 1", job["id"])
        await asyncio.to_thread(product.gateway.start)
        assert (len(product.objects()), len(product.keys())) == (6, 5)
        await asyncio.to_thread(product.gateway.stop)  # its worker would take a share of what is deleted
        assert "1 objects deleted" in await asyncio.to_thread(swept, product, monkeypatch)
        assert set(product.objects()) == product.keys()


async def test_killed_between_finishing_and_deleting_goes_on_deleting(
    admin_url: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with killable(admin_url, folder) as product:
        job = await product.user.create(prompt="a", size="64x64", num_images=3, wait=30)
        for place, image in zip(("removed", "recorded"), job["images"], strict=False):
            await product.user.http.get(f"/v1/images/{image['id']}/thumbnail")
            product.die(place)
            await product.user.http.delete(f"/v1/images/{image['id']}")
            product.rows("update private.deletions set wake_at = now() returning 1")
            await product.died(place)
            product.rows("update private.deletions set wake_at = now() returning 1")  # instead of the pause
            await eventually(lambda: not product.rows("select 1 from private.deletions"))
        purged = product.rows("select id::text from public.generated_assets where purged_at is not null")
        assert {row["id"] for row in purged} == {image["id"] for image in job["images"][:2]}
        assert (set(product.objects()), len(product.keys())) == (product.keys(), 1)
        assert "0 objects deleted" in await asyncio.to_thread(swept, product, monkeypatch)
