"""Rows as the API shows them."""

from collections.abc import Mapping
from typing import Any

from gateway.jobs import schemas
from gateway.jobs.lifecycle import TERMINAL
from gateway.storage import Bucket
from modal_app import catalog

SIGNED_SECONDS = 900
"""How long the address of a private picture works."""


class Renderer:
    """Turns rows into answers; knows where this gateway and its bucket are reached."""

    def __init__(self, public_url: str, bucket: Bucket) -> None:
        self._public_url = public_url
        self._bucket = bucket

    def job(self, row: Mapping[str, Any]) -> schemas.Job:
        ended = row["status"] in TERMINAL
        return schemas.Job(
            **{name: row[name] for name in _SAME},
            progress=_progress(row),
            eta_seconds=None if ended else _eta_seconds(row),
            poll_after_ms=schemas.POLL_AFTER_MS,
            prompt=_prompt(row),
            params=_params(row),
            images=[self.image(asset) for asset in row["images"]],
            error=_error(row),
            cost=_cost(row),
            timing=_timing(row),
        )

    def image(self, asset: Mapping[str, Any]) -> schemas.Image:
        extension = asset["key"].rpartition(".")[2]
        page = f"{self._public_url}/images/{asset['id']}"
        public = asset["visibility"] == "public"
        return schemas.Image(
            **{name: asset[name] for name in schemas.Image.model_fields if name in asset},
            url=f"{page}.{extension}" if public else self._bucket.sign_get(asset["key"], SIGNED_SECONDS),
            thumbnail_url=f"{self._public_url}/v1/images/{asset['id']}/thumbnail",
        )

    def result_url(self, row: Mapping[str, Any]) -> str | None:
        """Where the first picture is, for the compatibility paths."""
        return self.image(row["images"][0]).url if row["images"] else None


_SAME = (
    *("id", "status", "stage", "step", "steps", "queue_position", "task", "model", "style", "priority"),
    *("attempt", "parent_id", "retry_of", "metadata", "created_at", "started_at", "finished_at"),
)


def etag(row: Mapping[str, Any]) -> str:
    """Changes with everything a client can see of a job."""
    return f'W/"{row["version"]}-{row["progress_seq"]}-{row["cost_usd_micros"]}-{row["queue_position"] or 0}"'


def _progress(row: Mapping[str, Any]) -> float:
    if row["status"] == "completed":
        return 1.0
    return round(min(1.0, row["step"] / row["steps"]), 3) if row["steps"] else 0.0


def _eta_seconds(row: Mapping[str, Any]) -> float | None:
    """Seconds to go: every picture ahead in the caller's own queue, then this one."""
    model = catalog.find(row["model"])
    if model is None:
        return None
    pictures = row["num_images"] * (row["queue_position"] or 1)
    return float(round(model.est_seconds * pictures * (1 - _progress(row)), 1))


def _prompt(row: Mapping[str, Any]) -> schemas.JobPrompt:
    return schemas.JobPrompt(
        input=row["prompt_input"],
        enhanced=row["prompt_enhanced"],
        final=row["prompt_final"],
        negative=row["prompt_negative"],
        enhance_status=row["enhance_status"],
    )


def _params(row: Mapping[str, Any]) -> dict[str, Any]:
    named = ("width", "height", "num_images", "seed", "loras")
    uses = [{name: use[name] for name in ("image_id", "role")} for use in row["references"]]
    return {**row["params"], **{name: row[name] for name in named}, "references": uses}


def _error(row: Mapping[str, Any]) -> schemas.JobError | None:
    if row["error_code"] is None:
        return None
    return schemas.JobError(
        code=row["error_code"],
        message=row["error_message"] or "",
        retryable=bool(row["error_retryable"]),
        stage=row["error_stage"],
    )


def _cost(row: Mapping[str, Any]) -> schemas.JobCost:
    return schemas.JobCost(
        estimated_usd_micros=row["estimated_usd_micros"],
        usd_micros=row["cost_usd_micros"],
        gpu_seconds=float(row["gpu_seconds"]),
    )


def _timing(row: Mapping[str, Any]) -> schemas.JobTiming:
    queue, run = row["queue_time_ms"], row["processing_time_ms"]
    return schemas.JobTiming(
        queue_ms=queue,
        gpu_ms=round(float(row["gpu_seconds"]) * 1000),
        total_ms=None if queue is None or run is None else queue + run,
    )
