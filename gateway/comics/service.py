"""What users do with comics, their members and chapters; panels see ``panels``."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from psycopg.rows import DictRow

import styles
from gateway.auth import Principal
from gateway.comics import schemas
from gateway.comics.drift import drift_of
from gateway.comics.repository import ComicRows
from gateway.errors import BadRequest
from modal_app import catalog


class Comics:
    """NotFound for what the caller does not see, Forbidden for what their role does not let them do."""

    def __init__(self, rows: ComicRows) -> None:
        self._rows = rows

    async def create(self, caller: Principal, body: schemas.ComicCreate) -> DictRow:
        """The comic and its first chapter."""
        return await self._rows.create(caller, _columns(body))

    async def get(self, caller: Principal, comic_id: UUID) -> DictRow:
        """With its chapters and their panels."""
        return await self._rows.tree(caller, comic_id)

    async def page(self, caller: Principal, after: UUID | None, limit: int) -> list[DictRow]:
        return await self._rows.page(caller, after, limit)

    async def change(self, caller: Principal, comic_id: UUID, body: schemas.ComicChange) -> DictRow:
        await self._rows.change(caller, comic_id, _columns(body))
        return await self._rows.comic(caller, comic_id)

    async def delete(self, caller: Principal, comic_id: UUID) -> None:
        """With everything in it; the pictures of its panels go after their grace."""
        await self._rows.delete(caller, comic_id)

    async def members(self, caller: Principal, comic_id: UUID) -> list[DictRow]:
        return await self._rows.members(caller, comic_id)

    async def add_member(self, caller: Principal, comic_id: UUID, body: schemas.MemberAdd) -> DictRow:
        return await self._rows.add_member(caller, comic_id, body.user_id, body.role)

    async def remove_member(self, caller: Principal, comic_id: UUID, user_id: UUID) -> None:
        await self._rows.remove_member(caller, comic_id, user_id)

    async def create_chapter(self, caller: Principal, comic_id: UUID, body: schemas.ChapterCreate) -> DictRow:
        return await self._rows.create_chapter(caller, comic_id, body.name)

    async def change_chapter(
        self, caller: Principal, chapter_id: UUID, body: schemas.ChapterChange
    ) -> DictRow:
        return await self._rows.change_chapter(caller, chapter_id, body.name)

    async def drift(self, caller: Principal, chapter_id: UUID) -> schemas.ChapterConsistency:
        """How like themselves the characters stay from panel to panel."""
        return drift_of(await self._rows.drift(caller, chapter_id))

    async def delete_chapter(self, caller: Principal, chapter_id: UUID) -> None:
        await self._rows.delete_chapter(caller, chapter_id)

    async def order_chapters(self, caller: Principal, comic_id: UUID, ids: Sequence[UUID]) -> DictRow:
        await self._rows.order_chapters(caller, comic_id, ids)
        return await self._rows.tree(caller, comic_id)

    async def order_panels(self, caller: Principal, chapter_id: UUID, ids: Sequence[UUID]) -> DictRow:
        """The whole comic, as it is after that."""
        await self._rows.order_panels(caller, chapter_id, ids)
        chapter = await self._rows.chapter(caller, chapter_id)
        return await self._rows.tree(caller, chapter["project_id"])


def style_id(name: str | None) -> str | None:
    """Of a design style, unless its set is named; BadRequest for one that does not exist."""
    if name is None:
        return None
    style = styles.find(name)
    if style is None:
        raise BadRequest(f"There is no style `{name}`.", code="unknown_style", param="style")
    return style.id


def _columns(body: schemas.ComicCreate | schemas.ComicChange) -> dict[str, Any]:
    group = None if body.base_model is None else catalog.base_model_group(body.base_model)
    if body.base_model is not None and group is None:
        known = ", ".join(dict.fromkeys(row.name for row in catalog.BASE_MODELS))
        raise BadRequest(
            f"There is no base model `{body.base_model}`; there are {known}.",
            code="unknown_base_model",
            param="base_model",
        )
    return {**body.model_dump(), "base_model_group": group, "style": style_id(body.style)}
