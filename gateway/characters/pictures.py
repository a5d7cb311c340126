"""The pictures that users have drawn of a character: a new master reference, sets of angles, scenes.

Each is one try, of exactly the prompt that was typed.  What goes wrong is surfaced and leaves no picture.
"""

from typing import Any
from uuid import UUID, uuid4

import structlog
from psycopg.rows import DictRow

from gateway.auth import Principal
from gateway.characters import schemas, statements
from gateway.characters.drawing import Drawing, asked
from gateway.characters.plans import PICTURE_SET
from gateway.characters.prompts import angle_prompt, scene_prompt
from gateway.characters.repository import CharacterRows
from gateway.characters.service import Characters
from gateway.characters.sources import Sources
from gateway.errors import (
    ApiError,
    BadRequest,
    Conflict,
    JobFailed,
    NotFound,
    OverBudget,
    OverQuota,
    TimedOut,
)
from gateway.gpu import GpuClient, GpuError
from gateway.jobs import recipes
from gateway.jobs.loras import Lora
from gateway.jobs.plans import Statement, child_id
from gateway.jobs.service import Created, JobService, Replay
from gateway.jobs.submission import Submission
from gateway.safety import refuse_minors
from gateway.storage import Buckets, StorageError
from gateway.storage.keys import THUMBNAIL

log = structlog.get_logger()

WAIT_SECONDS = 60.0
"""How long a request is held for its pictures; past it the job is told instead."""


class AlreadyHasReference(BadRequest):
    """There is a master reference, and nobody has said that it may go."""

    code = "already_has_reference"
    symbol = "ALREADY_HAS_REFERENCE"

    def __init__(self, name: str) -> None:
        super().__init__(
            f"{name} already has a master reference image.",
            how_to_fix="Send `on_conflict: replace`, or delete the image first.",
        )


