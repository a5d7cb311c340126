"""What goes in and out of ``/v1/batches``."""

import datetime
from typing import Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from gateway.jobs.schemas import (
    EstimateWarning,
    Image,
    Job,
    JobCost,
    JobCreate,
    JobError,
    JobEstimate,
    JobStatus,
)

REQUESTS_LIMIT = 100

BatchStatus = Literal["queued", "processing", "completed", "failed", "canceled"]


class BatchCreate(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "example": {
                "requests": [
                    {"prompt": "a red round creature on a beach"},
                    {"prompt": "a blue square creature in a forest", "style": "Anime"},
                ]
            }
        },
    )

    requests: list[JobCreate] = Field(min_length=1, max_length=REQUESTS_LIMIT)


class RequestCounts(BaseModel):
    total: int
    queued: int
    processing: int
    completed: int
    failed: int
    canceled: int


class BatchSummary(BaseModel):
    """How a batch stands.  One that has ended is ``completed`` if any of its jobs is: see the counts."""

    object: Literal["batch"] = "batch"
    id: UUID
    status: BatchStatus
    request_counts: RequestCounts
    cost: JobCost
    created_at: datetime.datetime
    finished_at: datetime.datetime | None


class Batch(BatchSummary):
    """With its jobs, in the order of the requests."""

    jobs: list[Job]


class BatchList(BaseModel):
    object: Literal["list"] = "list"
    data: list[BatchSummary]
    has_more: bool
    first_id: UUID | None
    last_id: UUID | None


class BatchResult(BaseModel):
    """What has come of one request."""

    object: Literal["batch.result"] = "batch.result"
    index: int
    job_id: UUID
    status: JobStatus
    images: list[Image]
    error: JobError | None
    cost: JobCost


class BatchResults(BaseModel):
    object: Literal["list"] = "list"
    data: list[BatchResult]
    has_more: bool = False


class BatchEstimate(BaseModel):
    """Sums in micro-dollars, the time until the last job has ended, and which limits the whole would pass."""

    object: Literal["batch.estimate"] = "batch.estimate"
    estimated_usd_micros: int
    low: int
    high: int
    eta_seconds: float | None
    requests: list[JobEstimate] = Field(
        description="In their order. The first that fits no more, and those after it, tell of a limit."
    )
    warnings: list[EstimateWarning]
