"""Fonts: which of them draws a character, and how wide it is.

The first font of the row that has a character draws it: those of the operator (``LETTERING_FONTS``), then
Comic Neue, then DejaVu for what Comic Neue lacks.  Both formats measure and draw with the same files, so that
the lines of a PDF are those of a CBZ.
"""

import itertools
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from PIL import ImageFont
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.ttfonts import TTFError, TTFont

FOLDER = Path(__file__).parent / "fonts"
HOUSE = (FOLDER / "ComicNeue-Bold.ttf", FOLDER / "DejaVuSansCondensed-Bold.ttf")


class FontError(Exception):
    """A file is no TrueType font; the message names it."""


@dataclass(frozen=True)
class Face:
    """One font. ``name`` is what reportlab knows it by."""

    name: str
    path: Path

    def has(self, char: str) -> bool:
        return ord(char) in _font(self.name).face.charToGlyph

    def width(self, char: str) -> float:
        """At a size of one point."""
        face = _font(self.name).face
        return float(face.charWidths.get(ord(char), face.defaultWidth)) / 1000

    def for_pixels(self, size: float) -> ImageFont.FreeTypeFont:
        return _pillow(self.path, size)


class Faces:
    """The fonts in the order in which they are asked for a character."""

    def __init__(self, paths: Iterable[Path] = ()) -> None:
        self._faces = [_face(path) for path in (*paths, *HOUSE)]
        self._chosen: dict[str, tuple[Face, float]] = {}

    def missing(self, text: str) -> str:
        """Characters that cannot be drawn, each once: those of scripts written from the right too."""
        return "".join(dict.fromkeys(char for char in plain(text) if char != "\n" and not self._draws(char)))

    def width(self, text: str, size: float) -> float:
        return size * sum(self._face(char)[1] for char in text)

    def runs(self, text: str, size: float) -> Iterator[tuple[Face, str, float]]:
        """Pieces of one font each, with their widths."""
        for face, chars in itertools.groupby(text, lambda char: self._face(char)[0]):
            piece = "".join(chars)
            yield face, piece, self.width(piece, size)

    def glyphs(self, text: str, size: float) -> Iterator[tuple[Face, str, float]]:
        """Every character, with its distance from the beginning."""
        at = 0.0
        for char in text:
            face, width = self._face(char)
            yield face, char, at
            at += width * size

    def _draws(self, char: str) -> bool:
        left_to_right = unicodedata.bidirectional(char) not in ("R", "AL")
        return left_to_right and any(face.has(char) for face in self._faces)

    def _face(self, char: str) -> tuple[Face, float]:
        if char not in self._chosen:
            face = next((each for each in self._faces if each.has(char)), self._faces[-1])
            self._chosen[char] = face, face.width(char)
        return self._chosen[char]


def plain(text: str) -> str:
    """Composed characters, and none that draw nothing: controls, joiners, variation selectors."""
    spaced = "".join(" " if char in "\t\u00a0\u202f" else char for char in unicodedata.normalize("NFC", text))
    return "".join(char for char in spaced if char == "\n" or _draws_something(char))


def _draws_something(char: str) -> bool:
    return unicodedata.category(char) not in ("Cc", "Cf", "Zl", "Zp") and not "\ufe00" <= char <= "\ufe0f"


def _face(path: Path) -> Face:
    name = f"lettering:{path.resolve()}"
    if name not in pdfmetrics.getRegisteredFontNames():
        try:
            pdfmetrics.registerFont(TTFont(name, str(path)))
        except (TTFError, OSError) as error:
            raise FontError(f"{path} is not a TrueType font: {error}") from error
    return Face(name, path)


def _font(name: str) -> TTFont:
    return pdfmetrics.getFont(name)


@lru_cache(64)
def _pillow(path: Path, size: float) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(path), size, layout_engine=ImageFont.Layout.BASIC)
