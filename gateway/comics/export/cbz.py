"""A book as a CBZ: a zip of pages as JPEG, and about them a ComicInfo.xml (schema 2.0, Anansi project)."""

import io
import re
import zipfile
from collections.abc import Sequence
from xml.etree import ElementTree

from PIL import Image, ImageDraw

from gateway.comics.export import pictures
from gateway.comics.export.faces import Faces
from gateway.comics.export.layouts import Rect
from gateway.comics.export.lettering import Text
from gateway.comics.export.pages import Book, Page, Placed

MEDIA_TYPE = "application/vnd.comicbook+zip"
PER_POINT = 254 / 72
"""Pixels: 10 a millimetre, 1680 across a page of 168 mm."""
INK, PAPER = "black", "white"
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_MOMENT = (1980, 1, 1, 0, 0, 0)
"""A zip's earliest: the same book gives the same bytes."""


class Cbz:
    """One page in memory at a time, and of its panels one picture."""

    def __init__(self, book: Book, pages: Sequence[Page], faces: Faces) -> None:
        self._faces = faces
        self._pieces = _Pieces()
        self._zip = zipfile.ZipFile(self._pieces, "w", zipfile.ZIP_STORED)
        self._put("ComicInfo.xml", comic_info(book, pages))

    def begin(self, page: Page) -> None:
        self._page = page
        self._paper = Image.new("RGB", (_px(page.size[0]), _px(page.size[1])), PAPER)

    def place(self, placed: Placed, content: bytes) -> None:
        picture = pictures.cut(content, placed, PER_POINT, enlarge=True)
        self._paper.paste(picture, (_px(placed.rect.x), _px(placed.rect.y)))
        self._frame(placed.rect)

    def end(self) -> bytes:
        """The page, lettered."""
        if self._page.heading:
            self._letter(self._page.heading)
        for placed in self._page.panels:
            if placed.lettering:
                self._frame(placed.lettering.frame, fill=PAPER)
                self._letter(placed.lettering)
        self._letter(self._page.footer)
        self._put(_name(self._page.number), pictures.jpeg(self._paper))
        return self._pieces.take()

    def finish(self) -> bytes:
        self._zip.close()
        return self._pieces.take()

    def _frame(self, rect: Rect, fill: str | None = None) -> None:
        corners = (_px(rect.x), _px(rect.y), _px(rect.x + rect.width), _px(rect.y + rect.height))
        ImageDraw.Draw(self._paper).rectangle(corners, fill, INK, width=2)

    def _letter(self, text: Text) -> None:
        """Character by character, where the PDF has them too: a font for pixels would round its widths."""
        draw = ImageDraw.Draw(self._paper)
        for line in text.lines:
            for face, char, at in self._faces.glyphs(line.text, text.size):
                font = face.for_pixels(round(text.size * PER_POINT, 1))
                draw.text(((line.x + at) * PER_POINT, line.y * PER_POINT), char, INK, font, anchor="ls")

    def _put(self, name: str, content: bytes) -> None:
        self._zip.writestr(zipfile.ZipInfo(name, _MOMENT), content)


def comic_info(book: Book, pages: Sequence[Page]) -> bytes:
    """Elements in the order of the schema."""
    root = ElementTree.Element("ComicInfo")
    facts = {
        "Title": book.chapters[0].name if len(book.chapters) == 1 else book.title,
        "Series": book.title,
        "Notes": f"Left out, not finished: {', '.join(book.left_out)}" if book.left_out else "",
        "PageCount": str(len(pages)),
        "Manga": "YesAndRightToLeft" if book.direction == "rtl" else "No",
    }
    for name, value in facts.items():
        if value:
            ElementTree.SubElement(root, name).text = _NOT_XML.sub("", value)
    listed = ElementTree.SubElement(root, "Pages")
    for page in pages:
        ElementTree.SubElement(listed, "Page", _page_info(page))
    return bytes(ElementTree.tostring(root, encoding="utf-8", xml_declaration=True))


def _page_info(page: Page) -> dict[str, str]:
    size = {"ImageWidth": str(_px(page.size[0])), "ImageHeight": str(_px(page.size[1]))}
    bookmark = {"Bookmark": _NOT_XML.sub("", page.begins)} if page.begins else {}
    return {"Image": str(page.number - 1), "Type": "Story", **bookmark, **size}


def _name(number: int) -> str:
    return f"{number:04}.jpg"


def _px(points: float) -> int:
    return round(points * PER_POINT)


class _Pieces(io.BytesIO):
    """What has been written since the last ``take``.

    zipfile goes back to an entry's header when it has written the entry; what is taken ends between entries.
    """

    _taken = 0

    def take(self) -> bytes:
        piece = self.getvalue()
        self._taken += len(piece)
        super().seek(0)
        self.truncate()
        return piece

    def tell(self) -> int:
        return self._taken + super().tell()

    def seek(self, place: int, whence: int = io.SEEK_SET) -> int:
        return self._taken + super().seek(place - self._taken if whence == io.SEEK_SET else place, whence)
