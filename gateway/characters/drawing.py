"""The jobs that draw characters, as columns: private pictures, from a reference by an edit model."""

import math
from typing import Any
from uuid import UUID

import styles
from gateway.characters.plans import PICTURE, PROFILE
from gateway.config import Settings
from gateway.jobs import recipes
from gateway.jobs.drafts import Drafts
from gateway.jobs.loras import Lora, LoraInUse, model_of_group
from gateway.jobs.schemas import JobCreate
from modal_app import catalog
from modal_app.catalog import Model

VIEW_PRESET = "reference_view"
_EXCLUSIONS = styles.TEMPLATES["photoreal"].exclusions
EXCLUDED = "CGI, 3D, illustration, cartoon, uncanny valley"
"""What the photoreal template forbids in its text, for models that are told so apart as well."""

File = dict[str, Any]
"""``bucket``, ``key`` and ``sha256``."""


class Drawing:
    """Columns as ``JobService.create_task`` and ``Child`` take them."""

    def __init__(self, drafts: Drafts, settings: Settings) -> None:
        self._drafts = drafts
        self._settings = settings

    async def judge(self) -> str | None:
        """Who looks at finished pictures; None where nobody can."""
        if await self._drafts.language_model("judge") is None:
            return None
        return await self._drafts.speaker(self._settings.default_edit_model)

    async def profile(self, character_id: UUID, photo: File, given: dict[str, Any]) -> dict[str, Any]:
        model = await self._drafts.language_model("profile") or self._settings.default_model
        request = {"image": {"url": f"{photo['bucket']}/{photo['key']}", "sha256": photo["sha256"]}}
        columns = await self._drafts.priced(recipes.task_columns("profile", model, request))
        inputs = {"request": request, "given": given, "character_id": str(character_id)}
        return {**columns, "plan": PROFILE, "inputs": inputs}

    async def view(
        self, character_id: UUID, kind: str, references: int, lora: Lora | None = None, **inputs: Any
    ) -> dict[str, Any]:
        """A picture at the preset of reference views, as far as the model takes it; its prompt follows.

        A master reference has the model's own shape: others are drawn from it, and none is to be stretched.
        """
        model = self._model(references, lora)
        requested = catalog.PRESETS[VIEW_PRESET]
        applied, dropped = catalog.apply_preset(requested, model)
        if kind == "reference":
            applied["width"], applied["height"] = portrait_size(model)
        named = ("width", "height", "num_inference_steps", "true_cfg_scale")
        fields = {name: applied[name] for name in named if name in applied}
        told = {"name": VIEW_PRESET, "requested": requested, "applied": applied, "dropped": dropped}
        columns = await self._columns(
            character_id, kind, model, references, lora, **fields, inputs={"preset": told, **inputs}
        )
        if "sampler" in applied:
            columns["params"] = {**columns["params"], "sampler": applied["sampler"]}
        return columns

    async def picture(
        self,
        character_id: UUID,
        kind: str,
        prompt: str,
        references: list[File],
        lora: Lora | None = None,
        num_images: int = 1,
        **inputs: Any,
    ) -> dict[str, Any]:
        """Pictures of exactly this prompt, at the model's own settings."""
        model = self._model(len(references), lora)
        width, height = portrait_size(model) if kind == "reference" else catalog.NAMED_SIZES["square"]
        fields = {"width": width, "height": height, "num_images": num_images, **excluded(prompt, model)}
        columns = await self._columns(
            character_id,
            kind,
            model,
            len(references),
            lora,
            **fields,
            inputs={"prompt_mode": "exact", **inputs},
        )
        return asked(columns, prompt, references)

    async def beside_references(self, lora: Lora) -> Lora | None:
        """The LoRA, where a model that is served takes it together with pictures to draw from."""
        model = self._model(1, lora)
        takes = "loras" in model.supports and "reference" in model.roles
        return lora if takes and await self._drafts.serves(model) else None

    async def _columns(
        self,
        character_id: UUID,
        kind: str,
        model: Model,
        references: int,
        lora: Lora | None,
        *,
        inputs: dict[str, Any],
        **fields: Any,
    ) -> dict[str, Any]:
        body = JobCreate(prompt="to be said", model=model.id, visibility="private", **fields)
        loras = [LoraInUse(lora)] if lora else []
        columns = await self._drafts.outline(body, [{"role": "reference"}] * references, loras)
        told = {"prompt_mode": "template", "character_id": str(character_id), **inputs}
        return {**columns, "plan": PICTURE, "image_kind": kind, "inputs": told}

    def _model(self, references: int, lora: Lora | None = None) -> Model:
        """The row of the settings, or that of the LoRA's group; ``outline`` says whether it is served."""
        name = self._settings.default_edit_model if references else self._settings.default_model
        model = catalog.find(name)
        if lora is not None:
            model = model_of_group(lora.group, model, edits=references > 0)
        assert model is not None, f"{name} is not in the catalogue"
        return model


def asked(columns: dict[str, Any], prompt: str, references: list[File]) -> dict[str, Any]:
    """The columns with their prompt, byte for byte, and the files that are drawn from, in order."""
    uses = [{**file, "role": "reference"} for file in references]
    return {**columns, "prompt_input": prompt, "prompt_final": prompt, "references": uses}


def excluded(prompt: str, model: Model) -> dict[str, str]:
    """What the photoreal template forbids, once more as a negative prompt, where the model uses one."""
    understood = "negative_prompt" in model.supports and model.true_cfg_scale > 1
    return {"negative_prompt": EXCLUDED} if understood and _EXCLUSIONS in prompt else {}


def portrait_size(model: Model) -> tuple[int, int]:
    """(width, height) of a master reference: the model's own shape, in pixels as many as a view's."""
    wanted = catalog.NAMED_SIZES["ref_portrait"]
    width, height = catalog.native_size(model, *wanted)
    zoom = max(1.0, math.sqrt(wanted[0] * wanted[1] / (width * height)))
    step = catalog.SIZE_MULTIPLE
    return round(width * zoom / step) * step, round(height * zoom / step) * step
