"""Rows as the API shows them."""

import base64
import json
import time
import zlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import structlog

from gateway.jobs import schemas
from gateway.jobs.lifecycle import TERMINAL
from gateway.jobs.plans import POLL_AFTER_MS, Plans
from gateway.storage import Buckets, StorageError
from gateway.usage.estimator import Estimator

log = structlog.get_logger()

SIGNED_SECONDS = 900
"""How long the address of a private picture works."""

Row = Mapping[str, Any]
Addresses = Mapping[tuple[str, str], str]
"""Signed addresses by bucket and key."""


def preview(seen: Row) -> schemas.Preview:
    """How a picture looks so far, from its row."""
    content = base64.b64encode(seen["content"]).decode()
    return schemas.Preview(n=seen["n"], content_type=seen["content_type"], b64_json=content)


class Renderer:
    """Turns rows into answers; knows where this gateway and its buckets are reached.

    The private pictures of a whole answer are signed in one call for each bucket; public ones need none.
    """

    def __init__(self, public_url: str, buckets: Buckets, plans: Plans, estimator: Estimator) -> None:
        self._public_url = public_url
        self._buckets = buckets
        self._plans = plans
        self._estimator = estimator

    async def job(self, row: Row) -> schemas.Job:
        return (await self.jobs([row]))[0]

    async def jobs(self, rows: Sequence[Row]) -> list[schemas.Job]:
        signed = await self._signed(asset for row in rows for asset in row["images"])
        return [self._job(row, signed) for row in rows]

    async def event(self, row: Row) -> schemas.Job:
        """The job, and how its pictures look so far where the row says."""
        job, seen = await self.job(row), row.get("preview")
        if seen is None:
            return job
        return schemas.JobPreview(**vars(job), preview=preview(seen))

    async def image(self, asset: Row) -> schemas.Image:
        return (await self.images([asset]))[0]

    async def images(self, assets: Sequence[Row]) -> list[schemas.Image]:
        signed = await self._signed(assets)
        return [self._image(asset, signed) for asset in assets]

    async def result_url(self, row: Row) -> str | None:
        """Where the first picture is, for the compatibility paths."""
        return (await self.image(row["images"][0])).url if row["images"] else None

    async def _signed(self, assets: Iterable[Row]) -> Addresses:
        """Addresses of those that are private.

        A bucket that cannot sign right now costs no answer: `_image` has an address to stand in.
        """
        keys: defaultdict[str, list[str]] = defaultdict(list)
        for asset in assets:
            if asset["visibility"] != "public":
                keys[asset["bucket"]].append(asset["key"])
        signed: dict[tuple[str, str], str] = {}
        for name, wanted in keys.items():
            try:
                found = await self._buckets[name].sign_get(wanted, SIGNED_SECONDS)
            except StorageError as error:
                log.warning("pictures_not_signed", bucket=name, count=len(wanted), error=str(error))
            else:
                signed |= {(name, key): address for key, address in found.items()}
        return signed

    def _job(self, row: Row, signed: Addresses) -> schemas.Job:
        ended = row["status"] in TERMINAL
        return schemas.Job(
            **{name: row[name] for name in _SAME},
            progress=_progress(row),
            eta_seconds=None if ended else self._estimator.eta_seconds(row),
            task=_task(row),
            poll_after_ms=self._poll_after_ms(row),
            prompt=_prompt(row),
            params=_params(row),
            result=row["state"].get("result"),
            replay=_replay(row),
            images=[self._image(asset, signed) for asset in row["images"]],
            error=_error(row),
            cost=_cost(row),
            timing=_timing(row),
        )

    def _poll_after_ms(self, row: Row) -> int:
        plan = self._plans.get(_task(row))
        return plan.poll_after_ms if plan else POLL_AFTER_MS

    def _image(self, asset: Row, signed: Addresses) -> schemas.Image:
        page = f"{self._public_url}/v1/images/{asset['id']}"
        return schemas.Image(
            **{name: asset[name] for name in schemas.Image.model_fields if name in asset},
            url=self._address(asset, signed) or f"{page}/content",
            thumbnail_url=self._thumbnail(asset),
        )

    def _thumbnail(self, asset: Row) -> str:
        if asset["visibility"] == "public":
            return f"{self._public_url}/images/{asset['id']}/thumbnail.webp"
        return f"{self._public_url}/v1/images/{asset['id']}/thumbnail"

    def _address(self, asset: Row, signed: Addresses) -> str | None:
        """An address that needs no credential; None where the bucket signed none."""
        if asset["visibility"] != "public":
            return signed.get((asset["bucket"], asset["key"]))
        extension = asset["key"].rpartition(".")[2]
        return f"{self._public_url}/images/{asset['id']}.{extension}"