class CharacterPictures:
    """``Characters`` says who somebody is; this draws them."""

    def __init__(
        self,
        rows: CharacterRows,
        characters: Characters,
        jobs: JobService,
        sources: Sources,
        drawing: Drawing,
        buckets: Buckets,
        gpu: GpuClient,
    ) -> None:
        self._rows = rows
        self._characters = characters
        self._jobs = jobs
        self._sources = sources
        self._drawing = drawing
        self._buckets = buckets
        self._gpu = gpu

    async def draw_initial(
        self, caller: Principal, character_id: UUID, body: schemas.InitialImage, submission: Submission
    ) -> Created | Replay:
        """A new master reference.  One that is there makes way, once, and is tried for once more."""
        character = await self._characters.owned(caller, character_id)
        prompt = body.prompt or self._characters.suggestion(character, "two")
        _refuse_minors(character, prompt)
        try:
            return await self._try_initial(caller, character, prompt, body, submission, replacing=False)
        except AlreadyHasReference as there_is_one:
            log.info("already_has_reference", code=there_is_one.symbol, character_id=str(character_id))
            if body.on_conflict == "error":
                raise
        return await self._try_initial(caller, character, prompt, body, submission, replacing=True)

    async def draw_set(
        self, caller: Principal, character_id: UUID, body: schemas.ReferenceSet, submission: Submission
    ) -> Created | Replay:
        """One picture for each angle, of one seed, each a job of its own; appended to what is there."""
        character = await self._characters.owned(caller, character_id)
        reference = (await self._characters.files(character, body.reference_image_id))[0]
        lora = await self._lora(caller, character)
        first = await self._drawing.view(character_id, "portfolioItem", 1, lora)
        pictures = {}
        for angle in dict.fromkeys(body.angles):
            columns = {**first, "inputs": {**first["inputs"], "angle": angle}}
            pictures[f"angle-{angle:03}"] = asked(columns, _called(angle_prompt(angle), lora), [reference])
        columns = {
            **recipes.task_columns("profile", first["model"], {}),
            **{"plan": PICTURE_SET, "image_kind": "portfolioItem"},
            "inputs": {"character_id": str(character_id), "pictures": pictures},
        }
        return await self._jobs.create_task(caller, columns, submission)

    async def draw_scene(
        self, caller: Principal, character_id: UUID, body: schemas.Scene, submission: Submission
    ) -> Created | Replay:
        character = await self._characters.owned(caller, character_id)
        _refuse_minors(character, body.sceneContext)
        reference = (await self._characters.files(character))[0]
        lora = await self._lora(caller, character)
        prompt = _called(scene_prompt(body.sceneContext), lora)
        columns = await self._drawing.picture(character_id, "scene", prompt, [reference], lora)
        return await self._jobs.create_task(caller, columns, submission)

    async def wait(self, caller: Principal, row: DictRow) -> DictRow:
        """The job once it is completed, or as it is after ``WAIT_SECONDS``; its error when it failed."""
        row = await self._jobs.wait(caller, row["id"], WAIT_SECONDS)
        if row["status"] in ("failed", "canceled"):
            raise _failure(row)
        return row

    async def drawn(self, caller: Principal, row: DictRow) -> list[DictRow]:
        """What a completed job has left, failed items of a set too."""
        jobs = [row["id"], *(child_id(row["id"], slot) for slot in row["inputs"].get("pictures", {}))]
        return await self._rows.images_of_jobs(caller, UUID(row["inputs"]["character_id"]), jobs)

    async def page(self, caller: Principal, character_id: UUID, filters: dict[str, Any]) -> list[DictRow]:
        await self._characters.get(caller, character_id)
        return await self._rows.images(caller, {"id": character_id, **filters})

    async def select(self, caller: Principal, character_id: UUID, image_id: UUID) -> DictRow:
        """The picture, now the only one that is selected."""
        await self._characters.owned(caller, character_id)
        row = await self._rows.select(caller, character_id, image_id)
        if row is None:
            raise NotFound(f"There is no image {image_id} of this character.")
        return row

    async def delete(
        self, caller: Principal, character_id: UUID, image_id: UUID
    ) -> list[schemas.DeletedItem]:
        """What became of each part.  Whatever fails is told, and keeps nothing else from going."""
        await self._characters.owned(caller, character_id)
        image = await self._rows.image(caller, character_id, image_id)
        if image is None:
            raise NotFound(f"There is no image {image_id} of this character.")
        files = await self._rows.delete_image(character_id, image_id)
        done = [schemas.DeletedItem(target="metadata", ok=True)]
        done += [await self._delete_file(file) for file in files]
        return [*done, *[await self._delete_copy(file) for file in files]]

    async def _try_initial(
        self,
        caller: Principal,
        character: DictRow,
        prompt: str,
        body: schemas.InitialImage,
        submission: Submission,
        *,
        replacing: bool,
    ) -> Created | Replay:
        keeping = body.history_policy == "keep"
        if not replacing and not keeping and await self._rows.has_reference(caller, character["id"]):
            raise AlreadyHasReference(character["name"])
        source = await self._sources.of(caller, character)
        photos = [source.photo] if source.photo else []
        columns = await self._drawing.picture(
            character["id"], "reference", prompt, photos, source.lora, body.num_images, replaces=not keeping
        )
        first = body.delete_timing == "before" and not keeping
        emptied = Statement(statements.REPLACE_PICTURES, {"id": character["id"], "ids": []})
        return await self._jobs.create_task(
            caller, columns, submission, job_id=uuid4(), also=[emptied] if first else []
        )

    async def _lora(self, caller: Principal, character: DictRow) -> Lora | None:
        """What a character that a LoRA was trained on is drawn with, beside its reference."""
        lora = await self._sources.lora(caller, character)
        return lora and await self._drawing.beside_references(lora)

    async def _delete_file(self, file: DictRow) -> schemas.DeletedItem:
        """Now, so that the answer can say so; the worker comes back for what would not go."""
        try:
            await self._buckets[file["bucket"]].delete([file["key"], f"{file['key']}{THUMBNAIL}"])
        except StorageError as error:
            log.warning("picture_not_removed", key=file["key"], error=str(error))
            return schemas.DeletedItem(target="file", ok=False, error="The bucket did not remove the file.")
        return schemas.DeletedItem(target="file", ok=True)

    async def _delete_copy(self, file: DictRow) -> schemas.DeletedItem:
        """The GPU service's copy, of what was drawn from or looked at: asked for once, and never again."""
        try:
            await self._gpu.forget(file["sha256"])
        except GpuError as error:
            log.warning("copy_not_removed", sha256=file["sha256"], error=str(error))
            return schemas.DeletedItem(target="remote", ok=False, error=str(error))
        return schemas.DeletedItem(target="remote", ok=True)


def _called(prompt: str, lora: Lora | None) -> str:
    return recipes.called(prompt, lora.trigger_words) if lora else prompt


def _refuse_minors(character: DictRow, *texts: str) -> None:
    """With the character's age, and with what a model took it for."""
    profile = character["profile"] or {"attributes": {}}
    age = character["age"] or profile["attributes"].get("age_group")
    refuse_minors(*texts, character["description"], age=age)


def _failure(row: DictRow) -> ApiError:
    """Why a job ended without pictures, as the answer to whoever waits for them."""
    code, message = row["error_code"] or "job_canceled", row["error_message"] or "The job was canceled."
    headers = {"Location": f"/v1/jobs/{row['id']}", "x-should-retry": "false"}
    kinds: dict[str, type[ApiError]] = {
        "budget_exceeded": OverBudget,
        "quota_exceeded": OverQuota,
        "job_canceled": Conflict,
        "canceled": Conflict,
        "expired": TimedOut,
    }
    if code in kinds:
        return kinds[code](message, code=code, headers=headers)
    return JobFailed(message, code=code, retryable=bool(row["error_retryable"]), headers=headers)
