"""Steady work for a long time, and what it leaves behind: ``make soak``.

Two gateways on one database and one GPU service with the instant model.  One gateway is killed again and
again; the other and the GPU service live through all of it, so that what they hold on to shows.  Clients
repeat a request that got no answer, with its idempotency key.  Exits with 1 when a job is lost or doubled,
a row waits for more than two leases, memory or descriptors keep growing, or the database grows by what no
table explains.
"""

import argparse
import asyncio
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import httpx

from gateway.embedded import EmbeddedPostgres
from scripts.process_figures import descriptors, machine, resident_mb
from tests.support.faults import FAST, Killable, all_ended, another, assert_invariants, killable, restart
from tests.support.stack import Process

SAMPLES = 30
WARM_UP = 1 / 3
"""Share of the samples that come before judging: pools fill, caches warm."""
MEMORY_SHARE, MEMORY_MB, DESCRIPTORS = 0.05, 5.0, 10
"""What a process may gain from the end of the warm-up to the end."""
EXPLAINED = 0.9
PATIENCE_SECONDS = 60.0
OVERDUE = """
select count(*)::int as n from public.generation_jobs where wake_at < now() - make_interval(secs => %s)
"""
TABLES = """
select format('%%s.%%s', schemaname, relname) as name, pg_total_relation_size(relid) as bytes,
  n_live_tup::int as rows, n_dead_tup::int as dead
from pg_stat_user_tables order by 2 desc
"""
SIZE = "select pg_database_size(current_database()) as bytes"


@dataclass(frozen=True)
class Sample:
    minutes: float
    jobs: int
    gateway_mb: float
    gateway_descriptors: int
    gpu_mb: float
    gpu_descriptors: int
    database_mb: float
    overdue: int


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--rate", type=float, default=5.0, help="jobs a second")
    parser.add_argument("--kill-every", type=float, default=120.0, help="seconds between two deaths")
    options = parser.parse_args()
    print(machine())
    with (
        tempfile.TemporaryDirectory(prefix="tenkaigen-soak-") as folder,
        EmbeddedPostgres(Path(folder), alone=True) as postgres,
    ):
        problems = asyncio.run(_soak(postgres.admin_url, Path(folder), options))
    for problem in problems:
        print(f"not held: {problem}")
    print("held" if not problems else f"{len(problems)} problems")
    sys.exit(bool(problems))


async def _soak(admin_url: str, folder: Path, options: argparse.Namespace) -> list[str]:
    seconds = 60 * options.minutes
    async with killable(admin_url, folder) as product, another(product) as steady:
        before = _sizes(product)
        load = Load(product, [product.gateway, steady])
        over = asyncio.Event()
        working = asyncio.create_task(load.run(options.rate, seconds))
        killing = asyncio.create_task(_kill_again_and_again(product.gateway, options.kill_every, over))
        try:
            samples = await _watch(product, steady, load, seconds)
            await working
        finally:
            over.set()
            working.cancel()
            await asyncio.gather(killing, working, return_exceptions=True)
        await all_ended(product, load.jobs, within=PATIENCE_SECONDS + seconds)
        print(f"{len(load.jobs)} jobs, {load.repeated} requests repeated")
        return [
            *_broken(product, load.jobs),
            *_growing(samples),
            *_unexplained(product, before, len(load.jobs)),
        ]


class Load:
    """Jobs at a steady rate, whatever becomes of those before."""

    def __init__(self, product: Killable, gateways: Sequence[Process]) -> None:
        self._headers = {"Authorization": f"Bearer {product.user.key}"}
        self._urls = [gateway.url for gateway in gateways]
        self.jobs: list[str] = []
        self.repeated = 0

    async def run(self, rate: float, seconds: float) -> None:
        started = time.monotonic()
        async with httpx.AsyncClient(headers=self._headers, timeout=10) as http, asyncio.TaskGroup() as group:
            for n in range(round(rate * seconds)):
                await asyncio.sleep(started + n / rate - time.monotonic())
                group.create_task(self._create(http, n))

    async def _create(self, http: httpx.AsyncClient, n: int) -> None:
        """One job, from whichever gateway takes it."""
        headers, body = (
            {"Idempotency-Key": str(uuid4())},
            {"prompt": f"number {n}", "size": "64x64", "seed": n},
        )
        async with asyncio.timeout(PATIENCE_SECONDS):
            for attempt in itertools.count(n):
                url = f"{self._urls[attempt % len(self._urls)]}/v1/jobs"
                try:
                    answer = await http.post(url, json=body, headers=headers)
                except httpx.TransportError:
                    answer = None
                # 200 where the first try was never answered and its job has ended meanwhile.
                if answer is not None and answer.status_code in (200, 202):
                    self.jobs.append(answer.json()["id"])
                    return
                self.repeated += 1
                await asyncio.sleep(0.2)


