"""A bucket of Supabase Storage, through its own client.

What the service does, learned from running it (supabase/storage, 1.11 line):

- Almost every error is HTTP 400; the real status is a *string* in the body.
- "Bucket not found" is also what a credential that is not valid gets: it never means that an object is gone.
- ``remove`` of an object that may not be removed answers ``[]``, without an error.
- The client does not retry.  A put whose answer got lost meets its own object at the second try: 409, and
  success if the bytes agree.
- The ETag is no hash of the content where the service's own store was written in parts.
"""

import asyncio
import datetime
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx
import jwt
from storage3 import AsyncStorageClient
from storage3.exceptions import StorageApiError
from storage3.utils import StorageException

from gateway.storage import (
    InvalidKey,
    ObjectExists,
    ObjectInfo,
    ObjectMissing,
    ObjectTooLarge,
    SignedUpload,
    StorageError,
    require_key,
    require_type,
)

BACKOFF_SECONDS = (0.3, 1.0, 3.0)
"""Pauses between tries, each a half shorter or longer by chance."""
BATCH = 1000
"""Keys that the service takes in one request to sign, remove or list."""
QUICK_SECONDS = 10.0
"""How long an answer to a user waits for signatures, and `/readyz` for the bucket."""
SIGNED_UPLOAD_SECONDS = 7200
"""Lifetime of a signed upload, where its token does not say: the service's default."""
CACHE_CONTROL = "31536000, immutable"
"""The service puts ``max-age=`` in front.  Keys are never written twice, so a year is true."""

TIMEOUT = httpx.Timeout(60.0, connect=5.0)
"""Between two pieces of a body, not for the whole."""

_TRY_AGAIN = frozenset({408, 423, 425, 429})

T = TypeVar("T")


class StorageUnavailable(StorageError):
    """The service could not, now: the same request may succeed later."""


class SupabaseBucket:
    """One private bucket of the project at ``supabase_url``; the key may do everything in it."""

    def __init__(
        self,
        http: httpx.AsyncClient,
        supabase_url: str,
        secret_key: str,
        *,
        name: str,
        backoff: tuple[float, ...] = BACKOFF_SECONDS,
    ) -> None:
        self.name = name
        self._http = http
        self._url = f"{supabase_url.rstrip('/')}/storage/v1/"
        self._headers = {"apikey": secret_key, "Authorization": f"Bearer {secret_key}"}
        self._client = AsyncStorageClient(self._url, self._headers, http_client=http)
        self._objects = self._client.from_(name)
        self._backoff = backoff

    async def put(self, key: str, content: bytes, content_type: str) -> None:
        require_type(key, content_type)
        options = {"content-type": content_type, "cache-control": CACHE_CONTROL, "upsert": "false"}
        try:
            await self._tried(self._objects.upload, key, content, options)
        except ObjectExists:
            if await self.get(key) != content:
                raise

    async def put_file(self, key: str, path: Path, content_type: str) -> None:
        require_type(key, content_type)
        options = {"content-type": content_type, "cache-control": CACHE_CONTROL, "upsert": "false"}
        try:
            await self._tried(self._objects.upload, key, path, options)
        except ObjectExists:
            if not await self._is(key, path):
                raise

    async def get(self, key: str) -> bytes:
        return await self._tried(self._objects.download, require_key(key))

    async def stream(self, key: str, first: int = 0, last: int | None = None) -> AsyncIterator[bytes]:
        """A transfer that breaks off is taken up again where it broke."""
        require_key(key)
        position = first
        for pause in (*self._backoff, None):
            try:
                async for piece in self._pieces(key, position, last):
                    position += len(piece)
                    yield piece
                return
            except StorageUnavailable:
                if pause is None:
                    raise
                await _rest(pause)

    async def stat(self, key: str) -> ObjectInfo:
        facts = await self._tried(self._objects.info, require_key(key))
        return _info(key, facts["size"], facts["content_type"], facts["created_at"])

    async def sign_get(self, keys: Iterable[str], expires_in: int) -> dict[str, str]:
        signed: dict[str, str] = {}
        for batch in _batches(keys):
            async with _soon():
                found = await self._tried(self._objects.create_signed_urls, batch, expires_in)
            signed |= {item["path"]: item["signedURL"] for item in found if item["signedURL"]}
        return signed

    async def sign_put(self, key: str, content_type: str, max_bytes: int, expires_in: int) -> SignedUpload:
        """The service alone says for how long, and knows the bucket's limit of size only."""
        require_type(key, content_type)
        async with _soon():
            signed = await self._tried(self._objects.create_signed_upload_url, key)
        headers = {"content-type": content_type, "cache-control": f"max-age={CACHE_CONTROL}"}
        return SignedUpload(signed["signed_url"], _expiry(signed["token"]), headers)

    async def delete(self, keys: Iterable[str]) -> list[str]:
        """A key of an answer that got lost is not named again: what is not named may be gone all the same."""
        gone: list[str] = []
        for batch in _batches(keys):
            removed = await self._tried(self._objects.remove, batch)
            gone += [item["name"] for item in removed]
        return gone

    async def list(self, prefix: str = "") -> AsyncIterator[ObjectInfo]:
        options: dict[str, Any] = {"prefix": prefix, "limit": BATCH, "with_delimiter": False}
        while True:
            page = await self._tried(self._objects.list_v2, options)
            for found in page.objects:
                facts = found.metadata or {}
                size, kind = facts.get("size", 0), facts.get("mimetype", "")
                yield ObjectInfo(found.name, int(size), kind, found.created_at)
            if not page.hasNext:
                return
            options["cursor"] = page.nextCursor

    async def discard_unfinished(self, before: datetime.datetime) -> int:
        """None: the service keeps its own house."""
        return 0

    async def check(self) -> None:
        async with _soon():
            await self._tried(self._client.get_bucket, self.name)

    async def _is(self, key: str, path: Path) -> bool:
        """Whether the object has the bytes of this file."""
        with path.open("rb") as file:
            async for piece in self.stream(key):
                if await asyncio.to_thread(file.read, len(piece)) != piece:
                    return False
            return not file.read(1)

    async def _pieces(self, key: str, first: int, last: int | None) -> AsyncIterator[bytes]:
        """The client can only download a whole, so this asks for itself."""
        url = f"{self._url}object/authenticated/{self.name}/{key}"
        headers = dict(self._headers)
        if first or last is not None:
            headers["Range"] = f"bytes={first}-{'' if last is None else last}"
        with _errors():
            async with self._http.stream("GET", url, headers=headers) as answer:
                if answer.is_error:
                    await answer.aread()
                    raise _as_api_error(answer)
                if "Range" in headers and answer.status_code != 206:
                    raise StorageError(f"{key}: asked for a range, answered {answer.status_code}")
                async for piece in answer.aiter_bytes():
                    yield piece

    async def _tried(self, request: Callable[..., Awaitable[T]], *arguments: Any) -> T:
        """The answer, asked for again while the service is not available."""
        for pause in self._backoff:
            try:
                with _errors():
                    return await request(*arguments)
            except StorageUnavailable:
                await _rest(pause)
        with _errors():
            return await request(*arguments)


