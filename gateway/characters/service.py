"""What users do with characters.  Other slices call this, not the rows; their pictures see ``pictures``."""

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any
from uuid import UUID, uuid4

import psycopg
from psycopg.rows import DictRow
from psycopg.types.json import Jsonb

import styles
from gateway.auth import Principal
from gateway.characters import schemas, statements
from gateway.characters.drawing import Drawing, File
from gateway.characters.plans import CHARACTER, announcement, file_of
from gateway.characters.profiles import profile_of, stated
from gateway.characters.prompts import VIEWS, initial_image_prompt
from gateway.characters.repository import CharacterRows
from gateway.characters.sources import Source, Sources, refuse_incomplete
from gateway.errors import BadRequest, Conflict, Forbidden, NotFound
from gateway.jobs import recipes
from gateway.jobs.plans import Statement, child_id
from gateway.jobs.service import Created, JobService, Replay
from gateway.jobs.submission import Submission
from gateway.safety import refuse_minors

NO_PROFILE_FIX = (
    "Wait until the character is ready, or retry it if it has failed: its photo is looked at first."
)
NO_PICTURE_FIX = "Draw one first: POST /v1/characters/{id}/generate-initial-image."
_LIBRARY_ID = re.compile(r"[0-9a-fA-F]{24}")


