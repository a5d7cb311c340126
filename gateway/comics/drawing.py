"""The jobs that draw panels, as columns: private pictures of whoever is in the panel."""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import styles
from gateway.auth import Principal
from gateway.characters.service import Characters
from gateway.comics.plan import PANEL
from gateway.comics.prompts import Use, chosen_references, context_of, framed
from gateway.config import Settings
from gateway.errors import BadRequest
from gateway.gpu import GpuClient
from gateway.jobs import recipes
from gateway.jobs.drafts import Drafts
from gateway.jobs.schemas import JobCreate, LoraUse
from gateway.safety import refuse_minors
from modal_app import catalog
from modal_app.catalog import Model

Cast = list[dict[str, Any]]
Panel = Mapping[str, Any]
"""``id``, ``project_id``, ``prompt``, ``mode``, ``enhance``, ``style``, ``seed``, ``character_ids``."""

_RESERVED = ("reserved_usd_micros", "reserved_gpu_seconds")
LORA_PRESET = "lora_panel"


class PanelDrawing:
    """Columns as ``JobService.create_task`` takes them."""

    def __init__(self, drafts: Drafts, characters: Characters, gpu: GpuClient, settings: Settings) -> None:
        self._drafts = drafts
        self._characters = characters
        self._gpu = gpu
        self._settings = settings

    async def columns(
        self,
        caller: Principal,
        panel: Panel,
        comic: Mapping[str, Any],
        earlier: Sequence[str],
        max_attempts: int,
    ) -> dict[str, Any]:
        """``earlier``: the prompts of the panels before it in its chapter.

        NotFound for a character that the caller does not see; BadRequest for what cannot be drawn.
        """
        cast = [await self._member(caller, character_id, panel) for character_id in panel["character_ids"]]
        drawn = self._with_loras if panel["mode"] == "lora" else self._with_references
        columns = await drawn(caller, panel, comic, cast)
        told = {
            **{"panel_id": str(panel["id"]), "project_id": str(panel["project_id"])},
            **{"cast": [_shown(member) for member in cast], "raw": not panel["enhance"]},
        }
        if panel["enhance"]:
            told["enhance"] = await self._enhancing(columns, panel, cast, earlier)
        named = {"plan": PANEL, "image_kind": "panel", "priority": "low", "visibility": "private"}
        columns = {**columns, **named, "inputs": {**columns["inputs"], **told}}
        judge = await self._judge(columns)
        if judge is None:
            return columns
        columns["inputs"] |= {"judge": judge}
        return await self._capped(columns, max_attempts, panel["max_cost_usd_micros"])

    async def _judge(self, columns: Mapping[str, Any]) -> dict[str, Any] | None:
        """Who looks at everybody, and what passes; None without anybody to look, or to look at."""
        shown = [
            member for member in columns["inputs"]["cast"] if member["references"] or member["attributes"]
        ]
        if not shown or await self._drafts.language_model("judge") is None:
            return None
        model = catalog.find(await self._drafts.speaker(columns["model"]))
        assert model is not None
        return {
            **{"model": model.id, "pass_score": model.consistency_threshold},
            "fallback_pass_score": catalog.FALLBACK_CONSISTENCY_THRESHOLD,
        }

    async def _capped(
        self, columns: dict[str, Any], max_attempts: int, max_cost: int | None
    ) -> dict[str, Any]:
        """With what all attempts may cost.  BadRequest when that is not enough for one."""
        columns = await self._drafts.priced(columns)
        if max_cost is not None and columns["estimated_usd_micros"] > max_cost:
            raise BadRequest(
                f"One picture is expected to cost {columns['estimated_usd_micros']} micro-dollars.",
                code="cost_cap_too_low",
                param="max_cost_usd_micros",
            )
        seconds = float(columns["reserved_gpu_seconds"])
        rate = columns["reserved_usd_micros"] / seconds if seconds else None
        limits = {"max_cost_usd_micros": max_cost, "usd_micros_per_second": rate}
        columns["inputs"]["judge"] |= {"repairs": max_attempts - 1, **limits}
        reserved = {name: columns[name] * max_attempts for name in _RESERVED}
        return {**columns, **reserved}

    async def _member(self, caller: Principal, character_id: UUID, panel: Panel) -> dict[str, Any]:
        """One of the cast; its pictures may be missing where a LoRA draws it."""
        row = await self._characters.get(caller, character_id)
        profile = row["profile"] or {"attributes": {}, "do_not_change": []}
        refuse_minors(
            panel["prompt"], row["description"], age=row["age"] or profile["attributes"].get("age_group")
        )
        files = [] if panel["mode"] == "lora" and not row["pictures"] else await self._characters.files(row)
        views = {picture["asset_id"]: picture["view"] for picture in row["pictures"]}
        return {
            **{"character_id": str(character_id), "name": row["name"], "lora_id": row["lora_id"]},
            "attributes": profile["do_not_change"],
            "references": [{**file, "view": views[file["image_id"]]} for file in files],
        }

    async def _with_references(
        self, caller: Principal, panel: Panel, comic: Mapping[str, Any], cast: Cast
    ) -> dict[str, Any]:
        """By the pinned edit model, from the pictures of the cast, at the size of a panel."""
        refuse_minors(panel["prompt"])
        model = await self._model(cast)
        if len(cast) > model.max_references and cast:
            raise BadRequest(
                f"`{model.id}` draws at most {model.max_references} characters from their pictures.",
                code="too_many_characters",
                param="character_ids",
            )
        uses = chosen_references(panel["prompt"], cast, model.max_references_per_subject)
        body = JobCreate(prompt=panel["prompt"], model=model.id, size="panel", seed=panel["seed"])
        columns = await self._drafts.outline(body, uses)
        return {**columns, **_worded(panel, comic, uses, cast)}

    async def _with_loras(
        self, caller: Principal, panel: Panel, comic: Mapping[str, Any], cast: Cast
    ) -> dict[str, Any]:
        """By the checkpoint of the comic's base model, or of the LoRA, at the preset of such panels."""
        missing = [member["name"] for member in cast if member["lora_id"] is None]
        if missing or not cast:
            who = f"{missing[0]} has" if missing else "Nobody in the panel has"
            raise BadRequest(
                f"{who} no LoRA; mode `reference` draws from pictures.",
                code="lora_missing",
                param="character_ids",
            )
        style = panel["style"] or comic["style"]
        body = JobCreate(
            prompt=panel["prompt"],
            model=_checkpoint(comic) or "auto",
            style=style if panel["enhance"] else None,
            enhance=True,  # which finds the words that call the LoRAs
            loras=[LoraUse(lora=str(member["lora_id"])) for member in cast],
            seed=panel["seed"],
        )
        first = await self._drafts.recipe(caller, body)
        model = catalog.find(first["model"])
        assert model is not None
        columns = await self._at_preset(caller, body, model)
        return columns if panel["enhance"] else _raw(columns)

    async def _at_preset(self, caller: Principal, body: JobCreate, model: Model) -> dict[str, Any]:
        """The same once more, at what of the preset its model takes."""
        requested = catalog.PRESETS[LORA_PRESET]
        applied, dropped = catalog.apply_preset(requested, model)
        named = ("width", "height", "num_inference_steps", "true_cfg_scale", "num_images")
        fields: dict[str, Any] = {name: applied[name] for name in named if name in applied}
        guided = fields.get("true_cfg_scale", model.true_cfg_scale) > 1
        if "negative_prompt" in model.supports and guided:
            fields["negative_prompt"] = styles.NEGATIVE_WORDS
        body = JobCreate(**{**body.model_dump(exclude_unset=True), "model": model.id, **fields})
        columns = await self._drafts.recipe(caller, body)
        if "sampler" in applied:
            columns["params"] = {**columns["params"], "sampler": applied["sampler"]}
        told = {"name": LORA_PRESET, "requested": requested, "applied": applied, "dropped": dropped}
        return {**columns, "inputs": {**columns["inputs"], "preset": told}}

    async def _enhancing(
        self, columns: Mapping[str, Any], panel: Panel, cast: Cast, earlier: Sequence[str]
    ) -> dict[str, Any]:
        """What the enhancement is told; the words that call a LoRA are there already."""
        asked = columns["inputs"].get("enhance", {"mode": panel["mode"]})
        names = [member["name"] for member in cast]
        speaker = await self._drafts.speaker(columns["model"])
        return {"model": speaker, **asked, "names": names, "context": context_of(earlier)}

    async def _model(self, cast: Cast) -> Model:
        """The pinned one where it is served; without anybody to keep the same, that of every picture."""
        served = await self._gpu.served()
        pinned = served is not None and catalog.PANEL_MODEL in served.models
        name = catalog.PANEL_MODEL if pinned else self._settings.default_edit_model
        model = catalog.find(name if cast else self._settings.default_model)
        assert model is not None, f"{name} is not in the catalogue"
        return model


