"""What the gateway adds to a job: ``make bench``.

Embedded Postgres, a gateway and a GPU service with the instant model, each a process of its own, as under
``make up``.  N clients each keep one job in flight.  Overhead is what the rows say: the job's end minus its
creation minus GPU seconds; the last pair of columns takes off as well what the call waited for the GPU.
With an instant engine the cores are what jobs wait for, so a row with a GPU that takes its time stands
beside: there the gateway's own share shows.  Statements are counted by Postgres's own log in a run of their
own, since logging them costs time; BEGIN, COMMIT and set_config count like any other.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import psycopg

from gateway.embedded import EmbeddedPostgres, add_key
from scripts.process_figures import machine
from tests.support.stack import free_port, gateway_process, gpu_process

BODY = {"prompt": "a phoenix rising", "model": "instant", "size": "256x256"}
ROWS = ((1, 0.0), (20, 0.0), (20, 0.02), (200, 0.0), (1000, 0.0))
"""(jobs in flight, seconds of GPU a picture)"""
WATCH_SECONDS, WATCHED_PER_SECOND = 0.01, 5000
"""Pause between two looks at the rows, longer where many are watched: looking takes of the cores, too."""
CONNECTIONS, IDLE_SECONDS = 64, 2
"""Uvicorn closes a connection that is idle for 5 s, and must not do so under a request."""
ENDED = """
select j.id::text,
  1000 * (extract(epoch from j.finished_at - j.created_at) - j.gpu_seconds)::float,
  1000 * sum((c.timing ->> 'queue_seconds')::float)
from public.generation_jobs j join private.generation_calls c on c.job_id = j.id
where j.status = 'completed' and j.id = any(%s::uuid[])
group by j.id
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--jobs", type=int, default=300, help="jobs a row of the table, or two for each client"
    )
    parser.add_argument("--rows", type=int, default=len(ROWS), help="so many rows, the cheapest first")
    options = parser.parse_args()
    print(machine())
    print(f"{'':>9} {'GPU per':>8} {'':>7} {'total - GPU':>17} {'- wait for GPU':>17} {'statements':>10}")
    print(
        f"{'in flight':>9} {'picture':>8} {'jobs/s':>7}" + f"{'p50':>9} {'p95':>8}" * 2 + f"{'per job':>11}"
    )
    for in_flight, gpu_seconds in ROWS[: options.rows]:
        jobs = max(options.jobs, 2 * in_flight) if in_flight > 1 else options.jobs // 3
        with (
            tempfile.TemporaryDirectory(prefix="tenkaigen-bench-") as name,
            _product(Path(name), gpu_seconds) as (url, admin, key, log),
        ):
            asyncio.run(_load(url, admin, key, 20, 40))  # warm up
            seconds, overheads = asyncio.run(_load(url, admin, key, in_flight, jobs))
            logged = min(jobs, options.jobs)
            with _statement_log(admin, log) as statements:
                asyncio.run(_load(url, admin, key, in_flight, logged))
            counted = statements()
        strict = _percentiles([total for total, _ in overheads])
        own = _percentiles([total - waited for total, waited in overheads])
        print(f"{in_flight:>9} {gpu_seconds * 1000:>5.0f} ms {jobs / seconds:>7.0f} {strict} {own}", end="")
        print(f"{sum(counted.values()) / logged:>11.1f}", flush=True)


def _percentiles(milliseconds: list[float]) -> str:
    p50, p95 = statistics.median(milliseconds), statistics.quantiles(milliseconds, n=20)[-1]
    return f"{p50:>5.0f} ms {p95:>5.0f} ms"


async def _load(
    url: str, admin: str, key: str, in_flight: int, jobs: int
) -> tuple[float, list[tuple[float, float]]]:
    """Seconds, and of each job (total minus GPU, wait for the GPU) in ms; ``in_flight`` jobs at a time."""
    left = iter(range(jobs))
    headers = {"Authorization": f"Bearer {key}"}
    watcher = Watcher(await psycopg.AsyncConnection.connect(admin, autocommit=True))
    async with (
        aiohttp.TCPConnector(limit=CONNECTIONS, keepalive_timeout=IDLE_SECONDS) as connector,
        aiohttp.ClientSession(url, headers=headers, connector=connector) as http,
        watcher,
    ):

        async def client() -> None:
            for n in left:
                async with http.post("/v1/jobs", json={**BODY, "seed": n}) as answer:
                    job = await answer.json()
                await watcher.ended(job["id"])

        started = time.perf_counter()
        await asyncio.gather(*(client() for _ in range(in_flight)))
        seconds = time.perf_counter() - started
    assert len(watcher.overheads) == jobs, f"{jobs - len(watcher.overheads)} jobs did not complete"
    return seconds, watcher.overheads


class Watcher:
    """Watches rows as the database's owner, all with one query: watching costs the gateway nothing."""

    def __init__(self, connection: psycopg.AsyncConnection[Any]) -> None:
        self._connection = connection
        self._waiting: dict[str, asyncio.Event] = {}
        self.overheads: list[tuple[float, float]] = []

    async def __aenter__(self) -> None:
        self._task = asyncio.create_task(self._watch())

    async def __aexit__(self, *exc: object) -> None:
        self._task.cancel()
        await self._connection.close()

    async def ended(self, job_id: str) -> None:
        self._waiting[job_id] = asyncio.Event()
        await self._waiting[job_id].wait()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(max(WATCH_SECONDS, len(self._waiting) / WATCHED_PER_SECOND))
            answer = await self._connection.execute(ENDED, (list(self._waiting),))
            for job_id, *milliseconds in await answer.fetchall():
                self._waiting.pop(job_id).set()
                self.overheads.append(tuple(milliseconds))


@contextmanager
def _product(folder: Path, gpu_seconds: float) -> Iterator[tuple[str, str, str, Path]]:
    """(gateway's URL, owner's database URL, API key, Postgres's log)."""
    port, gpu_port = free_port(), free_port()
    hook, gpu_url = f"http://127.0.0.1:{port}/v1/callbacks/gpu", f"http://127.0.0.1:{gpu_port}"
    with EmbeddedPostgres(folder) as postgres:
        gpu = gpu_process(folder, gpu_port, hook, GPU_MODELS="instant", INSTANT_SECONDS=str(gpu_seconds))
        gateway = gateway_process(folder, port, postgres.admin_url, gpu_url, DEFAULT_MODEL="instant")
        try:
            gpu.start()
            gateway.start()
            _, key = add_key(postgres.admin_url, "bench@example.com", ["generate", "read"])
            yield f"http://127.0.0.1:{port}", postgres.admin_url, key, postgres.log
        finally:
            gateway.stop()
            gpu.stop()


@contextmanager
def _statement_log(admin: str, log: Path) -> Iterator[Any]:
    """Log every statement of the gateway's two logins; the yielded function counts them by first word."""
    _set_logging(admin, "all")
    start = log.stat().st_size

    def count() -> Counter[str]:
        _set_logging(admin, "none")
        with log.open(errors="replace") as file:
            file.seek(start)
            lines = [line for line in file if line.startswith("gateway") and "LOG:" in line]
        texts = [line.split(": ", 2)[2] for line in lines if "statement: " in line or "execute " in line]
        return Counter(text.split()[0].lower() if text.split() else "with" for text in texts)

    yield count


def _set_logging(admin: str, what: str) -> None:
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute(f"alter system set log_statement = '{what}'".encode())
        connection.execute("alter system set log_line_prefix = '%u '")
        connection.execute("select pg_reload_conf()")
    time.sleep(0.3)


if __name__ == "__main__":
    main()
