"""From OpenAI's words to a job's: pure functions."""

import re
from collections.abc import Mapping
from typing import Any

from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from gateway.errors import BadRequest
from gateway.jobs.schemas import JobCreate
from gateway.openai.schemas import ImageGeneration, structured

ALIAS = re.compile(r"(gpt-image|chatgpt-image|dall-e)(-.*)?", re.IGNORECASE)
"""OpenAI's own models, those to come too: each means the configured default."""

_QUALITIES = {"standard": "auto", "hd": "high"}
_STYLES = {"vivid": "vivid and dramatic", "natural": "natural and true to life"}
"""What dall-e-3 calls styles, as words for the prompt."""
STRUCTURED = ("loras", "references", "mask", "metadata")
"""Fields of a job that a form, whose values are texts, brings as JSON."""


def job_of(asked: ImageGeneration, request_id: str, pictures: Mapping[str, Any] | None = None) -> JobCreate:
    """The job that is asked for; BadRequest for what cannot be done, a validation error for nonsense.

    ``pictures`` are fields of the job that the pictures of an edit give.
    """
    _refuse(asked)
    fields, brought = {**_translated(asked), **_ours(asked)}, dict(pictures or {})
    named = fields.get("references", [])
    if isinstance(named, list):
        brought["references"] = [*brought.get("references", []), *named]
    fields |= brought
    fields["metadata"] = _metadata(asked, request_id, fields.get("metadata"))
    try:
        return JobCreate.model_validate(fields)
    except ValidationError as error:
        raise RequestValidationError([{**e, "loc": ("body", *e["loc"])} for e in error.errors()]) from error


def is_alias(model: str | None) -> bool:
    """Whether a model's name stands for the default."""
    return not model or bool(ALIAS.fullmatch(model))


def _refuse(asked: ImageGeneration) -> None:
    """BadRequest for what cannot be done, whatever the model."""
    if asked.background == "transparent":
        raise _unsupported("background", "Pictures have no transparency here: leave `background` opaque.")
    if asked.output_format in ("gif", "svg"):
        raise _unsupported("output_format", f"Pictures are png, jpeg or webp, not {asked.output_format}.")
    if asked.partial_images and not asked.stream:
        raise _unsupported("partial_images", "Partial pictures come with `stream` only.")
    for name in asked.model_extra or {}:
        if name not in JobCreate.model_fields:
            shown = name[:64].encode("utf-8", "replace").decode()  # half a surrogate pair fits into no answer
            raise _unsupported(shown, f"There is no parameter `{shown}`.")


def _unsupported(param: str, detail: str) -> BadRequest:
    return BadRequest(detail, code="unsupported_parameter", param=param)


def _translated(asked: ImageGeneration) -> dict[str, Any]:
    """OpenAI's fields that were given, as a job's."""
    words = _STYLES.get(asked.style or "")
    fields = {
        "prompt": f"{asked.prompt}, {words}" if words else asked.prompt,
        "model": "auto" if is_alias(asked.model) else asked.model,
        "num_images": asked.n,
        "size": None if asked.size == "auto" else asked.size,
        "quality": _QUALITIES.get(asked.quality or "", asked.quality),
        "style": None if words else asked.style,
        "output_format": asked.output_format,
        "output_compression": asked.output_compression,
    }
    return {name: value for name, value in fields.items() if value is not None}


def _ours(asked: ImageGeneration) -> dict[str, Any]:
    """The job's own fields that came along."""
    given = {name: value for name, value in (asked.model_extra or {}).items() if value is not None}
    read = {name: structured(v, name) if name in STRUCTURED else v for name, v in given.items()}
    return {name: value for name, value in read.items() if value is not None}


def _metadata(asked: ImageGeneration, request_id: str, given: Any) -> Any:
    """What the caller sent along, and what finds the job after a lost connection."""
    if given is not None and not isinstance(given, dict):
        return given
    user = {"user": asked.end_user} if asked.end_user else {}
    return {**user, "request_id": request_id, **(given or {})}
