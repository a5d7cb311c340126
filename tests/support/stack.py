"""The whole product under test: real Postgres, real processes, real HTTP, real signed webhooks.

The GPU service and, where a test kills it, the gateway are processes of their own.  ``WebhookGate`` stands
between the two where a test wants a fault: it drops, doubles or delays events, and forwards the rest.
"""

import asyncio
import contextlib
import functools
import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import uvicorn
from fastapi import FastAPI, Request, Response
from psycopg import sql
from psycopg.rows import dict_row

from gateway.app import create_app
from gateway.config import Settings, login_as
from gateway.embedded import add_key

ROOT = Path(__file__).parents[2]
WEBHOOK_SECRET = "whsec_c2VjcmV0IG9mIHRoZSB0ZXN0cywgMzIgYnl0ZXMhISE="
GPU_TOKEN = "token-of-the-tests"
SIGNING_KEY = "signing-key-of-the-tests"
UNLIMITED = {
    "RATE_LIMIT_PER_MINUTE": "0",
    "RATE_LIMIT_CREATES_PER_MINUTE": "0",
    "RATE_LIMIT_FAILURES_PER_MINUTE": "0",
}


def create_database(server_url: str, template: str, name: str) -> str:
    """The owner's URL of a fresh database, copied from a migrated template."""
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(
            sql.SQL("create database {} template {}").format(sql.Identifier(name), sql.Identifier(template))
        )
    return server_url.replace("/template1?", f"/{name}?")


PORTS = range(20_000, 32_000, 200)
"""Where blocks of ports begin, below those that the system gives to whoever asks for any."""


def free_port() -> int:
    """A port that stays free until its server is there: no other run of the tests is told the same."""
    _, ports = _own_ports()
    for port in itertools.islice(ports, PORTS.step):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("every port of this process is in use")


@functools.cache
def _own_ports() -> tuple[socket.socket, Iterator[int]]:
    """The first port of a block, held as long as this process lives, and the others, over and over."""
    for n in range(len(PORTS)):
        first = PORTS[(os.getpid() + n) % len(PORTS)]
        guard = socket.socket()
        try:
            guard.bind(("127.0.0.1", first))
        except OSError:
            guard.close()
        else:
            return guard, itertools.cycle(range(first + 1, first + PORTS.step))
    raise AssertionError("every block of ports is taken")


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


class Process:
    """A server of ours in a process of its own, which a test may kill and start again."""

    def __init__(self, module: str, environment: dict[str, str], log: Path, health_url: str) -> None:
        self._command = [sys.executable, "-m", module]
        self._environment = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
        self._log = log
        self._health_url = health_url
        self.url = health_url.removesuffix("/healthz")
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command, cwd=ROOT, env=self._environment, stdout=log, stderr=log
            )
        deadline = time.monotonic() + 120  # one that dies is told at once
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self._log.read_text()[-3000:]
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(self._health_url, timeout=2).status_code == 200:
                    return
            time.sleep(0.02)
        raise AssertionError(f"not healthy: {self._log.read_text()[-3000:]}")

    def send(self, signal_: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(signal_)

    def kill(self) -> None:
        """kill -9: nothing of it is left to say goodbye."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(60)


def gpu_process(folder: Path, port: int, webhook_url: str, **environment: str) -> Process:
    """The local GPU service; not started yet."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = {
        "GPU_HOST": "127.0.0.1",
        "GPU_PORT": str(port),
        "GPU_TOKEN": GPU_TOKEN,
        "GPU_DATA": str(folder / "gpu"),
        "TENKAIGEN_WEBHOOK_URL": webhook_url,
        "TENKAIGEN_WEBHOOK_SECRET": WEBHOOK_SECRET,
        **environment,
    }
    return Process("modal_app.local", settings, folder / "gpu.log", f"http://127.0.0.1:{port}/healthz")


def gateway_process(
    folder: Path, port: int, admin_url: str, gpu_url: str, *, module: str = "gateway", **environment: str
) -> Process:
    """A gateway; not started yet."""
    settings = {
        "HOST": "127.0.0.1",
        "PORT": str(port),
        "DATA": str(folder),
        "DATABASE_URL": login_as(admin_url, "gateway"),
        "MODAL_GENERATE_ENDPOINT": gpu_url,
        "GPU_TOKEN": GPU_TOKEN,
        "WEBHOOK_SECRET": WEBHOOK_SECRET,
        "URL_SIGNING_KEY": SIGNING_KEY,
        "LOG_LEVEL": "warning",
        **UNLIMITED,
        **environment,
    }
    return Process(module, settings, folder / f"gateway-{port}.log", f"http://127.0.0.1:{port}/healthz")


def gateway_settings(admin_url: str, folder: Path, port: int, gpu_url: str, **overrides: Any) -> Settings:
    """Settings of a gateway inside the test process."""
    values: dict[str, Any] = {
        "port": port,
        "data": folder,
        "database_url": login_as(admin_url, "gateway"),
        "modal_generate_endpoint": gpu_url,
        "gpu_token": GPU_TOKEN,
        "webhook_secret": WEBHOOK_SECRET,
        "url_signing_key": SIGNING_KEY,
        "worker_interval_seconds": 0.1,
        "log_level": "error",
        **{name.lower(): 0 for name in UNLIMITED},
        **overrides,
    }
    return Settings(_env_file=None, **values)


