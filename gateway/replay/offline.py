"""A file's recipe, read and verified without a gateway."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.errors import ApiError
from gateway.pictures import Noted, Pictures
from gateway.replay.recipes import Recipe, RecipeRefused, is_altered, unsealed
from modal_app.contract import RECIPE_FIELD


@dataclass(frozen=True)
class Finding:
    """What a file carries; ``recipe`` is None where that is nothing of ours."""

    recipe: Recipe | None
    verdict: str
    valid: bool


def look_at(file: Path, secrets: Sequence[str]) -> Finding:
    """Signature and pixels of a picture's recipe; without secrets it is shown and vouched for by nobody."""
    try:
        noted = asyncio.run(Pictures().read(file.read_bytes(), RECIPE_FIELD))
    except ApiError as refused:
        return Finding(None, refused.detail, valid=False)
    if noted.note is None:
        return Finding(None, "The file carries no recipe.", valid=False)
    if not secrets:
        return Finding(_unchecked(noted.note), "Not verified: RECIPE_SECRET is not set.", valid=False)
    try:
        recipe = unsealed(noted.note, secrets)
    except RecipeRefused as refused:
        return Finding(_unchecked(noted.note), refused.detail, valid=False)
    return _compared(noted, recipe)


def _compared(noted: Noted, recipe: Recipe) -> Finding:
    if is_altered(noted, recipe):
        return Finding(recipe, "Signed, but the picture is not the one that was drawn.", valid=False)
    if noted.lossless:
        return Finding(recipe, "Signed, and every pixel is as it was drawn.", valid=True)
    return Finding(recipe, f"Signed. A lossy {noted.format} shows no pixel as it was drawn.", valid=True)


def _unchecked(note: str) -> Any:
    try:
        return json.loads(note)["recipe"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
