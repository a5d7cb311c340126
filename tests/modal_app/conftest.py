"""What the tests of the GPU service share: a loaded tiny model, a running service, a little gateway."""

import asyncio
import contextlib
import hashlib
import io
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from PIL import Image
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from modal_app import catalog, engine
from modal_app.callback import Callback
from modal_app.contract import ENDED, Call, CallEvent, ImageRequest
from modal_app.executor import LocalExecutor
from modal_app.service import create_app
from tests.support.stack import serve

TOKEN = "token-of-the-tests"
SECRET = "whsec_" + "c2VjcmV0IG9mIHRoZSB0ZXN0cywgMzIgYnl0ZXMhISE="
CREATURE = "a red round creature with a blue hat, front view, on a beach"


def image_request(**changes: Any) -> ImageRequest:
    """A small request of the tiny model; ``model="instant"`` makes it one of the fake."""
    instant = changes.get("model") == "instant"
    values: dict[str, Any] = {
        "model": "tiny-qwen",
        "prompt": CREATURE,
        "width": 96,
        "height": 96,
        "seed": 7,
        "num_inference_steps": 1 if instant else 6,
    }
    return ImageRequest(**{**values, **changes})


def new_key(attempt: int = 1) -> str:
    return f"{uuid4()}:0:{attempt}"


@pytest.fixture(scope="session")
def tiny() -> engine.Engine:
    return load("tiny-qwen")


def load(model_id: str) -> engine.Engine:
    model = catalog.find(model_id)
    assert model is not None
    return engine.load(model)


def run(
    loaded: engine.Engine,
    cancelled: Callable[[], bool] = lambda: False,
    files: engine.Files | None = None,
    **changes: Any,
) -> engine.Drawing:
    return loaded.run(image_request(**changes), files or {}, lambda step, steps: None, cancelled)


def kept(folder: Path, image: Image.Image) -> tuple[str, engine.Files]:
    """A picture as a file: (sha256, files of a run)."""
    file = io.BytesIO()
    image.save(file, "PNG")
    sha256 = hashlib.sha256(file.getvalue()).hexdigest()
    path = folder / sha256
    path.write_bytes(file.getvalue())
    return sha256, {sha256: path}


@dataclass
class Client:
    """The gateway's side of the protocol, for one executor behind a real ASGI app."""

    executor: LocalExecutor
    http: httpx.AsyncClient

    async def submit(self, key: str | None = None, task: str = "image", **changes: Any) -> httpx.Response:
        request = image_request(**{"model": "instant", **changes}).model_dump(exclude_none=True)
        return await self.send({"key": key or new_key(), "task": task, "request": request})

    async def send(self, body: dict[str, Any]) -> httpx.Response:
        return await self.http.post("/calls", json=body)

    async def accepted(self, key: str | None = None, **changes: Any) -> str:
        answer = await self.submit(key, **changes)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["call_id"])

    async def call(self, call_id: str) -> Call:
        answer = await self.http.get(f"/calls/{call_id}")
        assert answer.status_code == 200, answer.text
        return Call.model_validate_json(answer.content)

    async def until(self, call_id: str, reached: Callable[[Call], bool]) -> Call:
        async with asyncio.timeout(120):  # a busy machine may load a model first
            while not reached(call := await self.call(call_id)):
                await asyncio.sleep(0.005)
        return call

    async def ended(self, call_id: str) -> Call:
        return await self.until(call_id, lambda call: call.status in ENDED)

    async def running(self, call_id: str) -> Call:
        return await self.until(call_id, lambda call: call.status != "queued")


@contextlib.asynccontextmanager
async def service(folder: Path, **options: Any) -> AsyncIterator[Client]:
    """A service over a folder; leaving it stops the service as SIGTERM does."""
    options.setdefault("models", ["instant", "tiny-qwen", "tiny-qwen-edit"])
    async with LocalExecutor(folder=folder, **options) as executor:
        transport = httpx.ASGITransport(create_app(executor, TOKEN))
        headers = {"Authorization": f"Bearer {TOKEN}"}
        async with httpx.AsyncClient(transport=transport, base_url="http://gpu", headers=headers) as http:
            yield Client(executor, http)


@pytest.fixture
async def gpu(tmp_path: Path) -> AsyncIterator[Client]:
    async with service(tmp_path) as client:
        yield client


@dataclass
class Gateway:
    """Receives events; ``answers`` are its next status codes, then 204 for ever."""

    answers: list[int] = field(default_factory=list)
    picky: str = ""
    """What is answered so; every other event is taken."""
    received: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    url: str = ""

    async def take(self, request: Request) -> Response:
        body = await request.body()
        self.received.append((dict(request.headers), body))
        status = self.answers.pop(0) if self.answers and self.picky.encode() in body else 204
        return Response(status_code=status, headers={"Location": "/elsewhere"} if status == 302 else None)

    def events(self, kind: str = "") -> list[CallEvent]:
        found = [CallEvent.model_validate_json(body) for _, body in self.received]
        return [event for event in found if kind in event.type]

    async def until(self, reached: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not reached():
                await asyncio.sleep(0.01)

    def app(self) -> Starlette:
        return Starlette(routes=[Route("/{path:path}", self.take, methods=["GET", "POST"])])


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    receiver = Gateway()
    async with serve(receiver.app()) as url:
        receiver.url = f"{url}/api/generate/webhook"
        yield receiver


@pytest.fixture
async def callback(gateway: Gateway) -> AsyncIterator[Callback]:
    async with Callback(gateway.url, SECRET, first_delay_seconds=0.01) as made:
        yield made
