"""The pages of a book: which panel stands where, what is cut off its picture, and its lettering."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from gateway.comics.export.faces import Faces
from gateway.comics.export.layouts import Layout, Rect
from gateway.comics.export.lettering import Box, Text, boxed, centred, headed

Direction = Literal["ltr", "rtl"]

HEADING_PT = 10.0
NUMBER_PT = 7.5
HEADING_GAP = 6.0
"""Between a heading and the first row of panels, in points."""


@dataclass(frozen=True)
class Chapter:
    """``panels`` have a caption, and each its picture: bucket, key, width and height."""

    name: str
    panels: Sequence["Panel"]


@dataclass(frozen=True)
class Panel:
    caption: str | None
    picture: Mapping[str, Any]


@dataclass(frozen=True)
class Book:
    """``left_out`` names the chapters that are not finished."""

    title: str
    chapters: Sequence[Chapter]
    left_out: Sequence[str]
    direction: Direction


@dataclass(frozen=True)
class Placed:
    """``part`` of the picture is shown: left, upper, right and lower, in shares of its sides."""

    picture: Mapping[str, Any]
    rect: Rect
    part: tuple[float, float, float, float]
    lettering: Box | None


@dataclass(frozen=True)
class Page:
    """``begins`` is the chapter whose first page it is."""

    number: int
    size: tuple[float, float]
    begins: str | None
    heading: Text | None
    footer: Text
    panels: list[Placed]


def pages(book: Book, layout: Layout, faces: Faces) -> Iterator[Page]:
    """Every chapter begins a page."""
    number = 0
    for chapter in book.chapters:
        rest = list(chapter.panels)
        for grid in layout.pages(len(rest)):
            first, number = len(rest) == len(chapter.panels), number + 1
            rects = grid.rects(layout.area, layout.gutter)
            shown, rest = rest[: len(rects)], rest[len(rects) :]
            heading = _heading(book, chapter, layout, faces) if first else None
            placed = [
                _placed(*each, layout, faces, book.direction) for each in zip(shown, rects, strict=True)
            ]
            begins = chapter.name if first else None
            yield Page(number, layout.size, begins, heading, _footer(number, layout, faces), placed)


def texts(book: Book) -> Iterator[tuple[str, str]]:
    """Everything that is to be lettered, and what each is."""
    yield "the comic's name", book.title
    for chapter in book.chapters:
        yield "a chapter's name", chapter.name
        for n, panel in enumerate(chapter.panels, 1):
            yield f"the caption of panel {n} of {chapter.name}", panel.caption or ""


def _heading(book: Book, chapter: Chapter, layout: Layout, faces: Faces) -> Text:
    area = layout.area
    room = Rect(area.x, HEADING_GAP, area.width, area.y - 2 * HEADING_GAP)
    return headed(f"{book.title} – {chapter.name}", room, HEADING_PT, faces)


def _footer(number: int, layout: Layout, faces: Faces) -> Text:
    width, height = layout.size
    below = layout.area.y + layout.area.height
    return centred(str(number), Rect(0, below, width, height - below), NUMBER_PT, faces)


def _placed(panel: Panel, place: Rect, layout: Layout, faces: Faces, direction: Direction) -> Placed:
    if direction == "rtl":
        place = place.mirrored(layout.size[0])
    rect, part = _shown(panel.picture["width"] / panel.picture["height"], place, layout.crop)
    box = None
    if panel.caption:
        box = boxed(panel.caption, rect, layout.lettering, faces, from_right=direction == "rtl")
    return Placed(panel.picture, rect, part, box)


def _shown(ratio: float, place: Rect, crop: float) -> tuple[Rect, tuple[float, float, float, float]]:
    """A picture of this width by height fills its place, cut off evenly; or stands whole in the middle of it,
    where more than ``crop`` would be lost."""
    wanted = place.width / place.height
    across, down = min(1.0, wanted / ratio), min(1.0, ratio / wanted)
    if 1 - across * down <= crop:
        left, upper = (1 - across) / 2, (1 - down) / 2
        return place, (left, upper, 1 - left, 1 - upper)
    width, height = place.width * down, place.height * across
    x, y = place.x + (place.width - width) / 2, place.y + (place.height - height) / 2
    return Rect(x, y, width, height), (0.0, 0.0, 1.0, 1.0)
