"""What the fault tests share: a product that can be killed, and what has to hold afterwards."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from tests.support.stack import Process, Stack, free_port, gateway_process, gpu_process

SLOW = {"GPU_MODELS": "instant", "INSTANT_SECONDS": "0.1"}
FAST = {"webhook_patience_seconds": 0.3, "lease_seconds": 2.0, "default_model": "instant"}

SCALE = int(os.environ.get("FAULT_SCALE", "1"))
"""So many times the jobs; ``make faults`` takes 25, which makes the largest of them 1,000."""


def assert_invariants(product: Stack, jobs: list[str], allowed: tuple[str, ...] = ("completed",)) -> None:
    rows = product.rows(
        """select j.id::text, j.status::text, j.wake_at, j.cost_usd_micros,
             (select count(*) from public.generated_assets a where a.job_id = j.id) as pictures,
             (select count(*) from private.outbox o where o.job_id = j.id) as told,
             (select coalesce(sum(c.usd_micros), 0) from private.generation_calls c
              where c.job_id = j.id) as charged
           from public.generation_jobs j where j.id = any(%s::uuid[])""",
        jobs,
    )
    assert {row["id"] for row in rows} == set(jobs)
    for row in rows:
        assert row["status"] in allowed, row
        assert (row["wake_at"], row["told"]) == (None, 1), row
        assert row["pictures"] == (1 if row["status"] == "completed" else 0), row
        assert row["charged"] == row["cost_usd_micros"], row
    keys = {row["key"] for row in product.rows("select key from public.generated_assets")}
    assert set(product.objects()) == keys


async def all_ended(product: Stack, jobs: list[str], within: float = 40 * SCALE) -> None:
    async with asyncio.timeout(within):
        while product.rows(
            "select from public.generation_jobs where id = any(%s::uuid[]) and wake_at is not null limit 1",
            jobs,
        ):
            await asyncio.sleep(0.1)


class Killable(Stack):
    """The same, with the gateway in a process of its own."""

    gateway: Process


@asynccontextmanager
async def killable(
    admin_url: str,
    folder: Path,
    *,
    module: str = "gateway",
    gpu_name: str = "cpu",
    gpu: Mapping[str, str] = SLOW,
    **environment: str,
) -> AsyncIterator[Killable]:
    """``gpu_name`` says what a call costs; ``gpu`` is the environment of the GPU service."""
    port, gpu_port = free_port(), free_port()
    service = gpu_process(
        folder, gpu_port, f"http://127.0.0.1:{port}/api/generate/webhook", GPU_NAME=gpu_name, **gpu
    )
    settings = {name.upper(): str(value) for name, value in FAST.items()} | environment
    gpu_url = f"http://127.0.0.1:{gpu_port}"
    gateway = gateway_process(folder, port, admin_url, gpu_url, module=module, **settings)
    try:
        await asyncio.to_thread(service.start)
        await asyncio.to_thread(gateway.start)
        product = Killable(admin_url, folder, service, f"http://127.0.0.1:{port}")
        product.gateway = gateway
        yield product
    finally:
        await asyncio.to_thread(gateway.stop)
        await asyncio.to_thread(service.stop)


@asynccontextmanager
async def another(product: Killable, **environment: str) -> AsyncIterator[Process]:
    """A second gateway on the same database, bucket and GPU service."""
    settings = {name.upper(): str(value) for name, value in FAST.items()} | environment
    other = gateway_process(product.folder, free_port(), product.admin_url, product.gpu.url, **settings)
    await asyncio.to_thread(other.start)
    try:
        yield other
    finally:
        await asyncio.to_thread(other.stop)


async def restart(process: Process) -> None:
    process.kill()
    await asyncio.to_thread(process.start)


async def no_open_calls(product: Stack) -> bool:
    return not product.rows(
        """select from private.generation_calls
           where status in ('queued', 'running') or (status = 'pending' and call_id is not null)"""
    )


async def eventually(check: Callable[[], Awaitable[bool]], within: float = 120) -> None:
    async with asyncio.timeout(within):
        while not await check():
            await asyncio.sleep(0.1)
