"""The whole product in one test process: real Postgres, real HTTP, real signed webhooks.

``Stack`` runs gateway and GPU service under Uvicorn on ports of their own.  ``Gpu`` stands between them
where a test wants a fault: it forwards everything, and loses, doubles or delays webhooks when told to.
"""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import uvicorn
from psycopg import sql

from gateway.config import Settings, login_as
from gateway.embedded import add_key

WEBHOOK_SECRET = "whsec_" + "c2VjcmV0IG9mIHRoZSB0ZXN0cywgMzIgYnl0ZXMhISE="
GPU_TOKEN = "token-of-the-tests"


@contextlib.contextmanager
def database(admin_url: str, template: str, name: str) -> Iterator[str]:
    """A fresh database, copied from a migrated template; yields its URL for the owner."""
    with psycopg.connect(admin_url, autocommit=True) as connection:
        connection.execute(
            sql.SQL("create database {} template {}").format(sql.Identifier(name), sql.Identifier(template))
        )
    try:
        yield admin_url.replace("/template1?", f"/{name}?")
    finally:
        with psycopg.connect(admin_url, autocommit=True) as connection:
            connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


@contextlib.asynccontextmanager
async def serve(app: Any, port: int = 0) -> AsyncIterator[str]:
    """Uvicorn around an ASGI app on a loopback port; yields its URL."""
    listener = socket.create_server(("127.0.0.1", port))
    config = uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    running = asyncio.create_task(server.serve([listener]))
    while not server.started:
        if running.done():
            await running
        await asyncio.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await running


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def settings(admin_url: str, folder: Path, gpu_url: str, **overrides: Any) -> Settings:
    """Settings of a test gateway on an embedded database."""
    values: dict[str, Any] = {
        "data": folder,
        "database_url": login_as(admin_url, "gateway"),
        "modal_generate_endpoint": gpu_url,
        "gpu_token": GPU_TOKEN,
        "webhook_secret": WEBHOOK_SECRET,
        "url_signing_key": "signing-key-of-the-tests",
        "worker_interval_seconds": 0.1,
        "log_level": "warning",
        **overrides,
    }
    return Settings(_env_file=None, **values)


class User:
    """A signed-in caller of one gateway."""

    def __init__(self, gateway_url: str, admin_url: str, email: str, scopes: list[str]) -> None:
        self.id, self.key = add_key(admin_url, email, scopes)
        self.http = httpx.AsyncClient(
            base_url=gateway_url, headers={"Authorization": f"Bearer {self.key}"}, timeout=70
        )

    async def create(self, wait: int = 0, **body: Any) -> dict[str, Any]:
        headers = {"Prefer": f"wait={wait}"} if wait else {}
        answer = await self.http.post("/v1/jobs", json=body, headers=headers)
        assert answer.status_code in (200, 202), answer.text
        return dict(answer.json())

    async def job(self, job_id: str) -> dict[str, Any]:
        answer = await self.http.get(f"/v1/jobs/{job_id}")
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    async def ended(self, job_id: str, within: float = 30.0) -> dict[str, Any]:
        """The job once it has ended; fails when that takes longer than ``within`` seconds."""
        async with asyncio.timeout(within):
            while (job := await self.job(job_id))["status"] in ("queued", "processing"):
                await asyncio.sleep(0.03)
        return job
