"""From Civitai's names of base models to ours: which checkpoint to take, which LoRAs fit."""

from dataclasses import dataclass
from typing import Literal

from modal_app.catalog.model import Model
from modal_app.catalog.rows import find

LoraFit = Literal["yes", "warn", "no"]
"""``warn``: the layers fit, but the LoRA was trained on another checkpoint and may disappoint."""


@dataclass(frozen=True)
class BaseModel:
    """``name`` as Civitai writes it; the first row of a group gives the group's default model."""

    name: str
    group: str
    model: str


BASE_MODELS: tuple[BaseModel, ...] = (
    BaseModel("Qwen", "Qwen", "qwen-image"),
    BaseModel("Qwen 2.1", "Qwen21", "qwen-image-2.1"),
    BaseModel("Flux.1 D", "Flux1", "flux1-dev"),
    BaseModel("Flux.1 S", "Flux1", "flux1-schnell"),
    BaseModel("Flux.1", "Flux1", "flux1-dev"),  # what the layers of a LoRA tell: D and S have the same
    BaseModel("SDXL 1.0", "SDXL", "sdxl"),
    BaseModel("SDXL 0.9", "SDXL", "sdxl"),
    BaseModel("Pony", "Pony", "pony"),
    BaseModel("Illustrious", "Illustrious", "sdxl"),
    BaseModel("SD 1.5", "SD1", "sd15"),
    BaseModel("SD 1.4", "SD1", "sd15"),
    BaseModel("tiny", "Tiny", "tiny-qwen"),
)

_SAME_ARCHITECTURE = (frozenset({"SDXL", "Pony", "Illustrious"}),)
"""Groups whose LoRAs load into each other's checkpoints."""


def base_model_group(name: str) -> str | None:
    """The group of a base model by Civitai's name of it, ``Flux.1 D`` to ``Flux1``; a group is its own."""
    row = _row(name)
    return row.group if row else None


def default_model(group: str) -> Model | None:
    """The row to draw with for a group, or for one base model of it; None for an unknown name."""
    row = _row(group)
    return find(row.model) if row else None


def lora_groups(model: Model) -> frozenset[str]:
    """Groups whose LoRAs load into the model, with or without a warning."""
    own = base_model_group(model.lora_group or "")
    if own is None:
        return frozenset()
    return frozenset({own}).union(*(groups for groups in _SAME_ARCHITECTURE if own in groups))


def lora_fits(lora_group: str, model: Model) -> LoraFit | None:
    """Whether a LoRA of a base model or group fits; None when its name is unknown."""
    group = base_model_group(lora_group)
    if group is None:
        return None
    if group not in lora_groups(model):
        return "no"
    return "yes" if group == base_model_group(model.lora_group or "") else "warn"


def _row(name: str) -> BaseModel | None:
    exact = [row for row in BASE_MODELS if row.name == name]
    return next(iter([*exact, *(row for row in BASE_MODELS if row.group == name)]), None)
