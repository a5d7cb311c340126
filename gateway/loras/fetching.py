"""Pending LoRAs become ready ones: fetched, hashed on the way, checked by header, put into the bucket.

Whoever fetches holds a lease and renews it.  What a killed gateway was fetching falls due again, at this
gateway or another; the attempt's number is the fence that keeps a late one from writing.
"""

import asyncio
import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import structlog
from psycopg.rows import DictRow
from psycopg_pool import PoolTimeout

from gateway import tasks
from gateway.config import Settings
from gateway.errors import ApiError
from gateway.loras.places import Places
from gateway.loras.repository import LoraRows
from gateway.outside import Outside, OutsideError
from gateway.storage import LORAS, Buckets, ObjectMissing, StorageError
from modal_app import catalog
from modal_app.catalog.loras import InvalidLora, LoraFile, check_family, inspect
from modal_app.catalog.loras.header import MAX_HEADER_BYTES

log = structlog.get_logger()

CONTENT_TYPE = "application/octet-stream"
FETCH_SECONDS = 3600.0
"""For one file; 2 GiB at 600 kB/s."""
FACTS_BYTES = 2_000_000
AT_ONCE = 4
ATTEMPTS = 5
"""Fetches that died in the middle; a refusal is final at the first."""
LOOK_SECONDS = 2.0
LEFT_SECONDS = 3600.0
"""A file of a killed gateway that nobody has written to for so long is removed."""

UNREACHABLE = (psycopg.OperationalError, psycopg.InterfaceError, PoolTimeout, StorageError, OSError)
"""Ours to repair, not the file's fault: the lease brings it back."""


class Fetcher:
    """``async with Fetcher(...)`` goes on with what others left; ``start`` begins with a new one."""

    def __init__(
        self, rows: LoraRows, buckets: Buckets, outside: Outside, places: Places, settings: Settings
    ) -> None:
        self._rows = rows
        self._bucket = buckets[LORAS]
        self._outside = outside
        self._places = places
        self._lease = settings.lease_seconds
        self._limit = settings.lora_max_bytes
        self._works = settings.worker
        self._folder = settings.data / "loras-fetching"
        self._free = asyncio.Semaphore(AT_ONCE)
        self._tasks: dict[UUID, asyncio.Task[None]] = {}
        self._loop: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "Fetcher":
        if self._works:
            self._loop = asyncio.create_task(self._look_forever())
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._loop:
            await tasks.end([self._loop])  # first, because it starts the others
        await tasks.end(self._tasks.values())

    def start(self, row: DictRow) -> None:
        """Fetch a LoRA whose lease was just taken."""
        task = asyncio.create_task(self._carry_out(row))
        self._tasks[row["id"]] = task
        task.add_done_callback(lambda _: self._tasks.pop(row["id"], None))

    async def wait(self, lora_id: UUID, seconds: float) -> DictRow:
        """The row once it is ready or failed, or as it is after ``seconds``; whoever fetches it."""
        deadline = time.monotonic() + seconds
        while True:
            row = await self._rows.state(lora_id)
            left = deadline - time.monotonic()
            if row["status"] != "pending" or row["deleted_at"] is not None or left <= 0:
                return row
            if task := self._tasks.get(lora_id):
                await asyncio.wait({task}, timeout=left)
            else:
                await asyncio.sleep(min(0.5, left))

    async def tidy(self) -> None:
        """Remove files on this machine that a killed gateway has left."""
        await asyncio.to_thread(_remove_left, self._folder)

    async def remove(self, keys: list[str]) -> None:
        """Objects that are not needed any more; `storage.sweep` comes back for what could not be removed."""
        try:
            await self._bucket.delete(keys)
        except StorageError as error:
            log.warning("lora_not_removed", keys=keys, error=str(error))

    async def _look_forever(self) -> None:
        while True:
            try:
                for row in await self._rows.claim(max(0, AT_ONCE - len(self._tasks)), self._lease):
                    self.start(row)
            except (psycopg.Error, PoolTimeout) as error:
                log.warning("loras_not_looked_for", error=str(error))
            await asyncio.sleep(LOOK_SECONDS)

    async def _carry_out(self, row: DictRow) -> None:
        """One attempt.  Whatever goes wrong on our side, the lease brings the LoRA back."""
        try:
            async with self._leased(row), self._free:
                await self._settle(row)
        except UNREACHABLE as error:
            log.warning("lora_not_fetched", lora_id=str(row["id"]), error=type(error).__name__)
        except Exception:
            log.exception("lora_fetch_broke", lora_id=str(row["id"]))

    @asynccontextmanager
    async def _leased(self, row: DictRow) -> AsyncIterator[None]:
        """Ends the work of its task when the lease is lost, or the LoRA deleted."""
        working = asyncio.current_task()
        assert working is not None
        renewing = asyncio.create_task(self._renew(row, working))
        try:
            yield
        finally:
            renewing.cancel()

    async def _renew(self, row: DictRow, working: asyncio.Task[Any]) -> None:
        while True:
            await asyncio.sleep(self._lease / 3)
            with suppress(psycopg.Error, PoolTimeout):
                if not await self._rows.renew(row, self._lease):
                    working.cancel()
                    return

    async def _settle(self, row: DictRow) -> None:
        """Ready, or failed with the reason; nothing is left of a file that was refused."""
        if row["attempt"] > ATTEMPTS:
            await self._rows.fail(row, "gave_up", f"Fetching it was cut off {ATTEMPTS} times.")
            return
        try:
            facts = await (self._sent(row) if row["source"] == "upload" else self._fetched(row))
        except InvalidLora as refused:
            await self._rows.fail(row, refused.reason, str(refused))
        except ApiError as refused:
            await self._rows.fail(row, refused.code, refused.detail)
        else:
            await self._finish(row, facts)

    async def _finish(self, row: DictRow, facts: dict[str, Any]) -> None:
        try:
            kept = await self._rows.ready(row, facts)
        except psycopg.errors.UniqueViolation:
            await self._rows.fail(row, "upload_used", "this file is registered already, under another name")
            return
        if not kept and row["source"] != "upload":  # what was sent, the next attempt needs as well
            await self.remove([facts["key"]])

    async def _fetched(self, row: DictRow) -> dict[str, Any]:
        """What stands at the row's address, in the bucket."""
        place = self._places.find(row["source_ref"])
        key = f"{row['user_id']}/{row['id']}/{row['attempt']}.safetensors"
        with self._scratch() as path:
            found = await self._outside.download(
                place.url, path, self._limit, FETCH_SECONDS, self._places.gate
            )
            file = await asyncio.to_thread(inspect, path)
            await self._bucket.put_file(key, path, CONTENT_TYPE)
        told = await self._told(place.facts_url)
        return _facts(file, told) | {"sha256": found.sha256, "bytes": found.bytes, **_at(key)}

    async def _sent(self, row: DictRow) -> dict[str, Any]:
        """The file that the user has sent, where it is."""
        key = sent_key(row["user_id"], UUID(row["source_ref"]))
        try:
            size = (await self._bucket.stat(key)).bytes
            if size > self._limit:
                raise InvalidLora("too_large", f"the file has {size} bytes; {self._limit} are allowed")
            with self._scratch() as path:
                sha256 = await self._copy_header(key, size, path)
                file = await asyncio.to_thread(inspect, path)
        except ObjectMissing:
            raise InvalidLora("upload_missing", "no file has been sent to the upload's address yet") from None
        except InvalidLora:
            await self.remove([key])
            raise
        return _facts(file, {}) | {"sha256": sha256, "bytes": size, **_at(key)}

    async def _copy_header(self, key: str, size: int, path: Path) -> str:
        """The object's sha256; ``path`` gets its first bytes and, as a hole, the rest of its length."""
        digest, left = hashlib.sha256(), MAX_HEADER_BYTES + 8
        with path.open("xb") as file:
            async for piece in self._bucket.stream(key):
                await asyncio.to_thread(digest.update, piece)
                left -= file.write(piece[:left])
            file.truncate(size)
        return digest.hexdigest()

    async def _told(self, url: str | None) -> dict[str, Any]:
        """What Civitai tells of a version, if it does: its facts are welcome, not needed."""
        if url is None:
            return {}
        try:
            answer = await self._outside.fetch(url, FACTS_BYTES, gate=self._places.gate)
            told = json.loads(answer.content)
        except (OutsideError, ValueError, RecursionError):
            return {}
        return told if isinstance(told, dict) else {}

    def _scratch(self) -> "_Scratch":
        return _Scratch(self._folder)


