"""Canonical recipes, from a call's rows or sealed in a file: pure functions.

A recipe is what ``modal_app.engine.recipe`` seals: plain JSON values, files named by their sha256 alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gateway.errors import BadRequest
from gateway.pictures import Noted
from modal_app.contract import unseal

Recipe = dict[str, Any]

_NAMED = (
    *("model", "prompt", "negative_prompt", "width", "height", "num_inference_steps"),
    *("true_cfg_scale", "guidance_scale", "strength", "sampler", "clip_skip"),
)


class RecipeRefused(BadRequest):
    """``recipe_missing``, ``recipe_unverifiable``, ``recipe_signature_invalid`` or ``picture_altered``."""


@dataclass(frozen=True)
class Difference:
    """A field of the fingerprint that is not what it was; None where it was not, or is not, there."""

    field: str
    then: Any
    now: Any


def of_call(call: Mapping[str, Any], n: int) -> Recipe:
    """The recipe of picture ``n`` of a call that succeeded, equal to the one that its file carries."""
    request, result = call["request"], call["result"]
    picture = next(each for each in result["images"] if each["n"] == n)
    mask = request.get("mask")
    return {
        "schema": 1,
        "task": call["task"],
        **{name: request.get(name) for name in _NAMED},
        "seed": picture["seed"],
        "references": [{"sha256": use["sha256"], "role": use["role"]} for use in request["references"]],
        "mask": mask["sha256"] if mask else None,
        "loras": [{"sha256": use["sha256"], "scale": use["scale"]} for use in request["loras"]],
        "native_size": [result["native_width"], result["native_height"]],
        "resampling": result["resampling"],
        "fingerprint": call["fingerprint"],
        "pixels_sha256": picture.get("pixels_sha256"),
    }


def verified(noted: Noted, secrets: Sequence[str]) -> Recipe:
    """The recipe of a file, signed by us and of just this picture; RecipeRefused."""
    if noted.note is None:
        raise RecipeRefused(
            "The file carries no recipe: it was not drawn here, or its metadata was removed.",
            code="recipe_missing",
        )
    if not secrets:
        raise RecipeRefused(
            "This gateway has no RECIPE_SECRET, and cannot tell whether the recipe is one of ours.",
            code="recipe_unverifiable",
        )
    recipe = unsealed(noted.note, secrets)
    if is_altered(noted, recipe):
        raise RecipeRefused(
            "The picture is not the one that its recipe was sealed for.", code="picture_altered"
        )
    return recipe


def unsealed(note: str, secrets: Sequence[str]) -> Recipe:
    """What a file carries, if one of the secrets sealed it; RecipeRefused."""
    try:
        return unseal(note, list(secrets))
    except (ValueError, RecursionError):
        raise RecipeRefused(
            "The recipe in the file was altered, or sealed by somebody else.",
            code="recipe_signature_invalid",
        ) from None


def is_altered(noted: Noted, recipe: Recipe) -> bool:
    """Of a lossy file only the size can be compared: its pixels are not those that were drawn."""
    if (noted.width, noted.height) != (recipe["width"], recipe["height"]):
        return True
    return noted.lossless and noted.pixels_sha256 != recipe["pixels_sha256"]


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[Difference]:
    """Where two fingerprints are not the same, field by field; `a.b` is a field of an object."""
    before, after = _flat(then), _flat(now)
    names = sorted(before.keys() | after.keys())
    return [
        Difference(name, before.get(name), after.get(name))
        for name in names
        if before.get(name) != after.get(name)
    ]


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, each in value.items():
        if isinstance(each, Mapping):
            flat |= _flat(each, f"{prefix}{name}.")
        else:
            flat[prefix + name] = each
    return flat
