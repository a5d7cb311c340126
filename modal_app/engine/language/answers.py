"""From what a model writes to values that can be relied on."""

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from PIL import Image
from pydantic import BaseModel, ValidationError

from modal_app.engine.language import instructions

if TYPE_CHECKING:
    from modal_app.engine.language.vlm import Turn, Vlm

JSON_TOKENS = 400
"""For an answer of about a dozen short fields."""
DESCRIPTION_TOKENS = 96
"""The bundled model needs 70."""
TRAIT_LIMIT = 200
"""Characters of one trait."""

Form = TypeVar("Form", bound=BaseModel)


def ask_form(
    vlm: "Vlm",
    turns: Sequence["Turn"],
    form: type[Form],
    cancelled: Callable[[], bool],
    pictures: Sequence[Image.Image] = (),
) -> Form | None:
    """The answer as a filled-in form; asked twice at most, then None."""
    conversation = list(turns)
    for _ in range(2):
        written = vlm.write(conversation, max_new_tokens=JSON_TOKENS, cancelled=cancelled, pictures=pictures)
        found = first_object(written)
        try:
            return form.model_validate(found)
        except ValidationError as error:
            wrong = "there is no JSON object in it" if found is None else _complaint(error)
        conversation += [("assistant", written), ("user", instructions.REPAIR.format(wrong))]
    return None


def describe(vlm: "Vlm", picture: Image.Image, cancelled: Callable[[], bool]) -> dict[str, str] | None:
    """What a model of the ability ``describe`` sees, field by field; None if it wrote something else.

    It is asked once: it knows no other question, and being greedy would give the same answer again.
    """
    written = vlm.write(
        [("user", instructions.DESCRIBE)],
        max_new_tokens=DESCRIPTION_TOKENS,
        cancelled=cancelled,
        pictures=[squared(picture)],
    )
    return traits(first_object(written) or {}) or None


def squared(picture: Image.Image) -> Image.Image:
    """It has only ever seen squares: other shapes are squares whose sides were scaled independently."""
    side = min(picture.size)
    return picture if picture.size == (side, side) else picture.resize((side, side))


def traits(found: dict[str, Any]) -> dict[str, str]:
    """The fields that are words: blanks folded, cut at ``TRAIT_LIMIT``, empty ones left out."""
    words = {key: " ".join(value.split()) for key, value in found.items() if isinstance(value, str)}
    return {key: value[:TRAIT_LIMIT] for key, value in words.items() if value}


def first_object(written: str) -> dict[str, Any] | None:
    """The first JSON object in a text, whatever stands around it: fences, a greeting, a remark."""
    start = written.find("{")
    while start >= 0:
        try:
            found, _ = json.JSONDecoder().raw_decode(written, start)
        except (ValueError, RecursionError):
            start = written.find("{", start + 1)
            continue
        return found if isinstance(found, dict) else None
    return None


def _complaint(error: ValidationError) -> str:
    """Field by field, without repeating what the model wrote."""
    parts = [f"{'.'.join(map(str, each['loc'])) or 'the answer'}: {each['msg']}" for each in error.errors()]
    return "; ".join(parts[:5])
