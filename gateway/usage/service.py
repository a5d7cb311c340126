"""What was used, by whom and for what, and how the whole stands."""

import datetime
from uuid import UUID

from psycopg.rows import DictRow

from gateway.auth import Principal
from gateway.errors import Forbidden, Malformed
from gateway.usage import schemas
from gateway.usage.polling import Polling
from gateway.usage.repository import UsageRows

DAYS = 30
"""Of a report that names no start."""
STATUSES = ("queued", "processing", "completed", "failed", "canceled")
DELIVERIES = ("pending", "delivered", "failed")


class UsageService:
    """Reports on what has run; see ``Forecasts`` and ``Estimator`` for what has not."""

    def __init__(self, rows: UsageRows) -> None:
        self._rows = rows
        self.polling = Polling()

    async def report(
        self,
        caller: Principal,
        group_by: schemas.GroupBy,
        start: datetime.datetime | None,
        end: datetime.datetime | None,
        user: str | None,
    ) -> schemas.UsageReport:
        """Of the caller, or of whomever an administrator names; Forbidden for others."""
        user_id = _whose(caller, group_by, user)
        start, end = _span(start, end)
        data = [_row(row) for row in await self._rows.usage(group_by, start, end, user_id)]
        return schemas.UsageReport(
            start=start,
            end=end,
            group_by=group_by,
            user_id=user_id,
            data=data,
            total=await self._total(data, group_by, start, end, user_id),
            idle=_idle(await self._rows.idle(start, end)),
        )

    async def stats(self) -> schemas.Stats:
        found = await self._rows.stats()
        jobs, calls = found["jobs"], found["calls"]
        return schemas.Stats(
            jobs=schemas.JobStats(
                by_status={status: jobs["by_status"].get(status, 0) for status in STATUSES},
                failed_today=jobs["failed_today"],
                oldest_queued_seconds=round(jobs["oldest"], 3),
            ),
            calls=_call_stats(calls),
            storage=schemas.StorageStats(**found["storage"]),
            users=schemas.UserStats(**found["users"]),
            webhooks=_webhook_stats(found["webhooks"]),
            polling=schemas.PollingStats(requests_per_minute=self.polling.per_minute),
        )

    async def _total(
        self,
        data: list[schemas.UsageRow],
        group_by: schemas.GroupBy,
        start: datetime.datetime,
        end: datetime.datetime,
        user_id: UUID | None,
    ) -> schemas.Usage:
        """The sum; a job may have calls of several days or tasks, and is one."""
        jobs = sum(row.jobs for row in data)
        if group_by in ("day", "model", "task") and len(data) > 1:
            jobs = sum(row["jobs"] for row in await self._rows.usage("user", start, end, user_id))
        return schemas.Usage(
            jobs=jobs,
            images=sum(row.images for row in data),
            calls=sum(row.calls for row in data),
            gpu_seconds=round(sum(row.gpu_seconds for row in data), 3),
            cost_usd_micros=sum(row.cost_usd_micros for row in data),
        )


def _whose(caller: Principal, group_by: str, user: str | None) -> UUID | None:
    """The user whose usage may be shown; None for everybody's."""
    if user is None and group_by != "user":
        return caller.user_id
    if user == str(caller.user_id) and group_by != "user":
        return caller.user_id
    if "admin" not in caller.scopes:
        raise Forbidden("The usage of others takes a credential with the scope `admin`.")
    if user in (None, "all"):
        return None
    try:
        return UUID(user)
    except ValueError:
        raise Malformed("`user_id` is neither an id nor `all`.", param="user_id") from None


def _span(
    start: datetime.datetime | None, end: datetime.datetime | None
) -> tuple[datetime.datetime, datetime.datetime]:
    """From and up to but not including, in UTC; Malformed where nothing lies between."""
    until = _utc(end) if end else datetime.datetime.now(datetime.UTC)
    since = _utc(start) if start else until - datetime.timedelta(days=DAYS)
    if since >= until:
        raise Malformed("`from` has to lie before `to`.", code="invalid_range", param="from")
    return since, until


def _utc(time: datetime.datetime) -> datetime.datetime:
    return time.replace(tzinfo=datetime.UTC) if time.tzinfo is None else time.astimezone(datetime.UTC)


def _row(row: DictRow) -> schemas.UsageRow:
    return schemas.UsageRow(**{**row, "gpu_seconds": float(row["gpu_seconds"])})


def _idle(row: DictRow) -> schemas.Idle | None:
    billed = row["billed_usd_micros"]
    if not billed:
        return None
    idle = billed - row["charged_usd_micros"]
    return schemas.Idle(billed_usd_micros=billed, idle_usd_micros=idle, idle_share=round(idle / billed, 4))


def _webhook_stats(webhooks: DictRow) -> schemas.WebhookStats:
    deliveries = {status: webhooks["deliveries"].get(status, 0) for status in DELIVERIES}
    return schemas.WebhookStats(**{**webhooks, "deliveries": deliveries})


def _call_stats(calls: DictRow) -> schemas.CallStats:
    latency, seconds = calls["latency"] or (None, None), calls["seconds"] or (None, None)
    same = ("by_status", "running", "gpu_seconds", "cost_usd_micros", "error_rate")
    return schemas.CallStats(
        **{name: calls[name] for name in same},
        latency_p50_seconds=latency[0],
        latency_p95_seconds=latency[1],
        gpu_seconds_p50=seconds[0],
        gpu_seconds_p95=seconds[1],
    )
