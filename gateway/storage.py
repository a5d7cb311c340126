"""Where pictures live: a bucket that signs its own URLs.

``LocalBucket`` keeps objects in a folder.  Keys are immutable and unique per attempt, so an object is
written once and never replaced; putting the same bytes again is success, other bytes are refused.
"""

import asyncio
import hashlib
import hmac
import os
import re
import tempfile
import time
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import urlencode

_KEY = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*(/[A-Za-z0-9_-][A-Za-z0-9_.-]*)*")
_TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp"}


class StorageError(Exception):
    """The bucket could not do it; trying again may help."""


class InvalidKey(StorageError):
    """Keys are ASCII letters, digits and ``/_.-``, without ``..``; trying again does not help."""


class ObjectMissing(StorageError):
    """No object under this key."""


class ObjectExists(StorageError):
    """Another object stands under this key already."""


@dataclass(frozen=True)
class ObjectInfo:
    key: str
    bytes: int
    content_type: str


class Bucket(Protocol):
    """A private bucket."""

    async def put(self, key: str, content: bytes, content_type: str) -> None: ...
    async def get(self, key: str) -> bytes: ...
    async def stat(self, key: str) -> ObjectInfo: ...
    def sign_get(self, key: str, expires_in: int) -> str: ...
    async def delete(self, keys: Iterable[str]) -> list[str]: ...
    def list(self, prefix: str = "") -> AsyncIterator[ObjectInfo]: ...
    async def check(self) -> None: ...


class LocalBucket:
    """Objects below a folder; URLs signed by HMAC over name, key and expiry."""

    def __init__(self, folder: Path, *, name: str, signing_key: str, base_url: str) -> None:
        self.folder = folder / name
        self.name = name
        self._signing_key = signing_key.encode()
        self._base_url = base_url
        self.folder.mkdir(parents=True, exist_ok=True)

    async def put(self, key: str, content: bytes, content_type: str) -> None:
        """Store ``content``, durable on return."""
        path = self._path(key)
        if _TYPES.get(path.suffix) != content_type:
            raise InvalidKey(f"{key} does not end like {content_type}")
        await asyncio.to_thread(_write_once, path, content)

    async def get(self, key: str) -> bytes:
        try:
            return await asyncio.to_thread(self._path(key).read_bytes)
        except FileNotFoundError:
            raise ObjectMissing(key) from None

    async def stat(self, key: str) -> ObjectInfo:
        path = self._path(key)
        try:
            size = (await asyncio.to_thread(path.stat)).st_size
        except FileNotFoundError:
            raise ObjectMissing(key) from None
        return ObjectInfo(key, size, _TYPES.get(path.suffix, "application/octet-stream"))

    def sign_get(self, key: str, expires_in: int) -> str:
        """A URL that serves ``key`` for ``expires_in`` seconds, without any other credential."""
        self._path(key)
        expires = int(time.time()) + expires_in
        query = urlencode({"expires": expires, "signature": self._signature(key, expires)})
        return f"{self._base_url}/files/{self.name}/{key}?{query}"

    def accepts(self, key: str, expires: int, signature: str) -> bool:
        """Whether ``sign_get`` made this signature and it has not expired."""
        expected = self._signature(key, expires)
        return hmac.compare_digest(expected, signature) and expires >= time.time()

    async def delete(self, keys: Iterable[str]) -> list[str]:
        """Remove objects; returns the keys that were there."""
        return [key for key in keys if await asyncio.to_thread(_unlink, self._path(key))]

    async def check(self) -> None:
        """StorageError when the bucket cannot be written to."""
        if not await asyncio.to_thread(os.access, self.folder, os.W_OK | os.X_OK):
            raise StorageError(f"{self.folder} cannot be written to")

    async def list(self, prefix: str = "") -> AsyncIterator[ObjectInfo]:
        """Every object whose key starts with ``prefix``, in no particular order."""
        for path in await asyncio.to_thread(lambda: [p for p in self.folder.rglob("*") if p.is_file()]):
            key = path.relative_to(self.folder).as_posix()
            if key.startswith(prefix) and not path.name.startswith(".part-"):
                yield ObjectInfo(
                    key, path.stat().st_size, _TYPES.get(path.suffix, "application/octet-stream")
                )

    def _path(self, key: str) -> Path:
        if not _KEY.fullmatch(key):
            raise InvalidKey(key)
        return self.folder / key

    def _signature(self, key: str, expires: int) -> str:
        message = f"{self.name}\n{key}\n{expires}".encode()
        return hmac.new(self._signing_key, message, hashlib.sha256).hexdigest()


def _write_once(path: Path, content: bytes) -> None:
    """Write beside, sync, then link: a crash leaves either the whole object or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, part = tempfile.mkstemp(prefix=".part-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(part, path)
        except FileExistsError:
            if path.read_bytes() != content:
                raise ObjectExists(str(path)) from None
        _sync_folder(path.parent)
    finally:
        Path(part).unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unlink(path: Path) -> bool:
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    return True
