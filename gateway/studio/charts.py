"""Bars as geometry; a template draws them as SVG."""

import datetime
import math
from dataclasses import dataclass

from gateway.studio import words
from gateway.studio.api import Json

WIDTH, HEIGHT = 960, 240
"""Of the drawing, in its own units."""
LEFT, RIGHT, BOTTOM = 72, 16, 28
"""Room for the numbers and the days."""
LINES = 4
BAR_SHARE = 0.72


@dataclass(frozen=True)
class Bar:
    x: float
    y: float
    width: float
    height: float
    label: str
    """Below the bar; empty where there is no room."""
    title: str


@dataclass(frozen=True)
class Line:
    y: float
    label: str


@dataclass(frozen=True)
class Chart:
    bars: list[Bar]
    lines: list[Line]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT


def per_day(report: Json, days: int) -> Chart:
    """What each of the last days cost, days without a call included."""
    costs = {row["key"]: row["cost_usd_micros"] for row in report["data"]}
    last = words.moment(report["to"]).date()
    dates = [last - datetime.timedelta(days=back) for back in reversed(range(days))]
    top = ceiling(max(costs.values(), default=0))
    slot = (WIDTH - LEFT - RIGHT) / days
    every = math.ceil(days / 15)
    return Chart(
        bars=[
            _bar(n, slot, date, costs.get(date.isoformat(), 0), top, labeled=(days - 1 - n) % every == 0)
            for n, date in enumerate(dates)
        ],
        lines=[_line(n * top // LINES, top) for n in range(LINES + 1)],
    )


def shares(report: Json) -> list[Json]:
    """Rows of a report, the dearest first, each with its share of the dearest in per cent."""
    rows = sorted(report["data"], key=lambda row: -row["cost_usd_micros"])
    top = max((row["cost_usd_micros"] for row in rows), default=0) or 1
    return [{**row, "share": round(100 * row["cost_usd_micros"] / top, 1)} for row in rows]


def ceiling(micros: int) -> int:
    """The next number that four lines divide well: 4, 8, 20 or 40 times a power of ten."""
    step = int(10 ** math.floor(math.log10(max(micros, 4) / 4)))
    return next(n * step for n in (4, 8, 20, 40) if n * step >= micros)


def _bar(n: int, slot: float, date: datetime.date, cost: int, top: int, *, labeled: bool) -> Bar:
    name = f"{date.day} {date:%b}"
    height = _height(cost, top)
    return Bar(
        x=round(LEFT + n * slot + slot * (1 - BAR_SHARE) / 2, 1),
        y=round(HEIGHT - BOTTOM - height, 1),
        width=round(slot * BAR_SHARE, 1),
        height=round(height, 1),
        label=name if labeled else "",
        title=f"{name}: {words.money(cost)}",
    )


def _line(micros: int, top: int) -> Line:
    return Line(round(HEIGHT - BOTTOM - _height(micros, top), 1), words.dollars(micros))


def _height(micros: int, top: int) -> float:
    return (HEIGHT - BOTTOM - 12) * micros / top