async def _rest(seconds: float) -> None:
    await asyncio.sleep(seconds * random.uniform(0.5, 1.5))


@asynccontextmanager
async def _soon() -> AsyncIterator[None]:
    """StorageUnavailable after ``QUICK_SECONDS``: somebody waits for this answer."""
    try:
        async with asyncio.timeout(QUICK_SECONDS):
            yield
    except TimeoutError:
        raise StorageUnavailable(f"no answer within {QUICK_SECONDS:g} s") from None


@contextmanager
def _errors() -> Iterator[None]:
    """What the client raises, in the words of a bucket."""
    try:
        yield
    except StorageApiError as error:
        raise _translated(error) from error
    except httpx.HTTPError as error:
        raise StorageUnavailable(f"{type(error).__name__}: {error}") from error
    except (StorageException, ValueError, KeyError, TypeError) as error:
        raise StorageUnavailable(f"an answer that is not the service's: {error!r}") from error


def _translated(error: StorageApiError) -> StorageError:
    status = int(error.status) if str(error.status).isdigit() else 500
    code = error.code.lower().replace(" ", "_")
    text = f"{status} {error.code}: {error.message[:200]}"
    if status >= 500 or status in _TRY_AGAIN:
        return StorageUnavailable(text)
    if status == 404 and code == "not_found":
        return ObjectMissing(text)
    if status == 409:
        return ObjectExists(text)
    if status == 413:
        return ObjectTooLarge(text)
    if status == 415 or code == "invalidkey":
        return InvalidKey(text)
    return StorageError(text)


def _as_api_error(answer: httpx.Response) -> StorageApiError:
    """As the client would have raised it."""
    try:
        body = answer.json()
        return StorageApiError(body["message"], body["error"], body["statusCode"])
    except (ValueError, KeyError, TypeError):
        return StorageApiError(answer.text, "InternalError", answer.status_code)


def _batches(keys: Iterable[str]) -> Iterator[list[str]]:
    left = [require_key(key) for key in keys]
    for start in range(0, len(left), BATCH):
        yield left[start : start + BATCH]


def _info(key: str, size: int | str, content_type: str, created_at: str) -> ObjectInfo:
    return ObjectInfo(key, int(size), content_type, datetime.datetime.fromisoformat(created_at))


def _expiry(token: str) -> datetime.datetime:
    """When a signed upload ends; its token says so, and only the service can check the rest of it."""
    try:
        expires = jwt.decode(token, options={"verify_signature": False})["exp"]
    except (jwt.PyJWTError, KeyError):
        expires = time.time() + SIGNED_UPLOAD_SECONDS
    return datetime.datetime.fromtimestamp(expires, datetime.UTC)
