"""Settings that frontends know by name, and what each model makes of them."""

from collections.abc import Callable, Mapping
from typing import Any

from modal_app.catalog.model import NAMED_SIZES, Family, Model

Dropped = dict[str, str]
"""Why, by the name of the value that was left out."""

PANEL_MODEL = "qwen-image-edit"
"""What panels of a comic are drawn with when they have references and no LoRA."""

_VIEW_WIDTH, _VIEW_HEIGHT = NAMED_SIZES["ref_portrait"]

_VIEW: dict[str, Any] = {
    "sampler": "Euler",
    "num_inference_steps": 25,
    "true_cfg_scale": 7.0,
    "width": _VIEW_WIDTH,
    "height": _VIEW_HEIGHT,
}

PRESETS: dict[str, dict[str, Any]] = {
    "reference_view": _VIEW,
    "lora_panel": {**_VIEW, "workflow": "txt2img", "num_images": 1},
}
"""Names of a request's fields, and ``workflow``, which says that no picture is drawn from."""

_SIZES: dict[Family, dict[tuple[int, int], tuple[int, int]]] = {"sd1": {(832, 1216): (512, 768)}}
"""Sizes that a family draws in place of others: it was trained on smaller pictures."""

_ON_THE_CLASSIC_SCALE: tuple[Family, ...] = ("sdxl", "sd1")
"""Families for which a guidance of 7 is ordinary; the others burn out at it, or have none."""


def apply_preset(preset: Mapping[str, Any], model: Model) -> tuple[dict[str, Any], Dropped]:
    """What of a preset a model takes, in the names of a request's fields, and what was left out and why."""
    values: dict[str, Any] = {}
    dropped: Dropped = {}
    for name, value in preset.items():
        reason = _RULES[name](model, value) if name in _RULES else ""
        if reason:
            dropped[name] = reason
        else:
            values[name] = value
    return _sized(values, model), dropped


def _sized(values: dict[str, Any], model: Model) -> dict[str, Any]:
    instead = _SIZES.get(model.family, {}).get((values.get("width", 0), values.get("height", 0)))
    return values | ({"width": instead[0], "height": instead[1]} if instead else {})


def _sampler(model: Model, value: str) -> str:
    if not model.samplers:
        return f"{model.id} draws with its own scheduler"
    return "" if value in model.samplers else f"{model.id} does not know the sampler {value}"


def _steps(model: Model, value: int) -> str:
    most = model.max_inference_steps
    return (
        f"{model.id} takes at most {most} steps" if value > most else _supported(model, "num_inference_steps")
    )


def _guidance(model: Model, value: float) -> str:
    if model.family not in _ON_THE_CLASSIC_SCALE:
        return f"{value:g} is on Stable Diffusion's scale; {model.id} draws with {model.true_cfg_scale:g}"
    return _supported(model, "true_cfg_scale")


def _clip_skip(model: Model, value: int) -> str:
    return "" if model.clip_skip else f"{model.id} has no layers of CLIP to skip"


def _workflow(model: Model, value: str) -> str:
    return "the request's fields say it: there is no picture to draw from"


def _supported(model: Model, field: str) -> str:
    return "" if field in model.supports else f"{model.id} does not support {field}"


_RULES: dict[str, Callable[[Model, Any], str]] = {
    "sampler": _sampler,
    "num_inference_steps": _steps,
    "true_cfg_scale": _guidance,
    "clip_skip": _clip_skip,
    "workflow": _workflow,
    "negative_prompt": lambda model, value: _supported(model, "negative_prompt"),
}
"""The reason to leave a value out, or nothing; a value without a rule suits every model."""
