"""What goes in and out of ``/v1/webhook-endpoints``."""

import datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

EventName = Literal[
    "*",
    "job.completed",
    "job.failed",
    "job.canceled",
    "character.ready",
    "character.failed",
    "panel.ready",
    "panel.failed",
    "panel.low_consistency",
    "budget.warning",
    "budget.exceeded",
]
Url = Annotated[str, Field(min_length=1, max_length=2000)]
Events = Annotated[list[EventName], Field(min_length=1, max_length=20)]
Description = Annotated[str, Field(max_length=200, pattern=r"^[^\x00]*$")]


class EndpointCreate(BaseModel):
    """``events`` are those to be told; ``*`` is all."""

    model_config = ConfigDict(extra="forbid")

    url: Url
    events: Events = ["*"]
    description: Description = ""


class EndpointChange(BaseModel):
    """``enabled: true`` takes up what is waiting for an endpoint that was disabled."""

    model_config = ConfigDict(extra="forbid")

    url: Url | None = None
    events: Events | None = None
    description: Description | None = None
    enabled: bool | None = None


class Endpoint(BaseModel):
    """``disabled_reason``: by its owner, because it answered 410, or because nothing succeeded for days."""

    object: Literal["webhook_endpoint"] = "webhook_endpoint"
    id: UUID
    url: str
    description: str
    events: list[str]
    enabled: bool
    disabled_reason: Literal["by_user", "gone", "failing"] | None
    previous_until: datetime.datetime | None
    failing_since: datetime.datetime | None
    created_at: datetime.datetime


class EndpointWithSecret(Endpoint):
    """The secret is shown this once."""

    secret: str


class EndpointList(BaseModel):
    object: Literal["list"] = "list"
    data: list[Endpoint]
    has_more: bool
    first_id: UUID | None
    last_id: UUID | None


class Delivery(BaseModel):
    """One event on its way to one endpoint, and how the last try went."""

    object: Literal["webhook_delivery"] = "webhook_delivery"
    id: UUID
    endpoint_id: UUID
    event_id: UUID
    event_type: str
    job_id: UUID | None
    redelivery_of: UUID | None
    status: Literal["pending", "delivered", "failed"]
    attempts: int
    next_attempt_at: datetime.datetime | None
    response_status: int | None
    response_body: str | None
    error: str | None
    duration_ms: int | None
    occurred_at: datetime.datetime
    created_at: datetime.datetime
    delivered_at: datetime.datetime | None


class DeliveryList(BaseModel):
    object: Literal["list"] = "list"
    data: list[Delivery]
    has_more: bool
    first_id: UUID | None
    last_id: UUID | None
