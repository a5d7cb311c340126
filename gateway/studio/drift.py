"""How alike characters stay over a chapter, as geometry: a line for each, and what was wanted of them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from gateway.studio.api import Json

WIDTH, HEIGHT = 640, 240
"""Of the drawing, in its own units."""
LEFT, RIGHT, TOP, BOTTOM = 36, 16, 12, 28
LABELS_LIMIT = 16
MARKS = (
    "M-5 0a5 5 0 1 0 10 0a5 5 0 1 0-10 0",
    "M-4.500-4.500h9v9h-9z",
    "M0-6l6 10.500h-12z",
    "M0-6.500l6.500 6.500-6.500 6.500-6.500-6.500z",
    "M-6-2h4v-4h4v4h4v4h-4v4h-4v-4h-4z",
)
"""Shapes around 0,0: lines are told apart by them, and not by their colors alone."""
JUDGES = {"model": "a model", "rules": "rules", None: "nobody"}


@dataclass(frozen=True)
class Dot:
    x: float
    y: float
    low: bool
    """Below what was wanted of this panel."""
    title: str


@dataclass(frozen=True)
class Series:
    """One character."""

    name: str
    mark: str
    dots: list[Dot]
    mean: float
    lowest: float
    below: int

    @property
    def points(self) -> str:
        return " ".join(f"{dot.x},{dot.y}" for dot in self.dots)


@dataclass(frozen=True)
class Tick:
    at: float
    label: str


@dataclass(frozen=True)
class Row:
    """A panel in numbers: the score of each character, in the order of the lines."""

    position: int
    scores: list[float | None]
    lost: list[str]
    threshold: float | None
    judge: str


@dataclass(frozen=True)
class Drift:
    series: list[Series]
    scale: list[Tick]
    panels: list[Tick]
    wanted: str
    """Points of the line from which a score counts as the same."""
    rows: list[Row]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT


def drift(told: Json) -> Drift | None:
    """A chapter's consistency as the API tells it; None below two panels that somebody has looked at."""
    panels = [panel for panel in told["panels"] if panel["score"] is not None]
    if len(panels) < 2:
        return None
    places = {panel["position"]: _across(n, len(panels)) for n, panel in enumerate(panels)}
    every = math.ceil(len(panels) / LABELS_LIMIT)
    return Drift(
        series=[_series(n, each, panels, places) for n, each in enumerate(told["characters"])],
        scale=[Tick(_down(score), str(score)) for score in (0, 25, 50, 75, 100)],
        panels=[Tick(x, str(position)) for position, x in list(places.items())[::every]],
        wanted=" ".join(f"{places[each['position']]},{_down(each['threshold'] or 0)}" for each in panels),
        rows=[_row(panel, told["characters"]) for panel in panels],
    )


def _series(n: int, who: Json, panels: Sequence[Json], places: dict[int, float]) -> Series:
    name = who["name"] or "Somebody"
    seen = [(panel, _of(panel, who)) for panel in panels]
    return Series(
        name=name,
        mark=MARKS[n % len(MARKS)],
        dots=[
            Dot(
                x=places[panel["position"]],
                y=_down(score),
                low=score < (panel["threshold"] or 0),
                title=f"{name}, panel {panel['position']}: {score:.0f}",
            )
            for panel, score in seen
            if score is not None
        ],
        mean=who["mean"],
        lowest=who["lowest"],
        below=who["below_threshold"],
    )


def _row(panel: Json, characters: Sequence[Json]) -> Row:
    return Row(
        position=panel["position"],
        scores=[_of(panel, who) for who in characters],
        lost=sorted({trait for each in panel["per_character"] for trait in each["lost"]}),
        threshold=panel["threshold"],
        judge=JUDGES[panel["judge"]],
    )


def _of(panel: Json, who: Json) -> float | None:
    scores = {each["character_id"]: each["score"] for each in panel["per_character"]}
    return scores.get(who["character_id"])


def _across(n: int, count: int) -> float:
    room = WIDTH - LEFT - RIGHT - 24
    return round(LEFT + 12 + room * n / (count - 1), 1)


def _down(score: float) -> float:
    return round(TOP + (HEIGHT - TOP - BOTTOM) * (1 - score / 100), 1)
