"""What the database knows of all gateways together, in Prometheus' form."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric

from gateway.db import Database
from gateway.metrics import statements as sql
from gateway.metrics.ended import Ended, Key, Sums

FRESH_SECONDS = 1.0
"""Several scrapers, or one in a hurry, cost the database one look a second."""
OVERHEAD_BOUNDS = (0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0, 1800.0)
CALL_BOUNDS = (0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 900.0)
STATUSES = ("queued", "processing", "completed", "failed", "canceled")
ALL = "Of all gateways together, from the database: aggregate with max."


class DatabaseMetrics:
    """Collects at most once a second."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._jobs = Ended(
            sql.ENDED_JOBS, OVERHEAD_BOUNDS, ("status", "model", "error_code"), ("n", "seconds")
        )
        self._calls = Ended(
            sql.ENDED_CALLS,
            CALL_BOUNDS,
            ("model", "task", "status"),
            ("n", "seconds", "gpu_seconds", "usd_micros"),
        )
        self._reading = asyncio.Lock()
        self._read_at = -FRESH_SECONDS
        self._metrics: list[Metric] = []

    async def collect(self) -> list[Metric]:
        async with self._reading:
            if time.monotonic() - self._read_at >= FRESH_SECONDS:
                self._metrics = [
                    *await self._of_jobs(),
                    *_of_calls(await self._calls.read(self._db)),
                    *await self._of_deliveries(),
                ]
                self._read_at = time.monotonic()
            return self._metrics

    async def _of_jobs(self) -> list[Metric]:
        living = {row["status"]: row for row in await self._db.all(sql.LIVING_JOBS, {})}
        sums = await self._jobs.read(self._db)
        by_status = _summed(sums, "n", 2)
        standing = GaugeMetricFamily("tenkaigen_jobs", f"Jobs by status. {ALL}", labels=["status"])
        for status in STATUSES:
            now = living[status]["jobs"] if status in living else by_status[(status,)]
            standing.add_metric([status], now)
        age = GaugeMetricFamily("tenkaigen_queue_age_seconds", f"Age of the oldest job that is queued. {ALL}")
        age.add_metric([], living["queued"]["oldest_seconds"] if "queued" in living else 0.0)
        ended = _counter("jobs_ended", "Jobs that have ended.", ["status", "model", "error_code"])
        for labels, number in _summed(sums, "n", 2, 3, 4).items():
            ended.add_metric(labels, number)
        overhead = HistogramMetricFamily(
            "tenkaigen_job_overhead_seconds",
            f"Seconds of a completed job that no GPU worked: queue, hand-over, storing. {ALL}",
        )
        overhead.add_metric([], *_distribution(sums, OVERHEAD_BOUNDS))
        return [standing, age, ended, overhead]

    async def _of_deliveries(self) -> list[Metric]:
        row = await self._db.one(sql.DELIVERIES, {}) or {}
        family = GaugeMetricFamily(
            "tenkaigen_webhook_deliveries",
            "Deliveries to users' servers: outbox (not yet addressed), pending (not yet tried), retrying,"
            f" failed (given up, of the 30 days that are kept). {ALL}",
            labels=["state"],
        )
        for state, number in row.items():
            family.add_metric([state], number)
        return [family]


def _of_calls(sums: Sums) -> Iterator[Metric]:
    calls = _counter("gpu_calls", "GPU calls that have ended.", ["model", "task", "status"])
    for labels, number in _summed(sums, "n", 2, 3, 4).items():
        calls.add_metric(labels, number)
    yield calls
    told = {"gpu_seconds": "Seconds that GPUs worked.", "cost_usd_micros": "Cost in micro-dollars."}
    for name, value in (("gpu_seconds", "gpu_seconds"), ("cost_usd_micros", "usd_micros")):
        family = _counter(name, told[name], ["model", "task"])
        for labels, number in _summed(sums, value, 2, 3).items():
            family.add_metric(labels, number)
        yield family
    latency = HistogramMetricFamily(
        "tenkaigen_gpu_call_duration_seconds",
        f"Seconds from the hand-over of a call to its end. {ALL}",
        labels=["model", "task"],
    )
    for model, task in _summed(sums, "n", 2, 3):
        of_these = {key: number for key, number in sums.items() if key[2:4] == (model, task)}
        latency.add_metric([model, task], *_distribution(of_these, CALL_BOUNDS))
    yield latency


def _counter(name: str, what: str, labels: list[str]) -> CounterMetricFamily:
    return CounterMetricFamily(f"tenkaigen_{name}", f"{what} {ALL}", labels=labels)


def _summed(sums: dict[Key, float], value: str, *places: int) -> defaultdict[Key, float]:
    """One value, by what stands at these places of the keys."""
    found: defaultdict[Key, float] = defaultdict(float)
    for key, number in sums.items():
        if key[0] == value:
            found[tuple(key[place] for place in places)] += number
    return found


def _distribution(sums: dict[Key, float], bounds: tuple[float, ...]) -> tuple[list[tuple[str, float]], float]:
    """Cumulative buckets, and the sum; what has no bucket was not measured."""
    counts = _summed(sums, "n", 1)
    buckets, below = [], 0.0
    for place, bound in enumerate([*map(str, bounds), "+Inf"]):
        below += counts[(place,)]
        buckets.append((bound, below))
    measured = {key: number for key, number in sums.items() if key[1] is not None}
    return buckets, sum(_summed(measured, "seconds", 0).values())
