"""What happens in a comic, as it happens: the moves of its panels' jobs, whichever member started them."""

from collections.abc import AsyncGenerator, Mapping
from typing import Any
from uuid import UUID

from psycopg.rows import DictRow

from gateway.auth import Principal
from gateway.comics.repository import ComicRows
from gateway.errors import NotFound
from gateway.events import EventHub, JobEvent
from gateway.jobs.lifecycle import TERMINAL

_NAMES = {"completed": "ready", "canceled": "failed"}
"""Events of jobs that panels have other words for."""
_STATUSES = {"queued": "pending", "processing": "generating"}


class ComicEvents:
    def __init__(self, rows: ComicRows, hub: EventHub) -> None:
        self._rows = rows
        self._hub = hub

    async def start(self, caller: Principal, comic_id: UUID, after: int | None) -> int:
        """The id behind which a stream begins: ``after``, or this moment; NotFound for strangers."""
        await self._rows.comic(caller, comic_id)
        return await self._hub.head() if after is None else after

    async def stream(
        self, caller: Principal, comic_id: UUID, after: int
    ) -> AsyncGenerator[tuple[int, str, DictRow, Mapping[str, Any]], None]:
        """(id, event, panel, stage with step and steps) for every move, as long as the caller is a member."""
        async with self._hub.listen_to_project(comic_id, after) as events:
            async for event in events:
                panel = await self._rows.panel_of_job(caller, comic_id, event.job_id)
                if panel is not None:
                    yield event.id, _NAMES.get(event.event, event.event), *_as_of(event, panel)
                elif not await self._is_member(caller, comic_id):
                    return

    async def _is_member(self, caller: Principal, comic_id: UUID) -> bool:
        try:
            await self._rows.comic(caller, comic_id)
        except NotFound:
            return False
        return True


def _as_of(event: JobEvent, panel: DictRow) -> tuple[DictRow, Mapping[str, Any]]:
    """The panel as it was at the event: nothing that its job did later shows through."""
    moving = {"stage": event.stage, "step": event.step, "steps": event.steps}
    if event.status in TERMINAL:
        return panel, moving
    not_yet = {"status": _STATUSES[event.status], "error_code": None, "error_message": None}
    if panel["status"] == "ready":  # by this job: what it shows was not there yet
        not_yet |= dict.fromkeys(("image_id", "enhanced_prompt", "consistency"))
    return {**panel, **not_yet}, moving
