"""What GPU time costs."""

import datetime
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal


@dataclass(frozen=True)
class Price:
    """What an hour of a GPU costs from a day on, in micro-dollars."""

    gpu: str
    usd_micros_per_hour: int
    effective_from: datetime.date
    published: bool = True
    """False for a figure that no copy of the price page confirmed."""


_PUBLISHED = datetime.date(2026, 5, 1)
"""Copies of Modal's price page from May to July 2026 give the rates per second that are used here."""

PRICES: tuple[Price, ...] = (
    Price("T4", 600_000, datetime.date(2026, 1, 1)),
    Price("A10", 1_100_000, datetime.date(2026, 1, 1)),
    Price("A100", 4_000_000, datetime.date(2026, 1, 1)),
    Price("L40S", 1_950_000, _PUBLISHED),
    Price("L4", 799_200, _PUBLISHED),  # 222 micro-dollars a second
    Price("A100-80GB", 2_498_400, _PUBLISHED),  # 694
    Price("H100", 3_949_200, _PUBLISHED),  # 1097
    Price("A100-40GB", 2_098_800, _PUBLISHED, published=False),  # 583
    Price("RTX-PRO-6000", 3_031_200, _PUBLISHED, published=False),  # 842
    Price("H200", 4_539_600, _PUBLISHED, published=False),  # 1261
    Price("B200", 6_249_600, _PUBLISHED, published=False),  # 1736
    # One core at Modal's published 13.1 micro-dollars a second: what the bundled CPU model
    # would cost if it were rented, so that budgets and forecasts have something to count.
    Price("cpu", 47_160, _PUBLISHED),
)


def price(gpu: str, on: datetime.date) -> Price:
    """The price row of ``gpu`` in force on a day; KeyError when there is none."""
    rows = [row for row in PRICES if row.gpu == gpu and row.effective_from <= on]
    if not rows:
        raise KeyError(f"no price for {gpu} on {on}")
    return max(rows, key=lambda row: row.effective_from)


def cost_usd_micros(gpu: str, seconds: float, on: datetime.date) -> int:
    """Micro-dollars of one call, rounded once, half up."""
    exact = Decimal(str(seconds)) * price(gpu, on).usd_micros_per_hour / 3600
    return int(exact.quantize(Decimal(1), rounding=ROUND_HALF_UP))
