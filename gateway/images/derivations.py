"""Pictures from pictures: others like one, and the same one larger."""

from typing import Any, Literal
from uuid import UUID

from psycopg.rows import DictRow
from pydantic import BaseModel, ConfigDict, Field

from gateway.auth import Principal
from gateway.config import Settings
from gateway.errors import BadRequest
from gateway.images.service import Images
from gateway.jobs.drafts import Drafts, seed_of
from gateway.jobs.recipes import NO_PLAN, final_prompt, task_columns
from gateway.jobs.schemas import PROMPT_LIMIT, JobCreate, Prompt, ReferenceUse
from gateway.jobs.service import RECIPE, Created, JobService, Replay
from gateway.jobs.submission import Submission
from gateway.safety import refuse_minors
from modal_app import catalog
from modal_app.catalog import Model
from modal_app.contract import CONTENT_TYPES

UPSCALED_LIMIT = 4096
"""Pixels of the longest side that a picture can be brought to."""
STEPS = 20
"""At least, where the model takes as many: in fewer, the one that a picture enters at is a large one."""
STRENGTH = 0.15
"""How much of an upscaled picture is drawn anew: of too much, every tile becomes a picture of its own.

Measured on the bundled model: at 20 steps a creature keeps its traits up to 0.2 and loses them at 0.3; at 8
steps it loses some at 0.15."""

_KEPT_INPUTS = ("character_id", "panel_id", "prompt_mode", "preset")


class VariationsCreate(BaseModel):
    model_config = ConfigDict(extra="forbid")

    num_images: int = Field(default=1, ge=1, le=10)


class UpscaleCreate(BaseModel):
    model_config = ConfigDict(extra="forbid")

    scale: Literal[2, 4] = 2
    strength: float = Field(default=STRENGTH, gt=0.0, le=1.0, description="How much is drawn anew.")
    prompt: Prompt | None = Field(default=None, description="Default: what the picture was drawn with.")
    seed: int | None = Field(default=None, ge=0, lt=2**53)


class Derivations:
    """Makes jobs out of the pictures of a caller; a private picture's are private."""

    def __init__(self, images: Images, jobs: JobService, drafts: Drafts, settings: Settings) -> None:
        self._images = images
        self._jobs = jobs
        self._drafts = drafts
        self._default_model = settings.default_model

    async def vary(
        self, caller: Principal, image_id: UUID, body: VariationsCreate, submission: Submission
    ) -> Created | Replay:
        """Its recipe with another seed; of an upscaled one, pictures with it as their reference."""
        picture = await self._images.get(caller, image_id)
        job = await self._jobs.get(caller, picture["job_id"])
        columns = (
            await self._drafts.priced(_varied(picture, job, body.num_images))
            if job["task"] == "image"
            else await self._redrawn(caller, picture, job, body.num_images)
        )
        return await self._made(caller, columns, submission, body)

    async def upscale(
        self, caller: Principal, image_id: UUID, body: UpscaleCreate, submission: Submission
    ) -> Created | Replay:
        """The picture at two or four times its size; BadRequest beyond ``UPSCALED_LIMIT``."""
        picture = await self._images.get(caller, image_id)
        refuse_too_large(picture["width"] * body.scale, picture["height"] * body.scale)
        job = await self._jobs.get(caller, picture["job_id"])
        model = self._upscaler(job["model"])
        columns = await self._drafts.priced(_upscaled(picture, job, model, body))
        return await self._made(caller, columns, submission, body)

    async def _made(
        self, caller: Principal, columns: dict[str, Any], submission: Submission, body: BaseModel
    ) -> Created | Replay:
        refuse_minors(columns["prompt_final"])
        asking = submission.asking(body.model_dump(mode="json"))
        return await self._jobs.create_task(caller, columns, asking)

    async def _redrawn(
        self, caller: Principal, picture: DictRow, job: DictRow, num_images: int
    ) -> dict[str, Any]:
        body = JobCreate(
            prompt=job["prompt_input"][:PROMPT_LIMIT],
            references=[ReferenceUse(image_id=picture["id"])],
            size=_drawable(picture["width"], picture["height"]),
            num_images=num_images,
            visibility=picture["visibility"],
        )
        columns = await self._drafts.recipe(caller, body)
        return columns | {"image_kind": "variation", "inputs": {"variation_of": str(picture["id"])}}

    def _upscaler(self, own: str) -> Model:
        """The picture's own model, or else the default one, if it can draw over a picture."""
        for model in (catalog.find(own), catalog.find(self._default_model)):
            if model is not None and "init" in model.roles:
                return model
        raise BadRequest(
            f"Neither `{own}` nor the default model `{self._default_model}` draws over a picture.",
            code="unsupported_parameter",
            param="scale",
        )


def refuse_too_large(width: int, height: int) -> None:
    if max(width, height) > UPSCALED_LIMIT:
        raise BadRequest(
            f"That would be {width}x{height}; the longest side has at most {UPSCALED_LIMIT} pixels.",
            code="too_large",
            param="scale",
        )


def _varied(picture: DictRow, job: DictRow, num_images: int) -> dict[str, Any]:
    inputs = {name: job["inputs"][name] for name in _KEPT_INPUTS if name in job["inputs"]}
    return {
        **{name: job[name] for name in RECIPE},
        **NO_PLAN,
        "seed": seed_of(None),
        "num_images": num_images,
        "inputs": {**inputs, "variation_of": str(picture["id"])},
        "image_kind": "variation",
        "visibility": picture["visibility"],
        "metadata": {},
        "steps": job["params"]["num_inference_steps"],
    }


def _upscaled(picture: DictRow, job: DictRow, model: Model, body: UpscaleCreate) -> dict[str, Any]:
    own = model.id == job["model"]
    kept = ("true_cfg_scale", "guidance_scale", "sampler", "clip_skip") if own else ()
    ending = next(name for name, kind in CONTENT_TYPES.items() if kind == picture["content_type"])
    params = {
        "true_cfg_scale": model.true_cfg_scale,
        **{name: job["params"][name] for name in kept if name in job["params"]},
        "num_inference_steps": min(model.max_inference_steps, max(model.num_inference_steps, STEPS)),
        "strength": body.strength,
        "output_format": ending,
    }
    file = {name: picture[name] for name in ("bucket", "key", "sha256")}
    prompt = body.prompt or job["prompt_input"]
    return {
        **task_columns("upscale", model.id, {}),
        "prompt_input": prompt,
        "prompt_final": final_prompt(prompt, job["style"], []) if body.prompt else job["prompt_final"],
        "prompt_negative": job["prompt_negative"] if own and params["true_cfg_scale"] > 1 else None,
        "style": job["style"],
        "width": picture["width"] * body.scale,
        "height": picture["height"] * body.scale,
        "seed": seed_of(body.seed),
        "params": params,
        "loras": job["loras"] if own else [],
        "references": [{"image_id": str(picture["id"]), "role": "init", **file}],
        "visibility": picture["visibility"],
        "steps": params["num_inference_steps"],
        "inputs": {},
        "image_kind": "upscale",
    }


def _drawable(width: int, height: int) -> str:
    """The same, or the largest fair share of it: an upscaled picture may be larger than any can be drawn."""
    share = min(1.0, catalog.SIZE_MAX / max(width, height))
    sides = (int(side * share) // catalog.SIZE_MULTIPLE * catalog.SIZE_MULTIPLE for side in (width, height))
    return "x".join(str(max(catalog.SIZE_MIN, side)) for side in sides)