class Characters:
    """A character is a row and a job: the row says who, the job and its children draw."""

    def __init__(self, rows: CharacterRows, jobs: JobService, sources: Sources, drawing: Drawing) -> None:
        self._rows = rows
        self._jobs = jobs
        self._sources = sources
        self._drawing = drawing

    async def create(
        self, caller: Principal, body: schemas.CharacterCreate, submission: Submission
    ) -> Created | Replay:
        """The job that leads the new character, made once; ``inputs`` of its row name the character."""
        style = _style(body.style)
        given = given_of(body.attributes)
        refuse_minors(body.name, body.description, *_words(given), age=body.age)
        if body.library_db_id is not None and not _LIBRARY_ID.fullmatch(body.library_db_id):
            raise BadRequest(
                "A library's id has 24 hexadecimal digits.", code="invalid_library_id", param="library_db_id"
            )
        refuse_incomplete(body)
        if body.project_id and not await self._rows.may_edit_project(caller, body.project_id):
            raise NotFound(f"There is no project {body.project_id}.", param="project_id")
        source = await self._sources.named(caller, body)
        character_id, job_id = uuid4(), uuid4()
        character = {
            **body.model_dump(exclude={"attributes", "upload_id", "run_token"}),
            **{"id": character_id, "user_id": caller.user_id, "job_id": job_id, "style": style},
            **{"age": None if body.age is None else str(body.age), "lora_id": source.lora and source.lora.id},
            **{"upload_id": body.upload_id if source.photo else None, "attributes": Jsonb(given)},
            "workflow_ids": Jsonb({view: str(child_id(job_id, view)) for view in VIEWS}),
            "run_token": submission.key or str(job_id),
        }
        columns = await self._columns(character, given, source)
        payload = {"id": str(character_id), "style": style, "source": body.source}
        told = announcement(
            {"id": job_id, "user_id": caller.user_id},
            "character/created",
            payload | {"source_upload_id": str(body.upload_id) if source.photo else None},
        )
        also = [Statement(statements.CREATE, character), Statement(statements.KEEP_RUN, character), told]
        if source.photo is None:
            profile = stated(given)
            kept = {**profile, "attributes": Jsonb(profile["attributes"]), "id": character_id}
            also.append(Statement(statements.KEEP_PROFILE, kept))
        if source.lora is not None:
            chosen = {"project_id": body.project_id, "group": source.lora.group}
            also.append(Statement(statements.ADOPT_BASE_MODEL, chosen))
        created = await self._jobs.create_task(caller, columns, submission, job_id=job_id, also=also)
        await self._sources.keep(source)
        return created

    async def get(self, caller: Principal, character_id: UUID) -> DictRow:
        row = await self._rows.get(caller, character_id)
        if row is None:
            raise NotFound(f"There is no character {character_id}.")
        return row

    async def owned(self, caller: Principal, character_id: UUID) -> DictRow:
        """The same; Forbidden for members of a project, who only look."""
        row = await self.get(caller, character_id)
        _require_owner(caller, row)
        return row

    async def page(self, caller: Principal, after: UUID | None, limit: int) -> list[DictRow]:
        return await self._rows.page(caller, after, limit)

    async def references(self, caller: Principal, ids: Sequence[UUID]) -> dict[UUID, list[File]]:
        """What each character is drawn from, best first: its master reference, then its views.

        NotFound for one that the caller does not see; BadRequest for one that has no picture.
        """
        found = {}
        for character_id in ids:
            found[character_id] = await self.files(await self.get(caller, character_id))
        return found

    async def files(self, row: DictRow, image_id: UUID | None = None) -> list[File]:
        """The same of one row; with ``image_id``, of that picture alone."""
        order = [*_portraits(row), *_views(row)]
        wanted = [each["asset_id"] for each in order if image_id is None or each["id"] == str(image_id)]
        assets = await self._rows.assets([UUID(each) for each in wanted if each])
        files = [file_of(asset) for asset in assets.values() if asset["deleted_at"] is None]
        files.sort(key=lambda file: wanted.index(file["image_id"]))
        if not files:
            raise BadRequest(
                f"{row['name']} has no picture to draw from.",
                code="no_reference",
                param="reference_image_id" if image_id else None,
                how_to_fix=NO_PICTURE_FIX,
            )
        return files

    async def edit(self, caller: Principal, character_id: UUID, body: schemas.CharacterEdit) -> DictRow:
        row = await self.owned(caller, character_id)
        age = row["age"] if body.age is None else str(body.age)
        said = given_of(body.profile)
        refuse_minors(body.name, row["description"], *_words(said), age=age)
        before = _given(row)
        given = {name: before[name] if value is None else value for name, value in said.items()}
        changes = {
            **body.model_dump(exclude={"profile", "age"}),
            **{"age": None if body.age is None else str(body.age), "traits": said["attributes"]},
            **{name: said[name] for name in ("color_palette", "do_not_change")},
            "attributes": given | {"attributes": before["attributes"] | said["attributes"]},
        }
        await self._rows.edit(caller, character_id, changes)
        return await self.get(caller, character_id)

    async def retry(self, caller: Principal, character_id: UUID) -> DictRow:
        """The character, of which the failed steps are run again, and only those; once for each failure."""
        row = await self.owned(caller, character_id)
        if row["state"] != "failed":
            raise Conflict(
                f"A {row['state']} character has nothing to try again.", code="character_not_failed"
            )
        job_id = uuid4()
        columns = await self._remaining(caller, row)
        steps = columns["inputs"]["steps"]
        values = {
            **{"id": character_id, "job_id": job_id, "style": row["style"]},
            "workflow_ids": Jsonb({view: str(child_id(job_id, view)) for view in VIEWS if view in steps}),
            "run_token": f"retry:{row['job_id']}",
        }
        also = [Statement(statements.KEEP_RUN, values), Statement(statements.RUN_AGAIN, values)]
        with suppress(psycopg.errors.UniqueViolation):  # somebody was faster
            await self._jobs.create_task(caller, columns, job_id=job_id, also=also)
        return await self.get(caller, character_id)

    async def delete(self, caller: Principal, character_id: UUID) -> schemas.Removed:
        """Photo, pictures and what was known of the character go; a second time there is nothing left."""
        row = await self._rows.own(caller, character_id)
        if row is None:
            raise NotFound(f"There is no character {character_id}.")
        _require_owner(caller, row)
        files = await self._rows.delete(caller, character_id)
        living = await self._rows.living_jobs(caller, character_id)
        for job_id in living:
            await self._jobs.cancel(caller, job_id)
        return schemas.Removed(
            photo=await self._sources.delete_photo(caller, await self._rows.photo_to_delete(character_id)),
            images=len(files),
            profile=row["deleted_at"] is None,
            jobs_canceled=len(living),
        )

    def suggestion(self, row: DictRow, framing: str) -> str:
        """A prompt for the master reference, of stored values alone; BadRequest while there are none."""
        if row["profile"] is None:
            raise BadRequest(
                f"Nothing is known yet of how {row['name']} looks.",
                code="no_usable_profile",
                how_to_fix=NO_PROFILE_FIX,
            )
        return initial_image_prompt(profile_of(row, row["profile"]), framing)

    async def _columns(
        self,
        character: Mapping[str, Any],
        given: dict[str, Any],
        source: Source,
        *,
        profile: Mapping[str, Any] | None = None,
        portrait: File | None = None,
        views: Sequence[str] = VIEWS,
    ) -> dict[str, Any]:
        """Of the job that leads a character through the steps that are still to be done."""
        character_id, photo, lora = character["id"], source.photo, source.lora
        steps: dict[str, Any] = {}
        if photo is not None and profile is None:
            steps["profile"] = await self._drawing.profile(character_id, photo, given)
        if portrait is None and lora is None:
            steps["portrait"] = await self._drawing.view(character_id, "reference", 1 if photo else 0)
        for view in views:
            steps[view] = await self._drawing.view(character_id, "view", 0 if lora else 1, lora, view=view)
        for step in set(steps) - {"profile"}:  # one hand for all of a character's pictures
            steps[step] |= {"seed": steps[views[0]]["seed"] if views else 0, "style": character["style"]}
        named = ("name", "age", "ethnicity", "gender", "description")
        words = list(lora.trigger_words) if lora else []
        return {
            **recipes.task_columns("profile", next(iter(steps.values()))["model"], {}),
            **{"plan": CHARACTER, "style": character["style"]},
            "prompt_input": character["description"] or character["name"],
            "prompt_final": character["description"] or character["name"],
            "inputs": {
                **{"character_id": str(character_id), "steps": steps, "given": given},
                "character": {**{name: character[name] for name in named}, "trained_words": words},
                "profile": None if "profile" in steps else profile or stated(given),
                **{"photo": photo, "portrait": portrait, "judge": await self._drawing.judge()},
            },
        }

    async def _remaining(self, caller: Principal, row: DictRow) -> dict[str, Any]:
        source = await self._sources.of(caller, row)
        portrait = (await self.files(row))[0] if _portraits(row) and source.lora is None else None
        drawn = {picture["view"] for picture in _views(row)}
        needs_photo = portrait is None or row["profile"] is None
        if row["source"] == "photo" and source.photo is None and needs_photo:
            raise BadRequest(
                "The photo was deleted.", code="photo_deleted", how_to_fix="Make a new character."
            )
        return await self._columns(
            row,
            _given(row),
            source,
            profile=_profile_columns(row["profile"]),
            portrait=portrait,
            views=[view for view in VIEWS if view not in drawn],
        )


