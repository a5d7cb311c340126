"""Layouts as data: one TOML file each, in ``layouts/``.

    label = "Three to a page"
    page_mm = [168.0, 230.0]
    margins_mm = [14.0, 8.0, 11.0, 8.0]    # top, right, bottom, left
    gutter_mm = 4.0
    crop = 0.12                            # at most this share of a picture is cut off to fill its place
    pages = [["A A B", "A A C"], ["A"]]    # places in reading order A, B, C …; a dot stays empty
    columns = [[1, 1, 2]]                  # widths in shares, by page; equal where none are given
    rows = [[2, 1]]                        # heights likewise
    [lettering]
    place = "bottom"                       # or "top"
    size_pt = [9.5, 6.5]                   # largest and smallest
    share = 0.4                            # of a picture's height

As in CSS, letters draw the grid: a letter's cells are one rectangle.  One page has one place, so that any
number of panels fills pages.
"""

import itertools
import string
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

FOLDER = Path(__file__).parent / "layouts"
POINTS_PER_MM = 72 / 25.4


class LayoutError(Exception):
    """A file is not a layout; the message names it, and the field."""


class Rect(NamedTuple):
    """Points from the upper left corner of the page."""

    x: float
    y: float
    width: float
    height: float

    def inset(self, by: float) -> "Rect":
        return Rect(self.x + by, self.y + by, self.width - 2 * by, self.height - 2 * by)

    def mirrored(self, page_width: float) -> "Rect":
        return self._replace(x=page_width - self.x - self.width)


class Lettering(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    place: Literal["bottom", "top"]
    size_pt: tuple[float, float]
    share: float = Field(gt=0, le=1)


class _File(BaseModel):
    """What stands in a file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    label: str = Field(min_length=1)
    page_mm: tuple[float, float]
    margins_mm: tuple[float, float, float, float]
    gutter_mm: float = Field(ge=0)
    crop: float = Field(ge=0, lt=1)
    pages: list[list[str]] = Field(min_length=1)
    columns: list[list[float]] = []
    rows: list[list[float]] = []
    lettering: Lettering


@dataclass(frozen=True)
class Grid:
    """The places of one page; a place is (first column, first row, columns, rows)."""

    columns: Sequence[float]
    rows: Sequence[float]
    places: Sequence[tuple[int, int, int, int]]

    def rects(self, area: Rect, gutter: float) -> list[Rect]:
        """The places in reading order."""
        xs = _edges(area.x, area.width, self.columns, gutter)
        ys = _edges(area.y, area.height, self.rows, gutter)
        return [_rect(xs[c : c + across], ys[r : r + down]) for c, r, across, down in self.places]


@dataclass(frozen=True)
class Layout:
    name: str
    facts: _File

    @property
    def label(self) -> str:
        return self.facts.label

    @property
    def lettering(self) -> Lettering:
        return self.facts.lettering

    @property
    def crop(self) -> float:
        return self.facts.crop

    @property
    def size(self) -> tuple[float, float]:
        width, height = self.facts.page_mm
        return width * POINTS_PER_MM, height * POINTS_PER_MM

    @property
    def gutter(self) -> float:
        return self.facts.gutter_mm * POINTS_PER_MM

    @property
    def area(self) -> Rect:
        """What lies within the margins."""
        top, right, bottom, left = (each * POINTS_PER_MM for each in self.facts.margins_mm)
        width, height = self.size
        return Rect(left, top, width - left - right, height - top - bottom)

    @cached_property
    def grids(self) -> list[Grid]:
        facts = self.facts
        shares = itertools.zip_longest(facts.pages, facts.columns, facts.rows)
        return [_grid(areas, columns, rows) for areas, columns, rows in shares]

    def pages(self, panels: int) -> Iterator[Grid]:
        """The pages that so many panels fill: the fullest first, those of equal number in turn."""
        turn = 0
        while panels > 0:
            most = max(len(grid.places) for grid in self.grids if len(grid.places) <= panels)
            candidates = [grid for grid in self.grids if len(grid.places) == most]
            yield candidates[turn % len(candidates)]
            panels, turn = panels - most, turn + 1


def load(folder: Path = FOLDER) -> dict[str, Layout]:
    """Every layout of the folder by name; LayoutError for the first file that is not one."""
    return {path.stem: _layout(path) for path in sorted(folder.glob("*.toml"))}


def _layout(path: Path) -> Layout:
    try:
        layout = Layout(path.stem, _File.model_validate(tomllib.loads(path.read_text(encoding="utf-8"))))
        if not any(len(grid.places) == 1 for grid in layout.grids):
            raise ValueError("pages: none has a single place")
        if min(rect.width for grid in layout.grids for rect in grid.rects(layout.area, layout.gutter)) <= 0:
            raise ValueError("margins_mm and gutter_mm leave no place")
    except (tomllib.TOMLDecodeError, ValidationError, ValueError) as error:
        raise LayoutError(f"{path}: {error}") from error
    return layout


def _grid(areas: Sequence[str] | None, columns: Sequence[float] | None, rows: Sequence[float] | None) -> Grid:
    """ValueError unless the letters from A on are rectangles of one grid."""
    cells = [line.split() for line in areas or ()]
    across, down = len(cells[0]) if cells else 0, len(cells)
    if not across or any(len(line) != across for line in cells):
        raise ValueError(f"pages: {areas} is no grid")
    columns, rows = columns or [1.0] * across, rows or [1.0] * down
    if len(columns) != across or len(rows) != down or min(*columns, *rows) <= 0:
        raise ValueError(f"columns and rows: {columns} and {rows} do not fit {areas}")
    letters = sorted({cell for line in cells for cell in line if cell != "."})
    if not letters or letters != list(string.ascii_uppercase[: len(letters)]):
        raise ValueError(f"pages: {areas} names no places from A on")
    return Grid(columns, rows, [_place(cells, letter) for letter in letters])


def _place(cells: Sequence[Sequence[str]], letter: str) -> tuple[int, int, int, int]:
    found = [(c, r) for r, line in enumerate(cells) for c, cell in enumerate(line) if cell == letter]
    left, top = min(c for c, _ in found), min(r for _, r in found)
    across, down = max(c for c, _ in found) - left + 1, max(r for _, r in found) - top + 1
    if len(found) != across * down:
        raise ValueError(f"pages: {letter} is no rectangle")
    return left, top, across, down


def _edges(start: float, length: float, shares: Sequence[float], gutter: float) -> list[tuple[float, float]]:
    """From where to where each column or row goes."""
    unit = (length - gutter * (len(shares) - 1)) / sum(shares)
    edges = []
    for share in shares:
        edges.append((start, start + share * unit))
        start += share * unit + gutter
    return edges


def _rect(xs: Sequence[tuple[float, float]], ys: Sequence[tuple[float, float]]) -> Rect:
    return Rect(xs[0][0], ys[0][0], xs[-1][1] - xs[0][0], ys[-1][1] - ys[0][0])


LAYOUTS: Mapping[str, Layout] = load()
