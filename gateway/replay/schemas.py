"""What goes in and out of recipes and replays."""

from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from modal_app.contract import Role


class ReplayImage(BaseModel):
    """One of the caller's pictures, by its id; a file is sent as a form instead."""

    model_config = ConfigDict(extra="forbid")

    image_id: UUID


class RecipePrompts(BaseModel):
    input: str
    enhanced: str | None
    final: str
    negative: str | None
    enhance_status: str


class RecipeStyle(BaseModel):
    id: str
    version: int | None


class RecipeReference(BaseModel):
    sha256: str
    role: Role


class RecipeLora(BaseModel):
    sha256: str
    scale: float


class DrawnFrom(BaseModel):
    """What a picture was drawn from, without its files."""

    task: str
    model: str
    prompt: str
    negative_prompt: str | None
    width: int
    height: int
    seed: int
    num_inference_steps: int
    true_cfg_scale: float | None
    guidance_scale: float | None
    strength: float | None


class FileRecipe(DrawnFrom):
    """What the recipe in a picture's file says.

    `checked` says what vouches for it: the pixels, which are those that it was sealed for; the file, which is
    one of the caller's pictures; or, of a lossy file, its signed recipe alone. `image_id` and `job_id` are
    null unless the file is one of the caller's pictures.
    """

    object: Literal["file_recipe"] = "file_recipe"
    checked: Literal["pixels", "file", "recipe", "rows"]
    image_id: UUID | None = None
    job_id: UUID | None = None


class Recipe(BaseModel):
    """What drew a picture. `prompt` is what the model was given; files are named by their sha256."""

    object: Literal["recipe"] = "recipe"
    image_id: UUID
    job_id: UUID
    task: str
    model: str
    revision: str | None
    quantisation: str | None
    scheduler: str | None
    prompt: str
    negative_prompt: str | None
    prompts: RecipePrompts
    style: RecipeStyle | None
    width: int
    height: int
    native_size: list[int]
    resampling: str
    seed: int
    num_inference_steps: int
    true_cfg_scale: float | None
    guidance_scale: float | None
    strength: float | None
    sampler: str | None
    clip_skip: int | None
    references: list[RecipeReference]
    mask: str | None
    loras: list[RecipeLora]
    preset: dict[str, Any] | None
    """What was asked for by name, what of it the model took, and what was left out and why."""
    fingerprint: dict[str, Any]
    pixels_sha256: str | None
    sha256: str
    """Of the file."""
