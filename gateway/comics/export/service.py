"""From a comic to a file: which chapters, in which format, and the bytes as they come."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol
from uuid import UUID

from gateway.auth import Principal
from gateway.comics.export import cbz, pdf
from gateway.comics.export.faces import Faces
from gateway.comics.export.layouts import LAYOUTS, Layout
from gateway.comics.export.pages import Book, Chapter, Direction, Page, Panel, Placed, pages, texts
from gateway.comics.repository import ComicRows
from gateway.errors import BadRequest, Conflict, NotFound
from gateway.storage import Bucket, Buckets

AT_ONCE = 2
"""Pages that one gateway draws at the same time, whoever asked for them."""
VERSION = 1
"""Goes up when the same comic is drawn otherwise."""
CHECK_SECONDS = 60

Format = Literal["cbz", "pdf"]
Pictures = Mapping[str, Mapping[str, Any]]
"""Rows of pictures that are there, by id."""


class Writer(Protocol):
    """A format. Pages come in order, on each its panels in order."""

    def begin(self, page: Page) -> None: ...

    def place(self, placed: Placed, content: bytes) -> None:
        """Draw the panel from the file of its picture."""

    def end(self) -> bytes:
        """What of the file is ready with this page."""

    def finish(self) -> bytes:
        """The rest of it."""


@dataclass(frozen=True)
class Wanted:
    """``chapter_id``: this one alone."""

    format: Format
    layout: str
    direction: Direction
    chapter_id: UUID | None


@dataclass(frozen=True)
class Export:
    """A file that is about to be written; ``tag`` is that of its content."""

    book: Book
    pages: Sequence[Page]
    format: Format
    tag: str

    @property
    def name(self) -> str:
        chapter = self.book.chapters[0].name if len(self.book.chapters) == 1 else ""
        return " - ".join(part for part in (self.book.title, chapter) if part) + f".{self.format}"

    @property
    def media_type(self) -> str:
        return cbz.MEDIA_TYPE if self.format == "cbz" else pdf.MEDIA_TYPE


class Exports:
    """A picture is decoded at a time, and a page written out before the next begins."""

    def __init__(self, rows: ComicRows, buckets: Buckets, faces: Faces) -> None:
        self._rows = rows
        self._buckets = buckets
        self._faces = faces
        self._free = asyncio.Semaphore(AT_ONCE)

    async def prepare(self, caller: Principal, comic_id: UUID, wanted: Wanted) -> Export:
        """The finished chapters; Conflict when there is none, or the one asked for is not finished."""
        layout = _layout(wanted.layout)
        tree = await self._rows.tree(caller, comic_id)
        pictures = await self._pictures(tree)
        book = _book(tree, pictures, wanted)
        self._require_drawable(book)
        tag = _tag(tree, pictures, wanted)
        return Export(book, list(pages(book, layout, self._faces)), wanted.format, tag)

    async def require_pictures(self, export: Export) -> None:
        """Conflict where a bucket has lost one: after the first byte nothing can be refused."""
        by_bucket: dict[str, set[str]] = {}
        for page in export.pages:
            for placed in page.panels:
                by_bucket.setdefault(placed.picture["bucket"], set()).add(placed.picture["key"])
        for name, keys in by_bucket.items():
            if len(await self._buckets[name].sign_get(keys, CHECK_SECONDS)) < len(keys):
                raise Conflict("The bytes of a picture are no longer there.", code="content_missing")

    async def write(self, export: Export) -> AsyncIterator[bytes]:
        kind = cbz.Cbz if export.format == "cbz" else pdf.Pdf
        writer: Writer = kind(export.book, export.pages, self._faces)
        for page in export.pages:
            writer.begin(page)
            for placed in page.panels:
                content = await self._bucket(placed).get(placed.picture["key"])
                async with self._free:
                    await asyncio.to_thread(writer.place, placed, content)
            async with self._free:
                piece = await asyncio.to_thread(writer.end)
            yield piece
        yield await asyncio.to_thread(writer.finish)

    def _bucket(self, placed: Placed) -> Bucket:
        return self._buckets[placed.picture["bucket"]]

    async def _pictures(self, tree: Mapping[str, Any]) -> Pictures:
        """By id; those of panels that are ready and whose picture nobody has deleted."""
        panels = (panel for chapter in tree["chapters"] for panel in chapter["panels"])
        ids = [UUID(each["image_id"]) for each in panels if each["status"] == "ready" and each["image_id"]]
        return {str(key): row for key, row in (await self._rows.assets(ids)).items()}

    def _require_drawable(self, book: Book) -> None:
        for what, text in texts(book):
            if missing := self._faces.missing(text):
                raise Conflict(
                    f"No font here draws {' '.join(missing[:10])} of {what}. The operator adds fonts with "
                    "LETTERING_FONTS; scripts written from the right are not drawn yet.",
                    code="lettering_not_covered",
                )


def _layout(name: str) -> Layout:
    if name not in LAYOUTS:
        raise BadRequest(
            f"There is no layout `{name}`; there are {', '.join(LAYOUTS)}.",
            code="unknown_layout",
            param="layout",
        )
    return LAYOUTS[name]


def _book(tree: Mapping[str, Any], pictures: Pictures, wanted: Wanted) -> Book:
    """A chapter is finished when it has panels and a picture of each."""
    chapters, left_out = [], []
    for row in tree["chapters"]:
        if wanted.chapter_id not in (None, UUID(row["id"])):
            continue
        shown = [(panel["caption"], _picture(panel, pictures)) for panel in row["panels"]]
        panels = [Panel(caption, picture) for caption, picture in shown if picture]
        if panels and len(panels) == len(row["panels"]):
            chapters.append(Chapter(row["name"], panels))
        else:
            left_out.append(row["name"])
    if not chapters:
        raise _nothing(wanted, left_out)
    return Book(tree["name"], chapters, left_out, wanted.direction)


def _picture(panel: Mapping[str, Any], pictures: Pictures) -> Mapping[str, Any] | None:
    return pictures.get(panel["image_id"]) if panel["status"] == "ready" else None


def _nothing(wanted: Wanted, left_out: Sequence[str]) -> NotFound | Conflict:
    if wanted.chapter_id and not left_out:
        return NotFound(f"There is no chapter {wanted.chapter_id}.")
    detail = "A chapter is finished when it has panels and each of them is ready"
    if wanted.chapter_id:
        return Conflict(f"{detail}; {left_out[0]} is not.", code="chapter_not_finished", param="chapter_id")
    return Conflict(f"{detail}; none of this comic is.", code="nothing_finished")


def _tag(tree: Mapping[str, Any], pictures: Pictures, wanted: Wanted) -> str:
    """Of everything that is in the file."""
    chapters = [
        (
            row["id"],
            row["name"],
            [(bool(_picture(p, pictures)), p["image_id"], p["caption"]) for p in row["panels"]],
        )
        for row in tree["chapters"]
    ]
    seen = json.dumps([VERSION, tree["name"], chapters, asdict(wanted)], default=str)
    return hashlib.sha256(seen.encode()).hexdigest()[:16]
