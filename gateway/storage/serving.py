"""Bytes over HTTP: validators, one range, downloads, and the headers that browsers ask of pictures."""

import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from fastapi import Request, Response
from fastapi.responses import StreamingResponse

from gateway.errors import NotFound, RangeNotSatisfiable
from gateway.storage import Bucket, ObjectMissing

FOREVER = "public, max-age=31536000, immutable"
PRIVATE = "private, max-age=3600"
NEVER = "private, no-store"

ANYWHERE = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Expose-Headers": "Content-Disposition, Content-Length, Content-Range, ETag",
}
"""For addresses that are their own credential: a page elsewhere may read what it may show."""

BYTES: dict[int | str, dict[str, Any]] = {
    200: {"content": {name: {} for name in ("image/png", "image/jpeg", "image/webp")}}
}
"""What the OpenAPI document says of answers that are pictures."""

Read = Callable[[int, int], AsyncIterator[bytes]]
"""The bytes from the first place up to and including the last."""


@dataclass(frozen=True)
class Served:
    """What is served, and how."""

    size: int
    content_type: str
    tag: str
    """Strong ETag, without its quotes."""
    caching: str
    open: bool = False
    """Reached without a credential in a header, from any page."""
    download_name: str | None = None
    """Name of the file, where it is to be saved instead of shown."""

    @property
    def headers(self) -> dict[str, str]:
        headers = {
            "ETag": f'"{self.tag}"',
            "Cache-Control": self.caching,
            "Accept-Ranges": "bytes",
            "X-Content-Type-Options": "nosniff",
            "Cross-Origin-Resource-Policy": "cross-origin",
            **(ANYWHERE if self.open else {}),
        }
        if self.download_name:
            headers["Content-Disposition"] = f'attachment; filename="{self.download_name}"'
        return headers


async def serve(request: Request, served: Served, read: Read) -> Response:
    """200, 206, 304 or 416, as RFC 9110 has it; NotFound when the object is missing."""
    if _is_known(request, served.tag):
        return Response(status_code=304, headers=served.headers)
    first, last, status = 0, served.size - 1, 200
    wanted = _range(request, served)
    headers = served.headers
    if wanted is not None:
        (first, last), status = wanted, 206
        headers["Content-Range"] = f"bytes {first}-{last}/{served.size}"
    headers["Content-Length"] = str(last - first + 1)
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers, media_type=served.content_type)
    body = await _begun(read(first, last))
    return StreamingResponse(body, status, headers, served.content_type)


def from_bucket(bucket: Bucket, key: str) -> Read:
    return lambda first, last: bucket.stream(key, first, last)


def from_memory(content: bytes) -> Read:
    async def read(first: int, last: int) -> AsyncIterator[bytes]:
        yield content[first : last + 1]

    return read


async def _begun(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same pieces, the first one read: an object that is missing must show before the status is sent."""
    try:
        head = await anext(pieces, b"")
    except ObjectMissing:
        raise NotFound("The bytes of this picture are no longer there.", code="content_missing") from None

    async def all_of_it() -> AsyncIterator[bytes]:
        yield head
        async for piece in pieces:
            yield piece

    return all_of_it()


def _is_known(request: Request, tag: str) -> bool:
    known = request.headers.get("if-none-match", "")
    tags = [each.strip().removeprefix("W/") for each in known.split(",")]
    return "*" in tags or f'"{tag}"' in tags


def _range(request: Request, served: Served) -> tuple[int, int] | None:
    """The one range that was asked for; None where the whole is to be sent.

    Several ranges, another unit and a tag of other bytes mean the whole, which the standard allows.
    """
    if request.headers.get("if-range", f'"{served.tag}"') != f'"{served.tag}"':
        return None
    found = re.fullmatch(r"bytes=(\d{0,18})-(\d{0,18})", request.headers.get("range", "").strip())
    if found is None or found.groups() == ("", ""):
        return None
    first, last = found.groups()
    start = int(first) if first else max(0, served.size - int(last))
    end = min(int(last), served.size - 1) if first and last else served.size - 1
    if first and last and int(last) < int(first):
        return None
    if start >= served.size:
        raise RangeNotSatisfiable(
            f"There are {served.size} bytes.", headers={"Content-Range": f"bytes */{served.size}"}
        )
    return start, end
