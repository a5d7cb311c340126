"""Users' pictures, made harmless: decoded and drawn anew in a process of its own, under limits.

What comes out shares nothing with the file but its pixels: no metadata, no profile, no tail, no second frame.
Decoders meet hostile bytes in ``sanitize.py`` alone, which has no secret, no second file and little time.
"""

import asyncio
import hashlib
import json
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.errors import ApiError

MAX_BYTES = 50 * 2**20
"""Of the file that comes in, and of the one that goes out: what the bucket takes."""
SECONDS = 40.0
ANSWER_LIMIT = MAX_BYTES + 1000
AT_ONCE = 2
"""Processes of one gateway: each may take the memory that ``sanitize.py`` allows itself."""

TYPES = {"image/png": "png", "image/jpeg": "jpg", "image/webp": "webp"}
"""What users may send, and how its files end."""

_PROGRAM = str(Path(__file__).with_name("sanitize.py"))
_WANTED = "A picture must be a PNG, JPEG or WebP file."
_STATUS = {"picture_too_large": 413, "unsupported_media_type": 415}
_OTHER_PICTURES = (b"GIF8", b"BM", b"II*\0", b"MM\0*", b"8BPS", b"\0\0\0\x0cJXL ", b"\xff\x0a", b"\0\0\1\0")


class PictureRefused(ApiError):
    """``not_a_picture``, ``unsupported_media_type``, ``picture_too_large``, ``too_many_pixels`` or
    ``picture_broken``."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail, code=code)
        self.status = _STATUS.get(code, 400)


@dataclass(frozen=True)
class Cleaned:
    content: bytes
    content_type: str
    width: int
    height: int
    sha256: str

    @property
    def extension(self) -> str:
        return TYPES[self.content_type]


@dataclass(frozen=True)
class Noted:
    """What a file says of itself, and what it is."""

    note: str | None
    """Of the field that was asked for."""
    lossless: bool
    pixels_sha256: str
    """Of the RGB bytes, row by row; of RGBA where anything shows through."""
    width: int
    height: int
    format: str
    """PNG, JPEG or WEBP."""


class Pictures:
    """Looks at ``AT_ONCE`` pictures at a time; the others wait."""

    def __init__(self) -> None:
        self._free = asyncio.Semaphore(AT_ONCE)

    async def clean(self, content: bytes) -> Cleaned:
        """The first frame upright in sRGB, as PNG or JPEG; PictureRefused when there is none to be had."""
        facts, drawn = await self._looked_at(content)
        sha256 = await asyncio.to_thread(lambda: hashlib.sha256(drawn).hexdigest())
        return Cleaned(drawn, facts["content_type"], facts["width"], facts["height"], sha256)

    async def read(self, content: bytes, field: str) -> Noted:
        """What a text field of the file holds, and its pixels; PictureRefused as above."""
        facts, _ = await self._looked_at(content, field)
        return Noted(**facts)

    async def _looked_at(self, content: bytes, *arguments: str) -> tuple[dict[str, Any], bytes]:
        refuse_by_size(len(content))
        refuse_by_magic(content[:32])
        async with self._free:
            facts, drawn = _split(await _answer_of(content, *arguments))
        if "error" in facts:
            raise PictureRefused(facts["error"], facts["detail"])
        return facts, drawn


def refuse_by_type(content_type: str) -> None:
    if content_type not in TYPES:
        raise PictureRefused("unsupported_media_type", _WANTED)


def refuse_by_size(size: int) -> None:
    if size > MAX_BYTES:
        raise PictureRefused("picture_too_large", f"A picture has at most {MAX_BYTES // 2**20} MiB.")


def refuse_by_magic(head: bytes) -> None:
    """By what the file begins with, whatever its name says."""
    if head.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")) or (head[:4], head[8:12]) == (
        b"RIFF",
        b"WEBP",
    ):
        return
    if head.startswith(_OTHER_PICTURES) or head[4:8] == b"ftyp":
        raise PictureRefused("unsupported_media_type", _WANTED)
    raise PictureRefused("not_a_picture", "The file is not a picture.")


async def _answer_of(content: bytes, *arguments: str) -> bytes:
    """What the program answers; nothing of ours is in its environment."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", _PROGRAM, *arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env={},
    )
    try:
        async with asyncio.timeout(SECONDS):
            answer = await _exchanged(process, content)
            if len(answer) <= ANSWER_LIMIT:
                await process.wait()
            return answer
    except TimeoutError:
        raise _broken() from None
    finally:
        if process.returncode is None:
            process.kill()
            assert process.stdout is not None
            while await process.stdout.read(2**18):
                pass  # asyncio does not notice the end of a process before the end of what it has said
            await process.wait()


async def _exchanged(process: asyncio.subprocess.Process, content: bytes) -> bytes:
    assert process.stdin is not None and process.stdout is not None
    with suppress(BrokenPipeError, ConnectionResetError):  # it may give up before it has read all
        process.stdin.write(content)
        await process.stdin.drain()
        process.stdin.close()
    answer = bytearray()
    while len(answer) <= ANSWER_LIMIT:
        part = await process.stdout.read(2**18)
        if not part:
            break
        answer += part
    return bytes(answer)


def _split(answer: bytes) -> tuple[dict[str, Any], bytes]:
    """A line of facts, then the picture. A program that was killed has said nothing."""
    line, _, drawn = answer.partition(b"\n")
    try:
        facts = json.loads(line)
    except ValueError:
        raise _broken() from None
    if len(drawn) > MAX_BYTES:
        raise PictureRefused("picture_too_large", f"Drawn anew it has more than {MAX_BYTES // 2**20} MiB.")
    return facts, drawn


def _broken() -> PictureRefused:
    return PictureRefused("picture_broken", "The picture cannot be decoded.")