async def _kill_again_and_again(gateway: Process, every: float, over: asyncio.Event) -> None:
    while not over.is_set():
        with suppress(TimeoutError):
            await asyncio.wait_for(over.wait(), every)
            return
        await restart(gateway)


async def _watch(product: Killable, steady: Process, load: Load, seconds: float) -> list[Sample]:
    print(
        f"{'minute':>7} {'jobs':>6} {'gateway':>18} {'GPU service':>18} {'database':>9} {'overdue':>7}",
        flush=True,
    )
    started, samples = time.monotonic(), []
    for n in range(1, SAMPLES + 1):
        await asyncio.sleep(started + n * seconds / SAMPLES - time.monotonic())
        sample = await asyncio.to_thread(_sample, product, steady, load, (time.monotonic() - started) / 60)
        samples.append(sample)
        print(
            f"{sample.minutes:>7.1f} {sample.jobs:>6} "
            f"{sample.gateway_mb:>7.1f} MB {sample.gateway_descriptors:>4} fds "
            f"{sample.gpu_mb:>7.1f} MB {sample.gpu_descriptors:>4} fds "
            f"{sample.database_mb:>6.1f} MB {sample.overdue:>7}",
            flush=True,
        )
    return samples


def _sample(product: Killable, steady: Process, load: Load, minutes: float) -> Sample:
    assert steady.process is not None and product.gpu.process is not None
    gateway, gpu = steady.process.pid, product.gpu.process.pid
    return Sample(
        minutes=minutes,
        jobs=len(load.jobs),
        gateway_mb=resident_mb(gateway),
        gateway_descriptors=descriptors(gateway),
        gpu_mb=resident_mb(gpu),
        gpu_descriptors=descriptors(gpu),
        database_mb=product.rows(SIZE)[0]["bytes"] / 1e6,
        overdue=product.rows(OVERDUE, 2 * FAST["lease_seconds"])[0]["n"],
    )


def _broken(product: Killable, jobs: list[str]) -> list[str]:
    """What does not hold for every job."""
    try:
        assert_invariants(product, jobs)
    except AssertionError as error:
        return [f"a job: {error}"]
    return [] if len(jobs) == len(set(jobs)) else ["one key made two jobs"]


def _growing(samples: list[Sample]) -> list[str]:
    """What goes on growing after the warm-up."""
    judged = samples[int(len(samples) * WARM_UP) :]
    problems = [f"{s.overdue} rows overdue in minute {s.minutes:.1f}" for s in judged if s.overdue]
    for name in ("gateway_mb", "gpu_mb", "gateway_descriptors", "gpu_descriptors"):
        values = [float(getattr(sample, name)) for sample in judged]
        gained = slope([sample.minutes for sample in judged], values) * (
            judged[-1].minutes - judged[0].minutes
        )
        memory = max(MEMORY_MB, MEMORY_SHARE * statistics.mean(values))
        allowed = memory if name.endswith("_mb") else DESCRIPTORS
        print(f"{name}: {gained:+.1f} after the warm-up, {allowed:.1f} allowed")
        if gained > allowed:
            problems.append(f"{name} grew by {gained:.1f}")
    return problems


def slope(at: Sequence[float], values: Sequence[float]) -> float:
    """Of the straight line nearest to the values."""
    return statistics.linear_regression(at, values).slope


def _sizes(product: Killable) -> dict[str, int]:
    """Bytes by table, and of all under the empty name."""
    tables = {row["name"]: row["bytes"] for row in product.rows(TABLES)}
    return {**tables, "": product.rows(SIZE)[0]["bytes"]}


def _unexplained(product: Killable, before: dict[str, int], jobs: int) -> list[str]:
    """Prints what the tables have gained; a problem when the database has gained much more."""
    grown = {name: size - before.get(name, 0) for name, size in _sizes(product).items()}
    whole = grown.pop("")
    rows = {row["name"]: (row["rows"], row["dead"]) for row in product.rows(TABLES)}
    print(f"{'table, indexes and all':<34} {'gained':>10} {'bytes a job':>11} {'rows':>8} {'dead':>6}")
    for name, size in sorted(grown.items(), key=lambda item: -item[1]):
        if size > 0:
            live, dead = rows[name]
            print(f"{name:<34} {size / 1e6:>7.2f} MB {size / jobs:>11.0f} {live:>8} {dead:>6}")
    explained = sum(grown.values())
    print(f"{'the database':<34} {whole / 1e6:>7.2f} MB {whole / jobs:>11.0f}")
    enough = explained >= EXPLAINED * whole or whole - explained < 1e6
    return [] if enough else [f"tables explain {explained} of {whole} bytes"]


if __name__ == "__main__":
    main()
