"""Event streams that are open at once, each on a job of its own, as a page that shows a picture has it.

The bench plays the GPU service: its signed webhooks tell of one step of one job after another at a steady
rate.  Late is what passes from the beginning of the transaction that made an event to the event's last byte
at the client, both on the clock of this machine.
"""

import asyncio
import re
import resource
import statistics
import sys
import time
from datetime import UTC, datetime
from urllib.parse import urlsplit

import httpx
import psycopg
from standardwebhooks.webhooks import Webhook

from gateway.auth import key_sha256
from modal_app.contract import SCHEMA
from scripts.load_client import request
from scripts.process_figures import cpu_seconds, resident_mb
from tests.support.stack import WEBHOOK_SECRET, Process

EVENTS_PER_SECOND = 50
OPENING_AT_ONCE = 25
MEMORY_GOAL_MB, LATE_GOAL_MS = 256, 100
SPARE_DESCRIPTORS = 300
LOOKS, LOOK_SECONDS = 300, 0.1
"""For the last event; one that has not come by then is lost."""

RUNNING_JOBS = """
insert into public.generation_jobs
  (user_id, prompt_input, prompt_final, model, width, height, seed, steps, status, stage, wake_at)
select user_id, 'a phoenix rising', 'a phoenix rising', 'instant', 256, 256, n, 1000, 'processing',
  'generating', now() + interval '1 day'
from public.api_keys, generate_series(1, %(each)s) n where sha256 = %(key)s
returning id::text, seq, attempt
"""
COMMITTED = (
    "select id, extract(epoch from created_at)::float from private.job_events where event = 'progress'"
)
_EVENT = re.compile(rb"id: (\d+)\r\nevent: progress\r\n")

Job = tuple[str, int, int]
"""Id, seq and attempt."""


def need_descriptors(streams: int) -> None:
    """Raise this process's limit, which its children inherit; ends the program where it may not."""
    needed = streams + SPARE_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        sys.exit(f"{streams} streams need {needed} descriptors; `ulimit -Hn` allows {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


async def run(gateway: Process, admin_url: str, keys: list[str], streams: int, seconds: float) -> None:
    assert gateway.process is not None
    pid = gateway.process.pid
    empty = resident_mb(pid)
    jobs = {key: _running_jobs(admin_url, key, streams // len(keys)) for key in keys}
    listeners = [_Listener() for _ in range(sum(map(len, jobs.values())))]
    await _open(gateway.url, jobs, listeners)
    opened, used = resident_mb(pid), cpu_seconds(pid)
    sent = await _tell(gateway.url, [job for theirs in jobs.values() for job in theirs], seconds)
    await _all_received(listeners, sent)
    used = cpu_seconds(pid) - used
    late = _late(admin_url, listeners)
    print(f"{len(listeners)} event streams of {len(keys)} users, {EVENTS_PER_SECOND} events a second")
    print(
        f"gateway's memory: {empty:.0f} MB, {opened:.0f} MB with the streams, {resident_mb(pid):.0f} MB after"
    )
    print(f"{len(late)} of {sent} events received, {1000 * used / sent:.1f} ms of CPU each", end="; ")
    p50, p99 = statistics.median(late), statistics.quantiles(late, n=100)[-1]
    print(f"late: p50 {p50:.0f} ms, p99 {p99:.0f} ms, at most {max(late):.0f} ms")
    print(f"goal {MEMORY_GOAL_MB} MB: {_verdict(resident_mb(pid), MEMORY_GOAL_MB)}")
    print(f"goal p99 {LATE_GOAL_MS} ms: {_verdict(p99, LATE_GOAL_MS)}")
    for listener in listeners:
        listener.close()
    if len(late) < sent:
        sys.exit("events were lost")


class _Listener(asyncio.Protocol):
    """Remembers when the last byte of each event of progress arrived."""

    def __init__(self) -> None:
        self._read = b""
        self._transport: asyncio.BaseTransport | None = None
        self.opened = asyncio.Event()
        self.received: dict[int, float] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        now = time.time()
        *complete, self._read = (self._read + data).split(b"\r\n\r\n")
        for part in complete:
            self.opened.set()
            for event_id in _EVENT.findall(part + b"\r\n"):
                self.received[int(event_id)] = now

    def close(self) -> None:
        if self._transport:
            self._transport.close()


def _running_jobs(admin_url: str, key: str, each: int) -> list[Job]:
    values = {"key": key_sha256(key), "each": each}
    with psycopg.connect(admin_url) as connection:
        return connection.execute(RUNNING_JOBS.encode(), values).fetchall()


async def _open(url: str, jobs: dict[str, list[Job]], listeners: list[_Listener]) -> None:
    wires = [
        request("GET", f"{url}/v1/jobs/{job_id}/events", {"authorization": f"Bearer {key}"})
        for key, theirs in jobs.items()
        for job_id, _, _ in theirs
    ]
    parts, few = urlsplit(url), asyncio.Semaphore(OPENING_AT_ONCE)

    async def open_one(listener: _Listener, wire: bytes) -> None:
        async with few:
            loop = asyncio.get_running_loop()
            transport, _ = await loop.create_connection(lambda: listener, parts.hostname, parts.port)
            transport.write(wire)
            await asyncio.wait_for(listener.opened.wait(), 60)

    await asyncio.gather(*map(open_one, listeners, wires))


async def _tell(url: str, jobs: list[Job], seconds: float) -> int:
    """Progress of one job after another; returns how many events there were."""
    count = round(EVENTS_PER_SECOND * seconds)
    async with httpx.AsyncClient(base_url=url, timeout=60) as http:
        started, sending = time.perf_counter(), []
        for n in range(count):
            await asyncio.sleep(started + n / EVENTS_PER_SECOND - time.perf_counter())
            step = 1 + n // len(jobs)
            sending.append(asyncio.create_task(_post(http, jobs[n % len(jobs)], step)))
        await asyncio.gather(*sending)
    return count


async def _all_received(listeners: list[_Listener], sent: int) -> None:
    for _ in range(LOOKS):
        if sum(len(listener.received) for listener in listeners) >= sent:
            return
        await asyncio.sleep(LOOK_SECONDS)


async def _post(http: httpx.AsyncClient, job: Job, step: int) -> None:
    job_id, seq, attempt = job
    key = f"{job_id}:{seq}:{attempt}"
    call = {"schema": SCHEMA, "call_id": key, "key": key, "task": "image", "status": "running"}
    call |= {"stage": "generating", "step": step, "steps": 1000}
    event = httpx.Request(
        "POST", "/", json={"schema": SCHEMA, "type": "call.progress", "seq": step, "call": call}
    )
    body, webhook_id, now = event.content, f"{key}:{step}", datetime.now(UTC)
    headers = {
        "webhook-id": webhook_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": Webhook(WEBHOOK_SECRET).sign(webhook_id, now, body.decode()),
    }
    answer = await http.post("/v1/callbacks/gpu", content=body, headers=headers)
    assert answer.status_code == 204, answer.text


def _late(admin_url: str, listeners: list[_Listener]) -> list[float]:
    """Milliseconds of each event that was received."""
    received = {event_id: at for listener in listeners for event_id, at in listener.received.items()}
    with psycopg.connect(admin_url) as connection:
        committed = connection.execute(COMMITTED.encode()).fetchall()
    return [1000 * (received[event_id] - at) for event_id, at in committed if event_id in received]


def _verdict(found: float, limit: float) -> str:
    return "reached" if found < limit else "missed"
