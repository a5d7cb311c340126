"""Numbers and times as people read them."""

import datetime
from collections.abc import Mapping
from typing import Any

MINUTE, HOUR, DAY = 60, 3600, 86_400
ENDED = ("completed", "failed", "canceled")
STAGES = {
    "enhancing": "Enhancing the prompt",
    "loading": "Starting a GPU, about 40 s",
    "generating": "Drawing",
    "storing": "Saving the picture",
    "judging": "Comparing with the references",
}
STATUSES = {"completed": "Done", "failed": "Failed", "canceled": "Canceled", "processing": "Working"}


def money(micros: int | None) -> str:
    """Dollars, with as many digits as small amounts need."""
    dollars = (micros or 0) / 1_000_000
    if dollars >= 1 or dollars == 0:
        return f"${dollars:,.2f}"
    return f"${dollars:.4f}" if dollars >= 0.0001 else f"${dollars:.6f}"


def dollars(micros: int) -> str:
    """Exact, without the zeros behind: for the scale of a chart."""
    return f"${micros / 1_000_000:.6f}".rstrip("0").rstrip(".")


def seconds(value: float | None) -> str:
    """A duration in seconds: ``0.42 s``, ``12 s``, ``3 min 20 s``."""
    if value is None:
        return "–"
    if value < 10:
        return f"{value:.2f} s"
    if value < MINUTE:
        return f"{value:.0f} s"
    return f"{value // MINUTE:.0f} min {value % MINUTE:.0f} s"


def milliseconds(value: float | None) -> str:
    return "–" if value is None else seconds(value / 1000)


def ago(time: str | None) -> str:
    """How long ago a time of the API was."""
    if not time:
        return "–"
    then = moment(time)
    passed = (datetime.datetime.now(datetime.UTC) - then).total_seconds()
    if passed < MINUTE:
        return "just now"
    if passed < HOUR:
        return f"{passed // MINUTE:.0f} min ago"
    return f"{passed // HOUR:.0f} h ago" if passed < DAY else day(time)


def day(time: str) -> str:
    """``7 Nov``."""
    then = moment(time)
    return f"{then.day} {then:%b}"


def clock(time: str | None) -> str:
    """``2026-11-07 14:03:21`` UTC."""
    return f"{moment(time):%Y-%m-%d %H:%M:%S}" if time else "–"


def moment(time: str) -> datetime.datetime:
    return datetime.datetime.fromisoformat(time.replace("Z", "+00:00")).astimezone(datetime.UTC)


def status(job: Mapping[str, Any]) -> str:
    """What a job does now, in words."""
    if job["status"] == "queued":
        before = (job["queue_position"] or 1) - 1
        return f"Queued, {before} before it" if before else "Queued"
    if job["status"] != "processing":
        return STATUSES[job["status"]]
    stage = STAGES.get(job["stage"] or "", STATUSES["processing"])
    return f"{stage}, step {job['step']} of {job['steps']}" if job["step"] else stage
