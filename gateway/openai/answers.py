"""From an ended job to OpenAI's answer: pure functions."""

import base64
import datetime
import math
from collections.abc import Mapping, Sequence
from typing import Any

from gateway.errors import ApiError, BadRequest, Conflict, JobFailed, OverBudget, TimedOut
from gateway.jobs.schemas import Image
from gateway.jobs.service import Created
from gateway.openai import schemas
from gateway.openai.schemas import ImageGeneration
from modal_app import catalog

PIXELS_PER_TOKEN = 16 * 16
"""What one token of Qwen-Image's transformer covers: eight pixels of the VAE, patches of two."""
CHARACTERS_PER_TOKEN = 4
"""OpenAI's rule of thumb."""
FOR_GOOD = {"x-should-retry": "false"}
"""The job has ended: asking again would be another job."""

_AT_FAULT = frozenset({"unsupported_parameter", "invalid_picture", "invalid_lora"})
"""Codes of failures that the request brought with it."""

Row = Mapping[str, Any]


def images_response(
    created: Created, asked: ImageGeneration, images: Sequence[Image], contents: Sequence[bytes]
) -> schemas.ImagesResponse:
    """The answer to a completed job.  Without the pictures' ``contents`` their addresses are told."""
    row = created.row
    told: list[bytes | None] = [*contents] or [None] * len(images)
    data = [_data(row, image, content) for image, content in zip(images, told, strict=True)]
    return schemas.ImagesResponse(
        **drawn(row, asked),
        created=_seconds(row["created_at"]),
        data=data,
        usage=usage(row, len(images)),
        **_job(created),
    )


def completed_events(
    created: Created, asked: ImageGeneration, kind: str, images: Sequence[Image], contents: Sequence[bytes]
) -> list[schemas.CompletedImage]:
    """One event for each picture; ``kind`` is ``image_generation`` or ``image_edit``."""
    row = created.row
    return [
        schemas.CompletedImage(
            **drawn(row, asked),
            **_data(row, image, content).model_dump(),
            type=f"{kind}.completed",
            created_at=_seconds(row["finished_at"]),
            usage=usage(row, 1),
            **_job(created),
        )
        for image, content in zip(images, contents, strict=True)
    ]


def drawn(row: Row, asked: ImageGeneration) -> dict[str, Any]:
    return {
        "size": f"{row['width']}x{row['height']}",
        "quality": _quality(row),
        "output_format": row["params"]["output_format"],
        "safety_identifier": asked.end_user,
    }


def usage(row: Row, pictures: int) -> schemas.Tokens:
    """Of ``pictures`` of the job."""
    model = catalog.find(row["model"])
    seen = len([use for use in row["references"] if use["role"] != "mask"])
    text = math.ceil(len(row["prompt_final"]) / CHARACTERS_PER_TOKEN)
    image = seen * (model.reference_pixels if model else 0) // PIXELS_PER_TOKEN
    out = pictures * math.ceil(row["width"] * row["height"] / PIXELS_PER_TOKEN)
    return schemas.Tokens(
        input_tokens=text + image,
        input_tokens_details=schemas.InputTokens(text_tokens=text, image_tokens=image),
        output_tokens=out,
        output_tokens_details=schemas.InputTokens(text_tokens=0, image_tokens=out),
        total_tokens=text + image + out,
    )


def failure(row: Row) -> ApiError:
    """Why a job ended without pictures, as the error that OpenAI's SDKs raise."""
    code, message = row["error_code"] or "job_failed", row["error_message"] or "The job failed."
    headers = {**FOR_GOOD, "Location": f"/v1/jobs/{row['id']}"}
    if row["status"] == "canceled":
        return Conflict("The job was canceled.", code="job_canceled", headers=headers)
    if code in _AT_FAULT:
        return BadRequest(message, code=code, headers=headers)
    if code == "cost_limit_reached":
        return OverBudget(message, code=code, headers=headers)
    if code == "expired":
        return TimedOut(message, code=code, headers=headers)
    return JobFailed(message, code=code, headers=headers, retryable=bool(row["error_retryable"]))


def _job(created: Created) -> dict[str, Any]:
    """The job behind the pictures, and what they have cost this request."""
    cost = 0 if created.cached else created.row["cost_usd_micros"]
    return {"job_id": created.row["id"], "cost_usd_micros": cost, "cached": created.cached}


def _data(row: Row, image: Image, content: bytes | None) -> schemas.ImageData:
    shown = {"url": image.url} if content is None else {"b64_json": base64.b64encode(content).decode()}
    return schemas.ImageData(**shown, revised_prompt=row["prompt_final"], id=image.id, seed=image.seed)


def _quality(row: Row) -> str:
    """What was asked for, or what the steps of an ``auto`` amount to; a model without a choice has one."""
    asked = str(row["params"].get("quality", "auto"))
    if asked != "auto":
        return asked
    model = catalog.find(row["model"])
    table = model.steps_by_quality if model else {}
    if not table:
        return "high"
    reached = [name for name, steps in table.items() if steps <= row["params"]["num_inference_steps"]]
    return max(reached, key=lambda name: table[name], default=next(iter(table)))


def _seconds(moment: datetime.datetime) -> int:
    return int(moment.timestamp())
