"""What goes in and out of ``/v1/usage``, ``/v1/budget`` and ``/v1/admin``."""

import datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

GroupBy = Literal["day", "model", "style", "user", "character", "task"]
Period = Literal["day", "month"]


def _no_switch(value: object) -> object:
    """`false` would be a limit of nothing."""
    if isinstance(value, bool):
        raise ValueError("must be a number")
    return value


Micros = Annotated[int, BeforeValidator(_no_switch), Field(ge=0, le=10**15)]
Count = Annotated[int, BeforeValidator(_no_switch), Field(ge=0, le=10**9)]


class Usage(BaseModel):
    """Calls that ended; ``jobs`` are those they belong to, ``images`` what completed jobs have of them."""

    jobs: int
    images: int
    calls: int
    gpu_seconds: float
    cost_usd_micros: int


class UsageRow(Usage):
    key: str | None = Field(description="The day, model, style, user, character or task; null: none.")


class Idle(BaseModel):
    """Over the days whose bill is known: what was billed beyond the calls of all users."""

    billed_usd_micros: int
    idle_usd_micros: int
    idle_share: float


class UsageReport(BaseModel):
    object: Literal["usage"] = "usage"
    start: datetime.datetime = Field(serialization_alias="from")
    end: datetime.datetime = Field(serialization_alias="to")
    group_by: GroupBy
    user_id: UUID | None = Field(description="Whose usage this is; null: everybody's.")
    data: list[UsageRow]
    total: Usage
    idle: Idle | None = Field(description="Null where no bill is known for these days.")


class Projection(BaseModel):
    images: int
    cost_usd_micros: int


class Rounded(BaseModel):
    """The customary figure, 0.015 $ an image, beside the exact one."""

    per_image_usd_micros: int
    images: list[Projection]


class Forecast(BaseModel):
    """Without idle time, which no picture causes."""

    object: Literal["forecast"] = "forecast"
    images: int
    model: str | None
    gpu: str
    basis: Literal["measured", "scaled", "catalogue", "price_table"] = Field(
        description="`measured` and `scaled`: medians of calls; `catalogue`: the model's published or "
        "guessed time; `price_table`: 45 seconds an image."
    )
    samples: int = Field(description="Calls measured.")
    seconds_per_image: float
    gpu_usd_micros_per_hour: int | None
    per_image_usd_micros: int
    estimated_usd_micros: int
    low: int
    high: int
    exact: list[Projection]
    rounded: Rounded


class BudgetWrite(BaseModel):
    """Replaces the whole budget; null is no limit."""

    model_config = ConfigDict(extra="forbid")

    period: Period = "month"
    limit_usd_micros: Micros | None = None
    max_concurrent: Annotated[int, BeforeValidator(_no_switch), Field(ge=1, le=10_000)] | None = None
    max_images_per_day: Count | None = None
    max_gpu_seconds_per_day: Count | None = None


class BudgetState(BudgetWrite):
    model_config = ConfigDict(extra="ignore")

    starts_at: datetime.datetime = Field(description="Of the period; days and months are UTC's.")
    resets_at: datetime.datetime
    spent_usd_micros: int
    reserved_usd_micros: int = Field(description="Held by jobs that have not ended.")
    remaining_usd_micros: int | None
    images_today: int
    gpu_seconds_today: float


class Budget(BudgetState):
    """A user's own budget; whoever administers the service may have set a ceiling, which holds as well."""

    object: Literal["budget"] = "budget"
    user_id: UUID
    ceiling: BudgetState | None


class AdminBudget(BudgetState):
    """The ceiling of a user's budget, and the one that the user has set below it."""

    object: Literal["budget"] = "budget"
    user_id: UUID
    own: BudgetState | None


class JobStats(BaseModel):
    by_status: dict[str, int]
    failed_today: int
    oldest_queued_seconds: float


class CallStats(BaseModel):
    """Of the calls that ended today, UTC."""

    by_status: dict[str, int]
    running: int
    gpu_seconds: float
    cost_usd_micros: int
    error_rate: float | None
    latency_p50_seconds: float | None = Field(description="From the claim to the end, waiting included.")
    latency_p95_seconds: float | None
    gpu_seconds_p50: float | None
    gpu_seconds_p95: float | None


class StorageStats(BaseModel):
    images: int
    bytes: int


class BusyUser(BaseModel):
    user_id: UUID
    jobs: int
    cost_usd_micros: int


class UserStats(BaseModel):
    active_today: int
    active_30_days: int
    busiest: list[BusyUser]


class WebhookStats(BaseModel):
    received: int
    missed: int = Field(description="Calls whose end was found by asking, not told by an event.")
    outbox_waiting: int
    deliveries: dict[str, int] = Field(description="To users' endpoints, of today, by how they went.")


class PollingStats(BaseModel):
    requests_per_minute: float = Field(description="For the status of jobs, at this gateway, of late.")


class Stats(BaseModel):
    object: Literal["stats"] = "stats"
    jobs: JobStats
    calls: CallStats
    storage: StorageStats
    users: UserStats
    webhooks: WebhookStats
    polling: PollingStats