_SAME = (
    *("id", "status", "stage", "step", "steps", "queue_position", "model", "style", "priority"),
    *("attempt", "parent_id", "batch_id", "retry_of", "metadata", "created_at", "started_at", "finished_at"),
)


def _task(row: Mapping[str, Any]) -> str:
    """What the job is for: a character, say, whose calls and children draw pictures."""
    return str(row["plan"] or row["task"])


def etag(row: Mapping[str, Any]) -> str:
    """Changes with everything a client can see of a job."""
    seen = (row["version"], row["progress_seq"], row["cost_usd_micros"], row["queue_position"] or 0)
    noted = zlib.crc32(json.dumps(row["metadata"], sort_keys=True).encode())
    return f'W/"{"-".join(map(str, seen))}-{noted:x}-{_shown(row["images"])}"'


def jobs_etag(rows: Sequence[Row]) -> str:
    """Changes with everything a client can see of a page of jobs."""
    return f'W/"{zlib.crc32("".join(etag(row) for row in rows).encode()):x}"'


def images_etag(assets: Sequence[Row]) -> str:
    """Changes with everything a client can see of a page of pictures."""
    return f'W/"{_shown(assets)}"'


def _shown(assets: Sequence[Row]) -> str:
    """Changes with the pictures, and in time for the signed addresses of private ones."""
    private = any(asset["visibility"] != "public" for asset in assets)
    period = int(time.time() // (SIGNED_SECONDS / 2)) if private else 0
    seen = ",".join(f"{asset['id']}{asset['visibility']}" for asset in assets)
    return f"{zlib.crc32(seen.encode()):x}-{period:x}"


def _progress(row: Mapping[str, Any]) -> float:
    if row["status"] == "completed":
        return 1.0
    return round(min(1.0, row["step"] / row["steps"]), 3) if row["steps"] else 0.0


def _prompt(row: Mapping[str, Any]) -> schemas.JobPrompt:
    return schemas.JobPrompt(
        input=row["prompt_input"],
        enhanced=row["prompt_enhanced"],
        final=row["prompt_final"],
        negative=row["prompt_negative"],
        enhance_status=row["enhance_status"],
    )


def _params(row: Mapping[str, Any]) -> dict[str, Any]:
    if row["task"] not in ("image", "upscale"):
        return dict(row["inputs"].get("request", {}))
    named = {name: row[name] for name in ("width", "height", "num_images", "seed")}
    references = _without_files(row["references"], "image_id", "upload_id", "url", "role")
    loras = _without_files(row["loras"], "lora", "name", "scale", "sha256", "fit", "franchise")
    source = {name: row["inputs"][name] for name in ("variation_of",) if name in row["inputs"]}
    return {**row["params"], **source, **named, "loras": loras, "references": references}


def _without_files(uses: list[dict[str, Any]], *names: str) -> list[dict[str, Any]]:
    return [{name: use[name] for name in names if name in use} for use in uses]


def _replay(row: Mapping[str, Any]) -> schemas.Replayed | None:
    expected = row["inputs"].get("replay")
    if expected is None:
        return None
    nothing: dict[str, Any] = {"equal": None, "pixels_sha256": None, "fingerprint_differences": []}
    found = row["state"].get("replay", nothing)
    return schemas.Replayed(
        checked=expected["checked"], expected_pixels_sha256=expected["pixels_sha256"], **found
    )


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