def _worded(panel: Panel, comic: Mapping[str, Any], uses: Sequence[Use], cast: Cast) -> dict[str, Any]:
    """Columns of the prompt.  Until an enhancement has answered, and where none does, it is as it came."""
    prompt = panel["prompt"]
    if not panel["enhance"]:
        return {"prompt_final": prompt, "style": None, "enhance_status": "off"}
    name = panel["style"] or comic["style"]
    style = styles.find(name) if name else None
    worded = styles.apply(style, framed(prompt, uses, cast))
    return {"prompt_final": worded, "style": style.id if style else None, "enhance_status": "fallback"}


def _raw(columns: dict[str, Any]) -> dict[str, Any]:
    """Columns of a prompt that goes as it came, whole, behind the words that call its LoRAs."""
    words = columns["inputs"]["enhance"]["trained_words"]
    inputs = {name: value for name, value in columns["inputs"].items() if name != "enhance"}
    prompt = recipes.called(columns["prompt_input"], words)
    return {**columns, "prompt_final": prompt, "enhance_status": "off", "inputs": inputs}


def _checkpoint(comic: Mapping[str, Any]) -> str | None:
    model = catalog.default_model(comic["base_model"] or comic["base_model_group"] or "")
    return model.id if model else None


def _shown(member: dict[str, Any]) -> dict[str, Any]:
    """What a job's row keeps of a member of the cast."""
    return {name: member[name] for name in ("character_id", "name", "attributes", "references")}
