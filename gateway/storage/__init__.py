"""Where objects live: private buckets that sign their own addresses.

Three buckets, ``generated-designs``, ``uploads`` and ``loras``; two implementations of each, a local folder
and Supabase Storage (``buckets.open_buckets`` chooses).  Keys are immutable and unique per attempt: an object
is written once and never replaced; putting the same bytes again is success, other bytes are refused.  Keys
are stored, addresses never: they are signed anew for every answer.
"""

import datetime
import re
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

DESIGNS = "generated-designs"
UPLOADS = "uploads"
LORAS = "loras"

LIMIT_BYTES = {DESIGNS: 67_108_864, UPLOADS: 52_428_800, LORAS: 2_147_483_648}
"""Every bucket, and its largest object as the migration that creates it says."""

_KEY = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*(/[A-Za-z0-9_-][A-Za-z0-9_.-]*)*")
_TYPES = {"png": "image/png", "jpg": "image/jpeg", "jpeg": "image/jpeg", "webp": "image/webp"}


class StorageError(Exception):
    """The bucket could not do it; trying again may help."""


class InvalidKey(StorageError):
    """Keys are ASCII letters, digits and ``/_.-``, without ``..``; trying again does not help."""


class ObjectMissing(StorageError):
    """No object under this key."""


class ObjectExists(StorageError):
    """Another object stands under this key already."""


class ObjectTooLarge(StorageError):
    """More bytes than were allowed."""


@dataclass(frozen=True)
class ObjectInfo:
    key: str
    bytes: int
    content_type: str
    created_at: datetime.datetime


@dataclass(frozen=True)
class SignedUpload:
    """An address that takes one object, once: ``PUT`` the bytes with these headers."""

    url: str
    expires_at: datetime.datetime
    headers: Mapping[str, str]
    method: str = field(default="PUT", init=False)


class Bucket(Protocol):
    """A private bucket.  Whatever cannot be done raises a StorageError."""

    name: str

    async def put(self, key: str, content: bytes, content_type: str) -> None:
        """Store ``content``, durable on return.  Other bytes under the same key raise ObjectExists."""

    async def put_file(self, key: str, path: Path, content_type: str) -> None:
        """The same for a file that may be too large for memory."""

    async def get(self, key: str) -> bytes: ...

    def stream(self, key: str, first: int = 0, last: int | None = None) -> AsyncIterator[bytes]:
        """The bytes from ``first`` up to and including ``last``, in pieces.  ObjectMissing at the first."""

    async def stat(self, key: str) -> ObjectInfo: ...

    async def sign_get(self, keys: Iterable[str], expires_in: int) -> dict[str, str]:
        """Addresses by key, each good for ``expires_in`` seconds; a key without an object is left out."""

    async def sign_put(self, key: str, content_type: str, max_bytes: int, expires_in: int) -> SignedUpload:
        """An address that takes one upload.  Check the object's ``stat`` afterwards: an implementation may
        know no other limit than the bucket's, and another lifetime than ``expires_in``."""

    async def delete(self, keys: Iterable[str]) -> list[str]:
        """Remove objects; the keys that were there.  A key without an object is no error."""

    def list(self, prefix: str = "") -> AsyncIterator[ObjectInfo]:
        """Every object whose key starts with ``prefix``, in no particular order."""

    async def discard_unfinished(self, before: datetime.datetime) -> int:
        """Remove what writes that began ``before`` and never ended have left; how many."""

    async def check(self) -> None:
        """StorageError when the bucket cannot be used."""


Buckets = Mapping[str, Bucket]
"""The buckets by name."""


def require_key(key: str) -> str:
    """``key``, or InvalidKey when a bucket would not take it."""
    if not _KEY.fullmatch(key):
        raise InvalidKey(key)
    return key


def content_type_of(key: str) -> str:
    """A key ends like its type."""
    return _TYPES.get(key.rpartition(".")[2], "application/octet-stream")


def require_type(key: str, content_type: str) -> None:
    """InvalidKey when ``key`` does not end like ``content_type``."""
    if content_type_of(require_key(key)) != content_type:
        raise InvalidKey(f"{key} does not end like {content_type}")
