"""What users do with pictures.  Other slices call this, not the rows."""

import asyncio
import io
from typing import Any
from uuid import UUID

from PIL import Image
from psycopg.rows import DictRow

from gateway.auth import Principal
from gateway.errors import Conflict, NotFound
from gateway.images.repository import RESTORE_DAYS, ImageRows
from gateway.storage import Bucket, Buckets, ObjectExists, ObjectMissing
from gateway.storage.keys import THUMBNAIL

THUMBNAIL_PIXELS = 384
"""Longest side of a thumbnail."""


class Images:
    """Pictures of their owner, or of anybody where they are public."""

    def __init__(self, rows: ImageRows, buckets: Buckets) -> None:
        self._rows = rows
        self._buckets = buckets

    async def get(self, caller: Principal, image_id: UUID) -> DictRow:
        return _found(await self._rows.get(caller, image_id), image_id)

    async def get_public(self, image_id: UUID) -> DictRow:
        return _found(await self._rows.get_public(image_id), image_id)

    async def page(self, caller: Principal, filters: dict[str, Any]) -> list[DictRow]:
        return await self._rows.page(caller, filters)

    async def delete(self, caller: Principal, image_id: UUID) -> None:
        """Nobody sees it from now on; deleting again changes nothing.  Its bytes go after the grace.

        NotFound when the caller has no such picture.
        """
        _found(await self._rows.own(caller, image_id), image_id)
        await self._rows.delete(caller, image_id)

    async def restore(self, caller: Principal, image_id: UUID) -> DictRow:
        """The picture as it was; Conflict when its time is over."""
        await self._rows.restore(caller, image_id)
        row = _found(await self._rows.own(caller, image_id), image_id)
        if row["deleted_at"] is not None:
            raise Conflict(
                f"A picture can be restored for {RESTORE_DAYS} days after it was deleted.",
                code="restore_window_over",
            )
        return await self.get(caller, image_id)

    def bucket(self, row: DictRow) -> Bucket:
        return self._buckets[row["bucket"]]

    async def content(self, row: DictRow) -> bytes:
        return await self.bucket(row).get(row["key"])

    async def thumbnail(self, row: DictRow, pixels: int = THUMBNAIL_PIXELS) -> bytes:
        """WebP, made when it is first asked for and kept beside the picture; smaller ones come from that."""
        kept = await self._thumbnail(row)
        return kept if pixels >= THUMBNAIL_PIXELS else await asyncio.to_thread(shrink, kept, pixels)

    async def _thumbnail(self, row: DictRow) -> bytes:
        bucket, key = self.bucket(row), f"{row['key']}{THUMBNAIL}"
        try:
            return await bucket.get(key)
        except ObjectMissing:
            return await self._make_thumbnail(bucket, row["key"], key)

    async def _make_thumbnail(self, bucket: Bucket, source: str, key: str) -> bytes:
        try:
            small = await asyncio.to_thread(shrink, await bucket.get(source))
        except ObjectMissing:
            raise NotFound("The bytes of this picture are no longer there.", code="content_missing") from None
        try:
            await bucket.put(key, small, "image/webp")
        except ObjectExists:  # somebody was faster, with another version of the encoder
            return await bucket.get(key)
        return small


def shrink(content: bytes, pixels: int = THUMBNAIL_PIXELS) -> bytes:
    """The picture as WebP, ``pixels`` on its longest side at most."""
    with Image.open(io.BytesIO(content), formats=("PNG", "JPEG", "WEBP")) as image:
        image.thumbnail((pixels, pixels))
        kept = io.BytesIO()
        image.convert("RGB").save(kept, "WEBP", quality=80)
    return kept.getvalue()


def _found(row: DictRow | None, image_id: UUID) -> DictRow:
    if row is None:
        raise NotFound(f"There is no picture {image_id}.")
    return row
