"""What the database refuses because of a budget or a quota, as a problem that says so.

The trigger ``reserve_costs`` raises ``TK402`` with the limit and what counts against it as its detail.
"""

import datetime
import json
from typing import Any

import psycopg

from gateway.errors import ApiError, OverBudget, OverQuota

OVER_A_LIMIT = "TK402"
"""SQLSTATE of the trigger."""

NO_RETRY = {"x-should-retry": "false"}
"""What OpenAI's SDKs heed."""


def refusal(error: psycopg.DatabaseError) -> ApiError | None:
    """OverBudget or OverQuota; None when the error is about something else."""
    if error.diag.sqlstate != OVER_A_LIMIT:
        return None
    over = json.loads(error.diag.message_detail or "{}")
    return _over_budget(over) if over["over_budget"] else _over_quota(over)


def _over_budget(over: dict[str, Any]) -> OverBudget:
    return OverBudget(
        f"This would pass {_whose(over)} budget of {_dollars(over['limit_usd_micros'])} a {over['period']}: "
        f"{_dollars(over['spent_usd_micros'])} are spent, and with it "
        f"{_dollars(over['reserved_usd_micros'])} would be reserved for jobs that have not ended.",
        set_by=over["set_by"],
        headers=NO_RETRY,
    )


def _over_quota(over: dict[str, Any]) -> OverQuota:
    images, most = over["images_today"], over["max_images_per_day"]
    if most is not None and images > most:
        quota = f"{most} images"
    else:
        quota = f"{over['max_gpu_seconds_per_day']} GPU seconds"
    return OverQuota(
        f"This would pass {_whose(over)} quota of {quota} a day.",
        headers={**NO_RETRY, "Retry-After": str(_seconds_of_today_left())},
    )


def _whose(over: dict[str, Any]) -> str:
    return "your" if over["set_by"] == "user" else "the administrator's"


def _dollars(micros: int) -> str:
    return f"{micros / 1e6:.6f} $"


def _seconds_of_today_left() -> int:
    now = datetime.datetime.now(datetime.UTC)
    return 86_400 - now.hour * 3600 - now.minute * 60 - now.second