class WebhookGate:
    """Takes the GPU service's events in the gateway's place and passes on what the test lets through."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.lost: set[str] = set()
        """Jobs of whose ends nobody was told."""
        self.copies: Callable[[dict[str, Any]], int] = lambda event: 1
        """How often an event is delivered: 0 loses it, 2 doubles it."""
        self.late: Callable[[dict[str, Any]], float] = lambda event: 0.0
        """Seconds that it is held back for, while others overtake it."""
        self._held: set[asyncio.Task[None]] = set()
        self.app = FastAPI()
        self.app.post("/")(self._receive)

    def drop_all(self) -> None:
        self.copies = lambda event: 0

    async def _receive(self, request: Request) -> Response:
        body, names = await request.body(), ("webhook-id", "webhook-timestamp", "webhook-signature")
        headers = {name: request.headers[name] for name in names}
        event = await request.json()
        copies, late = self.copies(event), self.late(event)
        if not copies and event["type"] != "call.progress":
            self.lost.add(event["call"]["key"].partition(":")[0])
        if not late:
            await self._deliver(body, headers, copies)
        else:
            task = asyncio.create_task(self._deliver(body, headers, copies, late))
            self._held.add(task)
            task.add_done_callback(self._held.discard)
        return Response(status_code=204)

    async def _deliver(self, body: bytes, headers: dict[str, str], copies: int, late: float = 0.0) -> None:
        await asyncio.sleep(late)
        async with httpx.AsyncClient(timeout=httpx.Timeout(70, pool=None)) as http:
            for _ in range(copies):
                await http.post(self.target, content=body, headers=headers)

    async def all_delivered(self) -> None:
        """Wait for those that are held back."""
        await asyncio.gather(*self._held)


class User:
    """A signed-in caller of one gateway."""

    def __init__(self, gateway_url: str, admin_url: str, email: str, scopes: list[str]) -> None:
        self.id, self.key = add_key(admin_url, email, scopes)
        self.http = httpx.AsyncClient(
            base_url=gateway_url,
            headers={"Authorization": f"Bearer {self.key}"},
            timeout=httpx.Timeout(70, pool=None),
        )

    async def create(self, wait: int = 0, **body: Any) -> dict[str, Any]:
        headers = {"Prefer": f"wait={wait}"} if wait else {}
        answer = await self.http.post("/v1/jobs", json=body, headers=headers)
        assert answer.status_code in (200, 202), answer.text
        return dict(answer.json())

    async def upload(self, content: bytes, content_type: str = "image/png") -> str:
        """The id of an upload that is ready."""
        body = {"filename": "picture", "content_type": content_type, "bytes": len(content)}
        ticket = (await self.http.post("/v1/uploads", json=body)).json()
        await self.http.put(ticket["url"], content=content, headers=ticket["headers"])
        answer = await self.http.post(f"/v1/uploads/{ticket['upload_id']}/complete")
        assert answer.status_code == 200, answer.text
        return str(ticket["upload_id"])

    async def job(self, job_id: str) -> dict[str, Any]:
        answer = await self.http.get(f"/v1/jobs/{job_id}")
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    async def ended(self, job_id: str, within: float = 120.0) -> dict[str, Any]:
        """The job once it has ended; fails when that takes longer than ``within`` seconds."""
        async with asyncio.timeout(within):
            while (job := await self.job(job_id))["status"] in ("queued", "processing"):
                await asyncio.sleep(0.05)
        return job


class Stack:
    """A gateway in this process, a GPU service in another, and a user of both."""

    app: FastAPI | None = None
    """The gateway, where it runs in this process."""

    def __init__(self, admin_url: str, folder: Path, gpu: Process, url: str) -> None:
        self.admin_url = admin_url
        self.folder = folder
        self.gpu = gpu
        self.url = url
        self.user = self.new_user()

    def new_user(self, scopes: tuple[str, ...] = ("generate", "read")) -> User:
        return User(self.url, self.admin_url, f"{os.urandom(4).hex()}@example.com", list(scopes))

    def rows(self, statement: str, *values: object) -> list[dict[str, Any]]:
        """What the database's owner sees."""
        with psycopg.connect(self.admin_url, row_factory=dict_row) as connection:
            return connection.execute(statement.encode(), values).fetchall()

    def objects(self, name: str = "generated-designs") -> list[str]:
        """Keys of every object in a bucket."""
        bucket = self.folder / "buckets" / name
        files = [path for path in bucket.rglob("*") if path.is_file() and not path.name.startswith(".part-")]
        return sorted(path.relative_to(bucket).as_posix() for path in files)


@contextlib.asynccontextmanager
async def stack(
    admin_url: str,
    folder: Path,
    *,
    webhook_url: str = "",
    gpu: dict[str, str] | None = None,
    **overrides: Any,
) -> AsyncIterator[Stack]:
    """Start everything; the GPU service posts to ``webhook_url``, by default to the gateway itself."""
    port, gpu_port = free_port(), free_port()
    hook = webhook_url or f"http://127.0.0.1:{port}/api/generate/webhook"
    service = gpu_process(folder, gpu_port, hook, GPU_ORIGINS=f"http://127.0.0.1:{port}", **(gpu or {}))
    await asyncio.to_thread(service.start)
    app = create_app(gateway_settings(admin_url, folder, port, f"http://127.0.0.1:{gpu_port}", **overrides))
    try:
        async with serve(app, port) as url:
            running = Stack(admin_url, folder, service, url)
            running.app = app
            yield running
    finally:
        await asyncio.to_thread(service.stop)
