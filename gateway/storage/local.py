"""A bucket in a folder, whose signed addresses the gateway serves (``storage.routes``)."""

import asyncio
import datetime
import filecmp
import hashlib
import hmac
import math
import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlencode

from gateway.storage import (
    ObjectExists,
    ObjectInfo,
    ObjectMissing,
    ObjectTooLarge,
    SignedUpload,
    StorageError,
    content_type_of,
    require_key,
    require_type,
)

PIECE_BYTES = 262_144
PART_PREFIX = ".part-"


class LocalBucket:
    """Objects below a folder; addresses signed by HMAC over method, name, key and every condition."""

    def __init__(self, folder: Path, *, name: str, signing_key: str, base_url: str) -> None:
        self.folder = folder / name
        self.name = name
        self._signing_key = signing_key.encode()
        self._base_url = base_url
        self.folder.mkdir(parents=True, exist_ok=True)

    async def put(self, key: str, content: bytes, content_type: str) -> None:
        require_type(key, content_type)
        with _errors_of(key):
            await asyncio.to_thread(_write_once, self._path(key), content)

    async def put_file(self, key: str, path: Path, content_type: str) -> None:
        require_type(key, content_type)
        with _errors_of(key):
            await asyncio.to_thread(_copy_once, self._path(key), path)

    async def put_stream(self, key: str, pieces: AsyncIterator[bytes], max_bytes: int) -> None:
        """Store what arrives, at most ``max_bytes``, under a key that is still free.

        ObjectTooLarge as soon as it is more, ObjectExists when the key is taken; nothing is left then.
        """
        path = self._path(key)
        with _errors_of(key):
            if await asyncio.to_thread(path.exists):
                raise ObjectExists(key)
            part = await asyncio.to_thread(_Part, path)
            try:
                await part.write(pieces, max_bytes)
                await asyncio.to_thread(part.publish)
            finally:
                part.discard()

    async def get(self, key: str) -> bytes:
        with _errors_of(key):
            return await asyncio.to_thread(self._path(key).read_bytes)

    async def stream(self, key: str, first: int = 0, last: int | None = None) -> AsyncIterator[bytes]:
        with _errors_of(key):
            file = await asyncio.to_thread(self._path(key).open, "rb")
        with file:
            file.seek(first)
            end = math.inf if last is None else last + 1
            while first < end and (piece := await _read(file, int(min(end - first, PIECE_BYTES)))):
                first += len(piece)
                yield piece

    async def stat(self, key: str) -> ObjectInfo:
        with _errors_of(key):
            return await asyncio.to_thread(_info, key, self._path(key))

    async def sign_get(self, keys: Iterable[str], expires_in: int) -> dict[str, str]:
        there = await asyncio.to_thread(lambda: [key for key in keys if self._path(key).is_file()])
        return {key: self._address("GET", key, expires_in) for key in there}

    async def sign_put(self, key: str, content_type: str, max_bytes: int, expires_in: int) -> SignedUpload:
        require_type(key, content_type)
        url = self._address("PUT", key, expires_in, content_type=content_type, max_bytes=str(max_bytes))
        expires_at = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=expires_in)
        return SignedUpload(url, expires_at, {"content-type": content_type})

    def accepts(self, method: str, key: str, expires: int, signature: str, **conditions: str) -> bool:
        """Whether this bucket made the signature, for just this, and it has not expired."""
        expected = self._signature(method, key, expires, conditions)
        return hmac.compare_digest(expected.encode(), signature.encode()) and expires >= time.time()

    async def delete(self, keys: Iterable[str]) -> list[str]:
        with _errors_of(self.name):
            return await asyncio.to_thread(lambda: [key for key in keys if _unlink(self._path(key))])

    async def list(self, prefix: str = "") -> AsyncIterator[ObjectInfo]:
        for path in await asyncio.to_thread(lambda: sorted(self.folder.rglob("*"))):
            key = path.relative_to(self.folder).as_posix()
            if key.startswith(prefix) and not path.name.startswith(PART_PREFIX) and path.is_file():
                yield _info(key, path)

    async def discard_unfinished(self, before: datetime.datetime) -> int:
        def discard() -> int:
            parts = self.folder.rglob(f"{PART_PREFIX}*")
            old = [part for part in parts if part.stat().st_mtime < before.timestamp()]
            return sum(_unlink(part) for part in old)

        with _errors_of(self.name):
            return await asyncio.to_thread(discard)

    async def check(self) -> None:
        if not await asyncio.to_thread(os.access, self.folder, os.W_OK | os.X_OK):
            raise StorageError(f"{self.folder} cannot be written to")

    def _path(self, key: str) -> Path:
        return self.folder / require_key(key)

    def _address(self, method: str, key: str, expires_in: int, **conditions: str) -> str:
        expires = int(time.time()) + expires_in
        signature = self._signature(method, key, expires, conditions)
        query = urlencode({"expires": expires, **conditions, "signature": signature})
        return f"{self._base_url}/files/{self.name}/{key}?{query}"

    def _signature(self, method: str, key: str, expires: int, conditions: dict[str, str]) -> str:
        conditioned = [f"{name}={value}" for name, value in sorted(conditions.items())]
        message = "\n".join([method, self.name, key, str(expires), *conditioned])
        return hmac.new(self._signing_key, message.encode(), hashlib.sha256).hexdigest()


class _Part:
    """An object in the making, beside the place where it will stand: a crash leaves all of it or nothing."""

    def __init__(self, path: Path) -> None:
        self._target = path
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=PART_PREFIX, dir=path.parent)
        self.file = os.fdopen(descriptor, "wb")
        self._path = Path(name)

    async def write(self, pieces: AsyncIterator[bytes], max_bytes: int) -> None:
        left = max_bytes
        async for piece in pieces:
            left -= len(piece)
            if left < 0:
                raise ObjectTooLarge(f"more than {max_bytes} bytes")
            await asyncio.to_thread(self.file.write, piece)

    def publish(self) -> None:
        """Sync, then link; ObjectExists when the place is taken."""
        self.file.flush()
        os.fsync(self.file.fileno())
        try:
            os.link(self._path, self._target)
        except FileExistsError:
            raise ObjectExists(self._target.name) from None
        _sync_folder(self._target.parent)

    def discard(self) -> None:
        self.file.close()
        self._path.unlink(missing_ok=True)


def _write_once(path: Path, content: bytes) -> None:
    part = _Part(path)
    try:
        part.file.write(content)
        part.publish()
    except ObjectExists:
        if path.read_bytes() != content:
            raise
    finally:
        part.discard()


def _copy_once(path: Path, source: Path) -> None:
    part = _Part(path)
    try:
        with source.open("rb") as file:
            shutil.copyfileobj(file, part.file, PIECE_BYTES)
        part.publish()
    except ObjectExists:
        if not filecmp.cmp(path, source, shallow=False):
            raise
    finally:
        part.discard()


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


async def _read(file: BinaryIO, size: int) -> bytes:
    return await asyncio.to_thread(file.read, size)


def _info(key: str, path: Path) -> ObjectInfo:
    facts = path.stat()
    written = datetime.datetime.fromtimestamp(facts.st_mtime, datetime.UTC)
    return ObjectInfo(key, facts.st_size, content_type_of(key), written)


def _unlink(path: Path) -> bool:
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    return True


@contextmanager
def _errors_of(key: str) -> Iterator[None]:
    """What the file system says, in the words of a bucket."""
    try:
        yield
    except FileNotFoundError:
        raise ObjectMissing(key) from None
    except OSError as error:
        raise StorageError(f"{key}: {error}") from error
