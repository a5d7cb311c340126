"""Recipes of pictures, and pictures drawn again from them."""

import hashlib
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

from psycopg.rows import DictRow
from pydantic import ValidationError

from gateway.auth import Principal
from gateway.config import Settings
from gateway.errors import BadRequest, NotFound
from gateway.images.service import Images
from gateway.jobs.drafts import Drafts
from gateway.jobs.recipes import task_columns
from gateway.jobs.service import Created, JobService, Replay
from gateway.jobs.submission import Submission
from gateway.pictures import Pictures
from gateway.replay import schemas
from gateway.replay.plan import REPLAY
from gateway.replay.recipes import Recipe, RecipeRefused, of_call, verified
from gateway.replay.repository import ReplayRows
from gateway.safety import refuse_minors
from modal_app import catalog
from modal_app.contract import CONTENT_TYPES, RECIPE_FIELD, REQUESTS

SCHEMA = 1
"""Of the recipes that can be drawn again."""
PARAMS = (
    *("num_inference_steps", "true_cfg_scale", "guidance_scale"),
    *("strength", "sampler", "clip_skip"),
)

_FORMATS = {name.upper(): name for name in CONTENT_TYPES}


Checked = Literal["pixels", "file", "recipe", "rows"]


@dataclass(frozen=True)
class Proven:
    """A recipe, what vouches for it, and how its picture is to be kept."""

    recipe: Recipe
    checked: Checked
    output_format: str
    visibility: str


class Replays:
    """Reads recipes, and has them drawn."""

    def __init__(
        self,
        rows: ReplayRows,
        images: Images,
        pictures: Pictures,
        jobs: JobService,
        drafts: Drafts,
        settings: Settings,
    ) -> None:
        self._rows = rows
        self._images = images
        self._pictures = pictures
        self._jobs = jobs
        self._drafts = drafts
        self._secrets = settings.recipe_secrets

    async def recipe(self, caller: Principal, image_id: UUID) -> schemas.Recipe:
        """The canonical recipe of one of the caller's pictures, with what its job knows besides."""
        row = await self._drawn(caller, image_id)
        recipe = await self._known(row)
        fingerprint = recipe["fingerprint"]
        return schemas.Recipe(
            **{name: value for name, value in recipe.items() if name != "schema"},
            image_id=row["id"],
            job_id=row["job_id"],
            revision=fingerprint.get("revision"),
            quantisation=fingerprint.get("quant"),
            scheduler=fingerprint.get("scheduler"),
            prompts=_prompts(row),
            style=schemas.RecipeStyle(id=row["style"], version=row["style_version"])
            if row["style"]
            else None,
            preset=row["inputs"].get("preset"),
            sha256=row["sha256"],
        )

    async def read(self, caller: Principal, content: bytes) -> schemas.FileRecipe:
        """What drew the picture in a file: one of the caller's by its bytes, any other by its recipe.

        PictureRefused, RecipeRefused; NotFound when nothing is known of a picture of the caller's.
        """
        own = await self._of_file(caller, content)
        if own is None:
            proven = await self._proven(content, own)
            return schemas.FileRecipe(checked=proven.checked, **_named(proven.recipe))
        recipe = await self.recipe(caller, own["id"])
        return schemas.FileRecipe(
            checked="file", image_id=own["id"], job_id=own["job_id"], **_named(recipe.model_dump())
        )

    async def replay_file(
        self, caller: Principal, content: bytes, submission: Submission
    ) -> Created | Replay:
        """A job that draws the picture of this file again; PictureRefused, RecipeRefused, BadRequest."""
        proven = await self._proven(content, await self._of_file(caller, content))
        return await self._replay(caller, proven, submission)

    async def replay_image(
        self, caller: Principal, image_id: UUID, submission: Submission
    ) -> Created | Replay:
        """The same with a picture of the caller's; its rows vouch for it where its file carries no recipe."""
        row = await self._drawn(caller, image_id)
        content = await self._images.content(row)
        try:
            proven = await self._proven(content, await self._of_file(caller, content))
        except RecipeRefused as refused:
            if refused.code not in ("recipe_missing", "recipe_unverifiable"):
                raise
            ending = next(name for name, kind in CONTENT_TYPES.items() if kind == row["content_type"])
            proven = Proven(await self._known(row), "rows", ending, row["visibility"])
        return await self._replay(caller, proven, submission)

    async def _drawn(self, caller: Principal, image_id: UUID) -> DictRow:
        row = await self._rows.drawn(caller, image_id)
        if row is None:
            raise NotFound(f"There is no picture {image_id}.")
        return row

    async def _known(self, row: DictRow) -> Recipe:
        """By its call; what an older GPU service did not tell is read from the file."""
        if row["result"] is None or row["request"] is None:
            raise NotFound("Nothing is known of how this picture was drawn.", code="recipe_missing")
        recipe = of_call(row, row["n"])
        if recipe["pixels_sha256"] is None:
            noted = await self._pictures.read(await self._images.content(row), RECIPE_FIELD)
            recipe["pixels_sha256"] = noted.pixels_sha256 if noted.lossless else None
        return recipe

    async def _of_file(self, caller: Principal, content: bytes) -> DictRow | None:
        return await self._rows.of_file(caller, hashlib.sha256(content).hexdigest())

    async def _proven(self, content: bytes, own: DictRow | None) -> Proven:
        """``own``: the caller's picture with these bytes."""
        noted = await self._pictures.read(content, RECIPE_FIELD)
        recipe = verified(noted, self._secrets)
        checked: Checked = "pixels" if noted.lossless else "file" if own else "recipe"
        return Proven(recipe, checked, _FORMATS[noted.format], own["visibility"] if own else "private")

    async def _replay(self, caller: Principal, proven: Proven, submission: Submission) -> Created | Replay:
        recipe = proven.recipe
        refuse_unknown(recipe)
        refuse_minors(recipe["prompt"])
        hashes = [use["sha256"] for use in (*recipe["references"], *recipe["loras"])]
        hashes += [recipe["mask"]] if recipe["mask"] else []
        files = await self._rows.files(caller, hashes)
        refuse_missing(hashes, files)
        columns = columns_of(proven, files)
        return await self._jobs.create_task(caller, await self._drafts.priced(columns), submission)


