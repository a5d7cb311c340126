"""The two servers of one protocol, to be put under the same tests: one machine, and Modal's parts.

``local`` is ``LocalExecutor``.  ``modal`` is what runs on Modal, front door, conductor and GPU container,
over the backend that lives in one process in place of Modal's servers.
"""

import contextlib
import shutil
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx

from modal_app.callback import Callback
from modal_app.conductor import Conductor, ModalExecutor
from modal_app.conductor_memory import MemoryBackend
from modal_app.generator import Generator
from modal_app.service import create_app
from modal_app.shelf import Fetching, Shelf
from modal_app.sources import Sources
from tests.modal_app.conftest import Client, service

MODELS = ("instant", "tiny-qwen", "tiny-qwen-edit")
POOL = "QwenGenerator"


class ModalClient(Client):
    """A client that also holds the strings of the backend behind its service."""

    backend: MemoryBackend
    conductor: Conductor


class Volume:
    """A folder that one side writes and another sees only after a commit and a reload."""

    def __init__(self, folder: Path) -> None:
        self.written, self._committed, self.seen = (folder / name for name in ("written", "kept", "seen"))

    async def commit(self) -> None:
        shutil.copytree(self.written, self._committed, dirs_exist_ok=True)

    def reload(self) -> None:
        if self._committed.exists():
            shutil.copytree(self._committed, self.seen, dirs_exist_ok=True)


@contextlib.asynccontextmanager
async def modal_service(
    folder: Path,
    *,
    models: Sequence[str] = MODELS,
    callback: Callback | None = None,
    origins: Sequence[str] = (),
    recipe_secret: str = "",
    queue_limit: int = 64,
    delay_seconds: float = 0.0,
    patience_seconds: float = 60.0,
    spawn_grace_seconds: float = 60.0,
    report_seconds: float = 0.01,
) -> AsyncIterator[ModalClient]:
    """As ``conftest.service``, for the parts that run on Modal."""
    volume = Volume(folder / "volume")

    def container(backend: MemoryBackend) -> Generator:
        return Generator(
            board=backend,
            shelf=Shelf(volume.seen, folder / "containers" / uuid4().hex, volume.reload),
            recipe_secret=recipe_secret,
            report_seconds=report_seconds,
        )

    async with (
        Sources(volume.written, origins) as sources,
        MemoryBackend({POOL: container}, queue_limit=queue_limit, delay_seconds=delay_seconds) as backend,
    ):
        backend.conductor = Conductor(
            backend,
            routes=dict.fromkeys(models, POOL),
            gpus={POOL: "cpu"},
            fetcher=Fetching(sources, volume.commit),
            callback=callback,
            patience_seconds=patience_seconds,
            progress_seconds=0.02,
            cancel_grace_seconds=0.5,
        )
        executor: Any = ModalExecutor(
            backend, models=models, gpu="cpu", spawn_grace_seconds=spawn_grace_seconds
        )
        transport = httpx.ASGITransport(create_app(executor, token=None))
        async with httpx.AsyncClient(transport=transport, base_url="http://gpu") as http:
            client = ModalClient(executor, http)
            client.backend, client.conductor = backend, backend.conductor
            yield client


Server = Callable[..., AbstractAsyncContextManager[Client]]

SERVERS: dict[str, Server] = {"local": service, "modal": modal_service}
