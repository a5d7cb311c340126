"""Batches as the API shows them."""

from collections.abc import Mapping, Sequence
from typing import Any

from gateway.batches import schemas
from gateway.jobs.rendering import Renderer
from gateway.jobs.schemas import JobCost

Row = Mapping[str, Any]


def summary(row: Row) -> schemas.BatchSummary:
    return schemas.BatchSummary(**_facts(row))


async def batch(row: Row, jobs: Sequence[Row], render: Renderer) -> schemas.Batch:
    return schemas.Batch(**_facts(row), jobs=await render.jobs(jobs))


async def results(jobs: Sequence[Row], render: Renderer) -> schemas.BatchResults:
    shown = await render.jobs(jobs)
    return schemas.BatchResults(
        data=[
            schemas.BatchResult(
                index=row["batch_position"],
                job_id=job.id,
                status=job.status,
                images=job.images,
                error=job.error,
                cost=job.cost,
            )
            for row, job in zip(jobs, shown, strict=True)
        ]
    )


def _facts(row: Row) -> dict[str, Any]:
    counts = schemas.RequestCounts(**{name: row[name] for name in schemas.RequestCounts.model_fields})
    cost = JobCost(**{name: row[name] for name in JobCost.model_fields})
    same = {name: row[name] for name in ("id", "created_at", "finished_at")}
    return {**same, "status": status(counts), "request_counts": counts, "cost": cost}


def status(counts: schemas.RequestCounts) -> schemas.BatchStatus:
    """Of the whole: pictures count for more than failures, and failures for more than what was called off."""
    if counts.queued == counts.total:
        return "queued"
    if counts.queued or counts.processing:
        return "processing"
    if counts.completed:
        return "completed"
    return "failed" if counts.failed else "canceled"