class _Scratch:
    """``with _Scratch(folder) as path``: a place for one file, which is gone afterwards."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = Path(tempfile.mkdtemp(dir=folder))

    def __enter__(self) -> Path:
        return self._folder / "lora.safetensors"

    def __exit__(self, *exc: object) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


def sent_key(user_id: UUID, upload_id: UUID) -> str:
    """Where a file that was sent stands: nobody else's upload has the user's own id in front."""
    return f"{user_id}/sent/{upload_id}.safetensors"


def _at(key: str) -> dict[str, str]:
    return {"bucket": LORAS, "key": key}


def _facts(file: LoraFile, told: dict[str, Any]) -> dict[str, Any]:
    """Columns of what a file is.  What its author says of it counts as far as the layers agree."""
    base_model = _base_model(file, told.get("baseModel"))
    return {
        "family": file.group,
        "base_model": base_model,
        "base_model_group": catalog.base_model_group(base_model),
        "rank": max(file.ranks),
        "has_alpha": file.has_alpha,
        "modules": file.modules,
        "key_format": file.key_format,
        "trigger_words": _trained_words(told.get("trainedWords")),
    }


def _base_model(file: LoraFile, told: Any) -> str:
    found = file.variant or file.group
    group = catalog.base_model_group(told) if isinstance(told, str) else None
    if group is None or file.variant:
        return found
    with suppress(InvalidLora):
        check_family(file, group)
        return str(told)
    return found


def _trained_words(told: Any) -> list[str]:
    words = told if isinstance(told, list) else []
    plain = [" ".join(word.split())[:100] for word in words if isinstance(word, str) and word.isprintable()]
    return [word.encode("utf-8", "ignore").decode() for word in plain if word][:20]


def _remove_left(folder: Path) -> None:
    for path in folder.glob("*"):
        newest = max((each.stat().st_mtime for each in (path, *path.glob("*"))), default=0.0)
        if newest < time.time() - LEFT_SECONDS:
            shutil.rmtree(path, ignore_errors=True)
