"""Which errors an operation answers with, and what they look like in the document.

Most follows from the operation itself: one with a body may be sent a malformed one.  ``ALSO`` names the rest.
"""

from typing import Any

from pydantic import BaseModel, Field

from gateway import errors
from gateway.errors import ApiError

Json = dict[str, Any]

DRAWS = (
    *(
        "create_job",
        "create_batch",
        "retry_job",
        "compat_generate",
        "vary_image",
        "upscale_image",
        "replay_image",
    ),
    *("create_character", "retry_character", "generate_initial_image", "generate_360_set"),
    *("generate_scene_image", "generate_images", "edit_images", "create_variation"),
    *("enhance_prompt", "parse_prompt", "create_panel", "regenerate_panel"),
)
HOLDS = (
    *("generate_initial_image", "generate_360_set", "generate_scene_image"),
    *("generate_images", "edit_images", "create_variation", "enhance_prompt", "parse_prompt"),
)
"""Held until the job has ended, so that its end is theirs."""

ALSO: dict[type[ApiError], tuple[str, ...]] = {
    errors.BadRequest: (
        *(
            "estimate_job",
            "estimate_batch",
            "get_usage",
            "forecast_usage",
            "complete_upload",
            "retry_job",
            "retry_character",
        ),
        *("restore_image", "follow_link", "export_comic", "initial_image_prompt"),
    ),
    errors.Unauthenticated: ("sign_in", "get_metrics"),
    errors.Forbidden: ("sign_in", "sign_out", "send_link", "get_metrics", "sign_in_methods"),
    errors.OverBudget: DRAWS,
    errors.NotFound: (*DRAWS, "list_styles", "create_lora", "estimate_job", "estimate_batch"),
    errors.Conflict: (
        *DRAWS,
        *(
            "create_template",
            "change_template",
            "change_lora",
            "create_lora",
            "restore_image",
            "signed_upload",
        ),
        *(
            "complete_upload",
            "upload_content",
            "export_comic",
            "change_panel",
            "delete_panel",
            "restore_panel",
        ),
    ),
    errors.PayloadTooLarge: ("complete_upload", "signed_upload"),
    errors.UnsupportedMedia: ("complete_upload", "signed_upload"),
    errors.TooManyRequests: ("sign_in", "send_link"),
    errors.JobFailed: HOLDS,
    errors.TimedOut: HOLDS,
}


class FieldError(BaseModel):
    pointer: str = Field(description="JSON pointer of the field.")
    detail: str


class OpenAIError(BaseModel):
    """The same once more, where OpenAI's SDKs look for it."""

    message: str
    type: str
    param: str | None
    code: str


class Problem(BaseModel):
    """What went wrong (RFC 9457). `code` never changes; `detail` is for people."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str
    request_id: str | None = Field(description="As `x-request-id`; the log has it, too.")
    retryable: bool = Field(description="Whether the same request may succeed later.")
    error: OpenAIError
    errors: list[FieldError] = Field(default=[], description="Of malformed input: every field and its fault.")
    how_to_fix: str | None = None


def of(operation: Json) -> list[type[ApiError]]:
    """Errors of one operation, by status."""
    parameters = operation.get("parameters", [])
    found: set[type[ApiError]] = set() if operation["operationId"] == "healthz" else {errors.Unavailable}
    if "security" in operation:
        found |= {errors.Unauthenticated, errors.Forbidden, errors.TooManyRequests}
    if parameters or "requestBody" in operation:
        found.add(errors.Malformed)
    if any(each["in"] == "path" for each in parameters):
        found.add(errors.NotFound)
    if any(each["name"] == "Idempotency-Key" for each in parameters):
        found |= {errors.BadRequest, errors.Conflict}
    if any(each["name"] == "Range" for each in parameters):
        found.add(errors.RangeNotSatisfiable)
    if "requestBody" in operation:
        found |= {errors.BadRequest, errors.PayloadTooLarge, errors.UnsupportedMedia}
    found |= {kind for kind, operations in ALSO.items() if operation["operationId"] in operations}
    return sorted(found, key=lambda kind: kind.status)


def components() -> dict[str, Json]:
    """Every error as an answer, by the name of its class."""
    found = vars(errors).values()
    kinds = [kind for kind in found if isinstance(kind, type) and issubclass(kind, ApiError)]
    return {kind.__name__: _answer(kind) for kind in kinds if kind is not ApiError}


def _answer(kind: type[ApiError]) -> Json:
    told = (kind.__doc__ or "").partition("\n")[0]
    example = errors.problem_body(kind(told), "/v1/jobs", "0f5b0e6c7d3a4f0a9b7b1d0c8e2f4a61")
    content = {errors.PROBLEM_JSON: {"schema": {"$ref": "#/components/schemas/Problem"}, "example": example}}
    return {"description": told, "content": content}
