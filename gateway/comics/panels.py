"""What users do with panels: draw, change, move, delete and bring back, look behind."""

from typing import Any
from uuid import UUID, uuid4

import psycopg
from psycopg.rows import DictRow

from gateway.auth import Principal
from gateway.comics import schemas, statements
from gateway.comics.drawing import PanelDrawing
from gateway.comics.repository import ComicRows
from gateway.comics.service import style_id
from gateway.errors import Conflict, NotFound
from gateway.jobs.plans import Statement, child_id
from gateway.jobs.recipes import refuse_long
from gateway.jobs.service import Created, JobService, Replay
from gateway.jobs.submission import Submission
from gateway.safety import refuse_minors


class Panels:
    """A panel is a row and a job; what they refuse is told as in ``Comics`` and ``JobService``."""

    def __init__(self, rows: ComicRows, jobs: JobService, drawing: PanelDrawing) -> None:
        self._rows = rows
        self._jobs = jobs
        self._drawing = drawing

    async def create(
        self, caller: Principal, chapter_id: UUID, body: schemas.PanelCreate, submission: Submission
    ) -> Created | Replay:
        """The job of the new panel, at the end of its chapter; ``inputs`` of its row name the panel."""
        comic = await self._rows.editable_comic_of(caller, chapter_id)
        refuse_long(body.prompt)
        panel = {
            **body.model_dump(exclude={"max_attempts"}),
            **{"id": uuid4(), "chapter_id": chapter_id, "project_id": comic["id"]},
            **{"style": style_id(body.style), "caption": body.caption or None},
        }
        earlier = await self._rows.earlier(caller, chapter_id)
        columns = await self._drawing.columns(caller, panel, comic, earlier, body.max_attempts)
        job_id = uuid4()
        values = panel | {"job_id": job_id}
        made = (statements.LOCK_CHAPTER, statements.CREATE_PANEL, statements.CREATE_CAST)
        also = [Statement(each, values) for each in made]
        try:
            return await self._jobs.create_task(caller, columns, submission, job_id=job_id, also=also)
        except psycopg.errors.ForeignKeyViolation:  # deleted in this moment: the chapter, or somebody in it
            raise NotFound(f"There is no chapter {chapter_id}.") from None

    async def get(self, caller: Principal, panel_id: UUID) -> DictRow:
        return await self._rows.panel(caller, panel_id)

    async def change(self, caller: Principal, panel_id: UUID, body: schemas.PanelChange) -> DictRow:
        panel = await self._rows.editable_panel(caller, panel_id)
        if body.prompt is not None:
            refuse_long(body.prompt)
            refuse_minors(body.prompt)
        await self._rows.change_panel(caller, panel_id, body.model_dump(include={"prompt", "caption"}))
        if body.chapter_id is not None or body.position is not None:
            await self._rows.move_panel(caller, panel, body.chapter_id or panel["chapter_id"], body.position)
        return await self._rows.panel(caller, panel_id)

    async def delete(self, caller: Principal, panel_id: UUID) -> None:
        """Its picture and its place are kept for a week; what is being drawn for it is stopped."""
        panel = await self._rows.editable_panel(caller, panel_id)
        await self._rows.delete_panel(caller, panel)
        owner = await self._rows.job_owner(panel["job_id"]) if panel["job_id"] else None
        if owner is not None:
            await self._jobs.cancel(Principal(owner, "panel", frozenset()), panel["job_id"])

    async def restore(self, caller: Principal, panel_id: UUID) -> DictRow:
        """The panel as it was; Conflict when its chapter is gone."""
        await self._rows.restore_panel(caller, panel_id)
        return await self._rows.panel(caller, panel_id)

    async def regenerate(
        self, caller: Principal, panel_id: UUID, body: schemas.Regenerate, submission: Submission
    ) -> Created | Replay:
        """Another picture for the panel as it is now; the one that is there stays until that is done."""
        panel = await self._rows.editable_panel(caller, panel_id)
        if panel["job_id"] and panel["status"] in ("pending", "generating"):
            raise Conflict("The panel is still being drawn.", code="panel_in_progress")
        comic = await self._rows.comic(caller, panel["project_id"])
        earlier = await self._rows.earlier(caller, panel["chapter_id"], panel["position"])
        wanted = {**panel, "seed": body.seed}
        columns = await self._drawing.columns(caller, wanted, comic, earlier, body.max_attempts)
        # Two who ask at once ask for the same job.
        job_id = child_id(panel["job_id"] or panel_id, f"again:{caller.user_id}")
        also = [Statement(statements.DRAW_AGAIN, {"id": panel_id, "job_id": job_id})]
        return await self._jobs.create_task(caller, columns, submission, job_id=job_id, also=also)

    async def wait(self, caller: Principal, row: DictRow, seconds: int) -> DictRow:
        """The panel of a job, as it is when that has ended or the seconds are over."""
        if seconds:
            await self._jobs.wait(caller, row["id"], seconds)
        return await self._rows.panel(caller, UUID(row["inputs"]["panel_id"]))

    async def keep_answer(
        self, caller: Principal, submission: Submission, status: int, body: dict[str, Any]
    ) -> None:
        """For repeats with the same key."""
        if submission.key is not None:
            await self._jobs.keep_answer(caller, submission.key, status, body)

    async def picture(self, panel: DictRow) -> DictRow | None:
        """The row of the picture that a panel shows."""
        if panel["image_id"] is None:
            return None
        return (await self._rows.assets([panel["image_id"]])).get(panel["image_id"])

    async def job(self, caller: Principal, panel: DictRow) -> tuple[DictRow | None, list[DictRow]]:
        """A panel's job and its calls, for whoever has started it; others see the panel alone."""
        if panel["job_id"] is None:
            return None, []
        try:
            job = await self._jobs.get(caller, panel["job_id"])
        except NotFound:
            return None, []
        return job, await self._jobs.calls(caller, job["id"])
