"""What the calls of each day cost, and whether Modal's bill agrees."""

import datetime
import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import psycopg

from gateway.config import ConfigurationError

BILLED_SERVICE = "tenkaigen-gpu"
"""Value of the tag ``service`` that the deployment gives what it runs on Modal."""

DAILY = """
select (finished_at at time zone 'utc')::date, count(*), sum(gpu_seconds)::float, sum(usd_micros)::bigint
from private.generation_calls
where finished_at >= %(start)s and finished_at < %(end)s
group by 1 order by 1
"""

RECORD = """
insert into private.bills (day, usd_micros) values (%s, %s)
on conflict (day) do update set usd_micros = excluded.usd_micros, recorded_at = now()
"""


@dataclass(frozen=True)
class Day:
    """What the calls that ended on a day, UTC, took and were charged."""

    date: datetime.date
    calls: int = 0
    gpu_seconds: float = 0.0
    usd_micros: int = 0


@dataclass(frozen=True)
class Reconciled:
    """A day's calls beside what Modal billed for it."""

    day: Day
    billed_usd_micros: int

    @property
    def idle_usd_micros(self) -> int:
        """Billed, but no call's: containers that started or waited.  Negative: calls are charged too much."""
        return self.billed_usd_micros - self.day.usd_micros

    @property
    def idle_share(self) -> float:
        """Of what was billed; 0 where nothing was."""
        return self.idle_usd_micros / self.billed_usd_micros if self.billed_usd_micros else 0.0


def daily(admin_url: str, start: datetime.date, end: datetime.date) -> list[Day]:
    """Days from ``start`` up to but not including ``end`` on which a call ended."""
    with psycopg.connect(admin_url) as connection:
        rows = connection.execute(DAILY.encode(), {"start": _midnight(start), "end": _midnight(end)})
        return [Day(*row) for row in rows]


def bill(path: Path, service: str) -> dict[datetime.date, int]:
    """Micro-dollars by day of one service, from ``modal billing report --json --tag-names service,env``.

    ConfigurationError when the file is not such a report.
    """
    cents: defaultdict[datetime.date, Decimal] = defaultdict(Decimal)
    try:
        for line in json.loads(path.read_text()):
            if json.loads(line["tags"]).get("service") == service:
                day = datetime.datetime.fromisoformat(line["interval_start"]).date()
                cents[day] += Decimal(line["cost"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ArithmeticError) as error:
        raise ConfigurationError(
            f"{path} is not a report of `modal billing report --json --tag-names service,env` ({error!r})."
        ) from error
    return {day: int((dollars * 1_000_000).to_integral_value()) for day, dollars in cents.items()}


def record(admin_url: str, billed: Mapping[datetime.date, int]) -> None:
    """Keep what was billed, so that reports can tell idle time."""
    with psycopg.connect(admin_url) as connection, connection.cursor() as cursor:
        cursor.executemany(RECORD.encode(), list(billed.items()))


def reconcile(days: list[Day], billed: Mapping[datetime.date, int]) -> list[Reconciled]:
    """Every day of either, in order."""
    known = {day.date: day for day in days}
    return [
        Reconciled(known.get(date, Day(date)), billed.get(date, 0))
        for date in sorted(known.keys() | billed.keys())
    ]


def _midnight(date: datetime.date) -> datetime.datetime:
    return datetime.datetime.combine(date, datetime.time(), datetime.UTC)