def given_of(attributes: schemas.Attributes) -> dict[str, Any]:
    """What an owner says of the looks, as it is kept beside what a model sees."""
    named = {name: getattr(attributes, name) for name in ("do_not_change", "color_palette", "opening")}
    return {**named, "attributes": attributes.traits}


def _given(row: DictRow) -> dict[str, Any]:
    return {**given_of(schemas.Attributes()), **row["attributes"]}


def _words(given: Mapping[str, Any]) -> list[str]:
    listed = [*(given["do_not_change"] or []), *given["attributes"].values()]
    return [*listed, *([given["opening"]] if given["opening"] else [])]


def _profile_columns(profile: Mapping[str, Any] | None) -> dict[str, Any] | None:
    named = ("color_palette", "do_not_change", "attributes", "source")
    return None if profile is None else {name: profile[name] for name in named}


def _portraits(row: DictRow) -> list[dict[str, Any]]:
    """Master references and their variants, the selected one first."""
    kinds = ("reference", "variant")
    found = [picture for kind in kinds for picture in row["pictures"] if picture["kind"] == kind]
    return sorted(found, key=lambda picture: picture["id"] != str(row["selected_image_id"]))


def _views(row: DictRow) -> list[dict[str, Any]]:
    """The newest picture of each view, front first."""
    views = {picture["view"]: picture for picture in row["pictures"] if picture["kind"] == "view"}
    return [views[view] for view in VIEWS if view in views]


def _require_owner(caller: Principal, row: DictRow) -> None:
    if row["user_id"] != caller.user_id:
        raise Forbidden("Only its owner changes a character.")


def _style(name: str | None) -> str | None:
    """The id of a style; a bare name means the storybook's."""
    if name is None:
        return None
    style = styles.find(name, "storybook")
    if style is None:
        raise BadRequest(f"There is no style `{name}`.", code="unknown_style", param="style")
    return style.id
