"""A book as a PDF, written page by page.

reportlab keeps a document in memory until its end, pictures and all.  ``_Written`` writes out the objects of
finished pages, which nothing changes any more, and forgets them; fonts, outline and the list of pages remain
until the end.  It takes the place of ``PDFDocument.format`` and goes by its parts, as they are in reportlab
5.1; tests read what it writes with two other libraries.
"""

import io
from collections.abc import Sequence
from typing import Any

from PIL import Image
from reportlab.pdfbase import pdfdoc
from reportlab.pdfgen.canvas import Canvas

from gateway.comics.export import pictures
from gateway.comics.export.faces import Faces
from gateway.comics.export.layouts import Rect
from gateway.comics.export.lettering import Text
from gateway.comics.export.pages import Book, Page, Placed

MEDIA_TYPE = "application/pdf"
PER_POINT = 300 / 72
"""Pixels of a picture at most: 300 to the inch."""
LINE_PT = 0.6


class Pdf:
    """Pages with pictures as JPEG and text as text; the fonts are in it."""

    def __init__(self, book: Book, pages: Sequence[Page], faces: Faces) -> None:
        self._faces = faces
        self._canvas = Canvas(io.BytesIO(), pageCompression=1)
        self._canvas.setTitle(book.title)
        self._canvas.setAuthor("")
        self._canvas.setSubject("")
        self._canvas.setCreator("Tenkaigen")
        if book.direction == "rtl":
            self._canvas.setViewerPreference("Direction", "R2L")
        self._canvas.showOutline()
        self._written = _Written(self._canvas._doc)

    def begin(self, page: Page) -> None:
        self._page, self._height = page, page.size[1]
        self._canvas.setPageSize(page.size)
        self._canvas.setLineWidth(LINE_PT)
        if page.begins:
            self._canvas.bookmarkPage(str(page.number))
            self._canvas.addOutlineEntry(page.begins, str(page.number))
        if page.heading:
            self._letter(page.heading)

    def place(self, placed: Placed, content: bytes) -> None:
        picture = pictures.cut(content, placed, PER_POINT, enlarge=False)
        self._draw(picture, placed.rect)
        self._frame(placed.rect, filled=False)
        if placed.lettering:
            self._frame(placed.lettering.frame, filled=True)
            self._letter(placed.lettering)

    def end(self) -> bytes:
        self._letter(self._page.footer)
        self._canvas.showPage()
        return self._written.pages()

    def finish(self) -> bytes:
        return self._written.rest(self._canvas)

    def _draw(self, picture: Image.Image, rect: Rect) -> None:
        """``Canvas.drawImage`` would decode the file again, to name it by its pixels."""
        canvas, document = self._canvas, self._canvas._doc
        name = f"picture{document.objectcounter}"
        document.Reference(_image(picture), document.getXObjectName(name))
        canvas._formsinuse.append(name)
        canvas.saveState()
        canvas.translate(rect.x, self._height - rect.y - rect.height)
        canvas.scale(rect.width, rect.height)
        canvas._code.append(f"/{document.getXObjectName(name)} Do")
        canvas.restoreState()

    def _frame(self, rect: Rect, *, filled: bool) -> None:
        self._canvas.setFillGray(1)
        lower = self._height - rect.y - rect.height
        self._canvas.rect(rect.x, lower, rect.width, rect.height, stroke=1, fill=int(filled))

    def _letter(self, text: Text) -> None:
        self._canvas.setFillGray(0)
        for line in text.lines:
            x = line.x
            for face, piece, width in self._faces.runs(line.text, text.size):
                self._canvas.setFont(face.name, text.size)
                self._canvas.drawString(x, self._height - line.y, piece)
                x += width


def _image(picture: Image.Image) -> Any:
    facts = {
        "Type": pdfdoc.PDFName("XObject"),
        "Subtype": pdfdoc.PDFName("Image"),
        "Width": picture.width,
        "Height": picture.height,
        "ColorSpace": pdfdoc.PDFName("DeviceRGB"),
        "BitsPerComponent": 8,
        "Filter": pdfdoc.PDFName("DCTDecode"),
    }
    return pdfdoc.PDFStream(pdfdoc.PDFDictionary(facts), pictures.jpeg(picture))


class _Written:
    """The objects of a document as bytes, some of them before the others are known."""

    def __init__(self, document: Any) -> None:
        self._document = document
        self._file = pdfdoc.PDFFile(document._pdfVersion)
        self._seen = 0

    def pages(self) -> bytes:
        """Pages and pictures that have come since the last call, and what is in them."""
        document = self._document
        while self._seen < document.objectcounter:
            self._seen += 1
            name = document.numberToId[self._seen]
            if isinstance(document.idToObject[name], pdfdoc.PDFPage | pdfdoc.PDFStream):
                self._write(name)
                document.idToObject[name] = None
        return self._take()

    def rest(self, canvas: Canvas) -> bytes:
        """All else, and the table of where each object is."""
        document = self._document
        for font in document.delayedFonts:
            font.addObjects(document)
        document.info.invariant = document.invariant
        document.info.digest(document.signature)
        catalog, info = document.Reference(document.Catalog), document.Reference(document.info)
        document.Outlines.prepare(document, canvas)
        number = 0
        while number < document.objectcounter:  # formatting an object may make others
            number += 1
            if document.numberToId[number] not in document.idToOffset:
                self._write(document.numberToId[number])
        self._trailer(catalog, info)
        return self._take()

    def _trailer(self, catalog: Any, info: Any) -> None:
        document = self._document
        names = [document.numberToId[n + 1] for n in range(document.objectcounter)]
        table = pdfdoc.PDFCrossReferenceTable()
        table.addsection(0, names)
        begin = self._file.add(table.format(document))
        size = document.objectcounter + 1
        trailer = pdfdoc.PDFTrailer(begin, Size=size, Root=catalog, Info=info, ID=document.ID())
        self._file.add(trailer.format(document))

    def _write(self, name: str) -> None:
        document = self._document
        formatted = pdfdoc.PDFIndirectObject(name, document.idToObject[name]).format(document)
        document.idToOffset[name] = self._file.add(formatted)

    def _take(self) -> bytes:
        piece = self._file.format(self._document)
        self._file.strings.clear()
        return bytes(piece)
