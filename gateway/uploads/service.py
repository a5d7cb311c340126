"""What is done with pictures that users bring. Other slices call this, not the rows."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import structlog
from psycopg.rows import DictRow

from gateway.auth import Principal
from gateway.errors import Conflict, Malformed, NotFound, UnsupportedMedia
from gateway.outside import Outside
from gateway.pictures import (
    MAX_BYTES,
    TYPES,
    Cleaned,
    PictureRefused,
    Pictures,
    refuse_by_size,
    refuse_by_type,
)
from gateway.storage import UPLOADS, Buckets, ObjectMissing, SignedUpload, StorageError
from gateway.uploads.repository import UploadRows
from gateway.uploads.schemas import UploadCreate

log = structlog.get_logger()

SEND_SECONDS = 3600
"""How long an address takes the file."""
GRACE_SECONDS = 600.0
"""From there until what was sent is swept: a slow file may still be arriving."""
UNUSED_SECONDS = 86_400.0
"""A fetched picture that no job has kept by then is deleted."""
AT_ONCE = 8
"""Files that were sent and files that are fetched, in memory at a time, of ``MAX_BYTES`` at most each."""


@dataclass(frozen=True)
class Picture:
    """Where a picture that is ready stands, and what it is."""

    bucket: str
    key: str
    sha256: str
    width: int
    height: int


class Uploads:
    """Rows first, objects second: whatever is cut off is found again by ``sweep``."""

    def __init__(
        self,
        rows: UploadRows,
        buckets: Buckets,
        pictures: Pictures,
        outside: Outside,
        drop_copies: Callable[[Sequence[str]], Awaitable[None]] | None = None,
    ) -> None:
        """``drop_copies`` is given the hashes of what was deleted: others may have copies of it."""
        self._rows = rows
        self._drop_copies = drop_copies
        self._bucket = buckets[UPLOADS]
        self._pictures = pictures
        self._outside = outside
        self._completing = asyncio.Semaphore(AT_ONCE)
        self._fetching = asyncio.Semaphore(AT_ONCE)

    # What users ask for

    async def create(
        self, caller: Principal, body: UploadCreate, key: str | None, sha256: str
    ) -> tuple[UUID, SignedUpload, bool]:
        """(id, address, replayed): a place for one file, the same for the same idempotency key."""
        if body.filename.lower().endswith(".safetensors"):
            raise UnsupportedMedia("LoRAs are sent by `POST /v1/loras/uploads`.", param="filename")
        refuse_by_type(body.content_type)
        refuse_by_size(body.bytes)
        upload_id = uuid4()
        raw_key = f"{caller.user_id}/{upload_id}/sent.{TYPES[body.content_type]}"
        signed = await self._sign(raw_key, body.content_type, body.bytes)
        values = {
            **{"id": upload_id, "user_id": caller.user_id, "raw_key": raw_key, **body.model_dump()},
            **{"idempotency_key": key, "request_sha256": sha256, **_lifetime(signed)},
        }
        if await self._rows.create(values) is not None:
            return upload_id, signed, False
        return *await self._again(caller, key or "", sha256), True

    async def get(self, caller: Principal, upload_id: UUID) -> DictRow:
        row = (await self._rows.get(caller, [upload_id])).get(upload_id)
        if row is None:
            raise NotFound(f"There is no upload {upload_id}.")
        return row

    async def complete(self, caller: Principal, upload_id: UUID) -> DictRow:
        """The upload with its picture; PictureRefused, now and ever after, when the file is none."""
        row = await self.get(caller, upload_id)
        if row["status"] == "pending":
            try:
                row = await self._completed(caller, row)
            except PictureRefused as refused:
                await self._rows.fail(upload_id, refused.code, refused.detail)
                row = await self.get(caller, upload_id)
                await self._discard(row)
        if row["status"] == "failed":
            raise PictureRefused(row["error_code"], row["error_message"])
        return row

    async def content(self, row: DictRow) -> bytes:
        return await self._bucket.get(require_ready(row)["key"])

    async def delete(self, caller: Principal, upload_id: UUID) -> None:
        """Gone at once, for jobs that have not begun too."""
        row = await self._rows.delete(caller, upload_id)
        if row is None:
            raise NotFound(f"There is no upload {upload_id}.")
        await self._discard(row)

    async def address(self, row: DictRow, seconds: int) -> str | None:
        """Where the picture can be seen for a while; None before it is ready."""
        if row["status"] != "ready":
            return None
        return (await self._bucket.sign_get([row["key"]], seconds)).get(row["key"])

    # What other slices ask for

    async def picture(self, caller: Principal, upload_id: UUID) -> Picture:
        """NotFound when it is not the caller's, Conflict ``upload_not_ready`` before it is complete."""
        return (await self.pictures(caller, [upload_id]))[upload_id]

    async def pictures(self, caller: Principal, ids: list[UUID]) -> dict[UUID, Picture]:
        """The same of several, in one look."""
        rows = await self._rows.get(caller, ids) if ids else {}
        for upload_id in ids:
            if upload_id not in rows:
                raise NotFound(f"There is no upload {upload_id}.", param="upload_id")
            require_ready(rows[upload_id])
        return {upload_id: picture_of(row) for upload_id, row in rows.items()}

    async def take(
        self, caller: Principal, content: bytes, filename: str, source: Literal["upload", "url"] = "upload"
    ) -> DictRow:
        """The row of a new upload that is ready; PictureRefused leaves nothing behind."""
        cleaned = await self._pictures.clean(content)
        row = await self._rows.take(
            {
                **{"id": uuid4(), "user_id": caller.user_id, "source": source, "grace": GRACE_SECONDS},
                **{"filename": _storable_name(filename), "content_type": cleaned.content_type},
                "bytes": len(cleaned.content),
            }
        )
        return await self._stored(caller, row, cleaned)

    async def fetch(self, caller: Principal, url: str) -> DictRow:
        """The row of what stands at ``url``; OutsideError or PictureRefused when that is no picture.

        Deleted after a day unless ``keep`` is told of it.
        """
        async with self._fetching:
            fetched = await self._outside.fetch(url, MAX_BYTES)
            return await self.take(caller, fetched.content, PurePosixPath(urlsplit(url).path).name, "url")

    async def keep(self, ids: list[UUID]) -> None:
        """A job draws from these pictures: they stay until their owner deletes them."""
        if ids:
            await self._rows.keep(ids)

    async def sweep(self) -> None:
        """Remove what was sent and drawn anew, refused, deleted, never completed or never used."""
        rows = await self._rows.claim_due()
        swept = [row for row in rows if await self._discard(row)]
        if swept:
            await self._rows.record_swept([row["id"] for row in swept], GRACE_SECONDS)
        hashes = [row["sha256"] for row in swept if row["deleted_at"] is not None and row["sha256"]]
        if self._drop_copies and hashes:
            await self._drop_copies(hashes)

    async def _sign(self, raw_key: str, content_type: str, size: int) -> SignedUpload:
        return await self._bucket.sign_put(raw_key, content_type, size, SEND_SECONDS)

    async def _again(self, caller: Principal, key: str, sha256: str) -> tuple[UUID, SignedUpload]:
        """The upload that the first request with this key has made, at a fresh address."""
        first = await self._rows.first_request(caller.user_id, key)
        if first is None:
            raise Conflict("This Idempotency-Key has just expired.", code="idempotency_key_expired")
        if first["request_sha256"] != sha256:
            raise Malformed(
                "This Idempotency-Key was used with another body.",
                code="idempotency_key_reused",
                param="Idempotency-Key",
            )
        row = await self.get(caller, first["upload_id"])
        signed = await self._sign(row["raw_key"], _declared_type(row), row["bytes"])
        await self._rows.extend(row["id"], _lifetime(signed))
        return row["id"], signed

    async def _completed(self, caller: Principal, row: DictRow) -> DictRow:
        """The row after its file was drawn anew, by this request or by another at the same time."""
        try:
            async with self._completing:
                cleaned = await self._pictures.clean(await self._sent(row))
        except ObjectMissing:
            now = await self.get(caller, row["id"])
            if now["status"] != "pending":
                return now
            raise Conflict(
                "No file has been sent to the upload's address yet.", code="upload_missing"
            ) from None
        ready = await self._stored(caller, row, cleaned)
        await self._removed([row["raw_key"]])
        return ready

    async def _sent(self, row: DictRow) -> bytes:
        if row["raw_key"] is None:  # another slice is just handing it over
            raise ObjectMissing(str(row["id"]))
        size = (await self._bucket.stat(row["raw_key"])).bytes
        refuse_by_size(size)
        if size > row["bytes"]:
            raise PictureRefused("picture_too_large", f"{row['bytes']} bytes were announced, {size} came.")
        return await self._bucket.get(row["raw_key"])

    async def _stored(self, caller: Principal, row: DictRow, cleaned: Cleaned) -> DictRow:
        """The row with its picture; the same picture may be stored twice, a deleted one is not."""
        key = f"{row['user_id']}/{row['id']}/picture.{cleaned.extension}"
        if not await self._rows.prepare(row["id"], key):
            return await self.get(caller, row["id"])
        await self._bucket.put(key, cleaned.content, cleaned.content_type)
        ready = await self._rows.ready(row["id"], _facts(cleaned) | {"unused": UNUSED_SECONDS})
        if ready is not None:
            return ready
        try:
            now = await self.get(caller, row["id"])
        except NotFound:
            await self._removed([key])
            raise
        if now["status"] == "failed":
            await self._removed([key])
        return now

    async def _discard(self, row: DictRow) -> bool:
        """Remove what an upload should not have; whether that worked."""
        keys = [row["raw_key"]]
        if row["status"] != "ready" or row["deleted_at"] is not None:
            keys.append(row["key"])
        return await self._removed([key for key in keys if key])

    async def _removed(self, keys: list[str]) -> bool:
        """The sweep comes back for what could not be removed now."""
        try:
            await self._bucket.delete(keys)
        except StorageError as error:
            log.warning("upload_not_removed", keys=keys, error=str(error))
            return False
        return True


def require_ready(row: DictRow) -> DictRow:
    if row["status"] == "ready":
        return row
    why = "was refused" if row["status"] == "failed" else "is not complete"
    raise Conflict(f"The upload {row['id']} {why}.", code="upload_not_ready", param="upload_id")


def picture_of(row: DictRow) -> Picture:
    return Picture(*(row[name] for name in ("bucket", "key", "sha256", "width", "height")))


def _lifetime(signed: SignedUpload) -> dict[str, Any]:
    return {"expires_at": signed.expires_at, "grace": GRACE_SECONDS}


def _facts(cleaned: Cleaned) -> dict[str, Any]:
    named = ("content_type", "sha256", "width", "height")
    return {"bytes": len(cleaned.content), **{name: getattr(cleaned, name) for name in named}}


def _declared_type(row: DictRow) -> str:
    ending = str(row["raw_key"]).rpartition(".")[2]
    return next(content_type for content_type, extension in TYPES.items() if extension == ending)


def _storable_name(filename: str) -> str:
    """Whatever a file was called, as text that can be kept."""
    printable = "".join(character for character in filename if character.isprintable())
    return printable.encode("utf-8", "ignore").decode()[:255] or "picture"
