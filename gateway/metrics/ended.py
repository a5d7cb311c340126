"""Sums over every row that has ended, without reading every row each time."""

import datetime
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from psycopg.rows import DictRow

from gateway.db import Database

SETTLED_SECONDS = 60.0
"""No transaction lasts that long: what has ended before is all there."""

Key = tuple[Any, ...]
Sums = defaultdict[Key, float]


class Ended:
    """One of the statements ``ENDED_…``; rows that can no longer change are added up once and kept.

    ``labels`` and ``bucket`` tell groups apart, ``values`` are summed.
    """

    def __init__(
        self, statement: str, bounds: tuple[float, ...], labels: tuple[str, ...], values: tuple[str, ...]
    ) -> None:
        self._statement = statement
        self._bounds = bounds
        self._labels = labels
        self._values = values
        self._since = datetime.datetime.min.replace(tzinfo=datetime.UTC)
        self._kept: Sums = defaultdict(float)

    async def read(self, db: Database) -> Sums:
        """The sums as they stand: (value, bucket, *labels) to number."""
        rows = await db.all(
            self._statement, {"since": self._since, "settled": SETTLED_SECONDS, "bounds": list(self._bounds)}
        )
        for key, number in self._numbers(row for row in rows if row["settled"]):
            self._kept[key] += number
        sums = self._kept.copy()
        for key, number in self._numbers(row for row in rows if not row["settled"]):
            sums[key] += number
        if rows:
            self._since = rows[0]["until"]
        return sums

    def _numbers(self, rows: Iterator[DictRow]) -> Iterator[tuple[Key, float]]:
        for row in rows:
            labels = tuple(row[label] for label in self._labels)
            for value in self._values:
                yield (value, row["bucket"], *labels), row[value]