def _named(recipe: Recipe) -> Recipe:
    return {name: recipe.get(name) for name in schemas.DrawnFrom.model_fields}


def refuse_unknown(recipe: Recipe) -> None:
    """BadRequest for a recipe of another version, or of a model that is not in the catalogue as it was."""
    if recipe["schema"] != SCHEMA or recipe["task"] not in ("image", "upscale"):
        raise BadRequest("The recipe is of another version of this service.", code="recipe_unsupported")
    model, revision = catalog.find(recipe["model"]), recipe["fingerprint"].get("revision")
    revisions = {variant.revision for variant in model.variants} | {model.revision} if model else set()
    if model is None or (revision is not None and revision not in revisions):
        name = recipe["model"] if revision is None else f"{recipe['model']} at revision {revision}"
        raise BadRequest(f"There is no model `{name}` any more.", code="model_unavailable", param="model")


def refuse_missing(hashes: list[str], files: dict[str, dict[str, Any]]) -> None:
    """BadRequest that names what is not among the caller's files."""
    missing = [sha256 for sha256 in dict.fromkeys(hashes) if sha256 not in files]
    if missing:
        raise BadRequest(
            f"Not among your pictures, uploads and LoRAs, but drawn from: {', '.join(missing)}.",
            code="reference_missing",
        )


def columns_of(proven: Proven, files: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The job of a replay."""
    recipe = proven.recipe
    references = [{**files[use["sha256"]], "role": use["role"]} for use in recipe["references"]]
    mask = [{**files[recipe["mask"]], "role": "mask"}] if recipe["mask"] else []
    loras = [{**files[use["sha256"]], "scale": use["scale"]} for use in recipe["loras"]]
    params = {name: recipe[name] for name in PARAMS if recipe.get(name) is not None}
    columns = task_columns(recipe["task"], recipe["model"], {})
    return {
        **columns,
        "prompt_input": recipe["prompt"],
        "prompt_final": recipe["prompt"],
        "prompt_negative": recipe["negative_prompt"],
        **{name: recipe[name] for name in ("width", "height", "seed")},
        "params": {**params, "output_format": proven.output_format},
        "references": [*references, *mask],
        "loras": loras,
        "visibility": proven.visibility,
        "steps": recipe["num_inference_steps"],
        "plan": REPLAY,
        "inputs": {
            "request": _request(recipe, [*references, *mask], loras, proven.output_format),
            "replay": {
                "checked": proven.checked,
                **{name: recipe[name] for name in ("pixels_sha256", "fingerprint")},
            },
            "prompt_mode": "exact",
        },
        "image_kind": REPLAY,
    }


def _request(
    recipe: Recipe, pictures: list[dict[str, Any]], loras: list[dict[str, Any]], output_format: str
) -> dict[str, Any]:
    """The call's request; its files are named ``bucket/key``."""
    named = ("model", "prompt", "negative_prompt", "width", "height", "seed", *PARAMS)
    placed = [{**use, "url": f"{use['bucket']}/{use['key']}"} for use in pictures]
    values = {
        **{name: recipe[name] for name in named if recipe.get(name) is not None},
        "references": [use for use in placed if use["role"] != "mask"],
        "mask": next((use for use in placed if use["role"] == "mask"), None),
        "loras": [{**use, "url": f"{use['bucket']}/{use['key']}"} for use in loras],
        "output_format": output_format,
    }
    try:
        request = REQUESTS[recipe["task"]].model_validate(values)
    except ValidationError as error:
        raise BadRequest(
            "The recipe is of another version of this service.", code="recipe_unsupported"
        ) from error
    return request.model_dump(mode="json", exclude_none=True)


def _prompts(row: DictRow) -> schemas.RecipePrompts:
    """As they were when the picture was drawn, where that was kept; else as the job has them."""
    if row["has_artifact"]:
        names = {name: row[name] for name in ("input", "enhanced", "final", "negative")}
        return schemas.RecipePrompts(**names, enhance_status=row["artifact_status"])
    names = {name: row[f"prompt_{name}"] for name in ("input", "enhanced", "final", "negative")}
    return schemas.RecipePrompts(**names, enhance_status=row["enhance_status"])
