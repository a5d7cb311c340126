"""Comics as rows: read and written as the caller, whose role the policies know."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import psycopg
from psycopg.rows import DictRow

from gateway.auth import Principal
from gateway.comics import statements as sql
from gateway.db import Connection, Database
from gateway.errors import BadRequest, Conflict, Forbidden, NotFound


class ComicRows:
    """NotFound for what the caller does not see, Forbidden for what their role does not let them do."""

    def __init__(self, db: Database) -> None:
        self._db = db

    # Comics

    async def comic(self, caller: Principal, comic_id: UUID) -> DictRow:
        return _found(await self._one(caller, sql.COMIC, {"id": comic_id}), "comic", comic_id)

    async def tree(self, caller: Principal, comic_id: UUID) -> DictRow:
        """The comic with its chapters, and those with their panels."""
        return _found(await self._one(caller, sql.TREE, {"id": comic_id}), "comic", comic_id)

    async def page(self, caller: Principal, after: UUID | None, limit: int) -> list[DictRow]:
        return await self._all(caller, sql.COMICS, {"after": after, "limit": limit})

    async def create(self, caller: Principal, values: dict[str, Any]) -> DictRow:
        async with self._db.as_user(caller) as connection:
            comic = await _one(connection, sql.CREATE_COMIC, {**values, "user_id": caller.user_id})
            assert comic is not None
            await _one(connection, sql.CREATE_CHAPTER, {"id": comic["id"], "name": None})
            return _found(await _one(connection, sql.TREE, comic), "comic", comic["id"])

    async def change(self, caller: Principal, comic_id: UUID, values: dict[str, Any]) -> None:
        await self.require_editor(caller, comic_id)
        await self._one(caller, sql.CHANGE_COMIC, {**values, "id": comic_id})

    async def delete(self, caller: Principal, comic_id: UUID) -> None:
        await self.require_owner(caller, comic_id)
        await self._one(caller, sql.DELETE_COMIC, {"id": comic_id})

    async def require_editor(self, caller: Principal, comic_id: UUID) -> DictRow:
        comic = await self.comic(caller, comic_id)
        if comic["role"] not in ("owner", "editor"):
            raise Forbidden("Only editors of a comic change it.")
        return comic

    async def require_owner(self, caller: Principal, comic_id: UUID) -> DictRow:
        comic = await self.comic(caller, comic_id)
        if comic["role"] != "owner":
            raise Forbidden("Only the owner of a comic does this.")
        return comic

    # Members

    async def members(self, caller: Principal, comic_id: UUID) -> list[DictRow]:
        await self.comic(caller, comic_id)
        return await self._all(caller, sql.MEMBERS, {"id": comic_id})

    async def add_member(self, caller: Principal, comic_id: UUID, user_id: UUID, role: str) -> DictRow:
        await self.require_owner(caller, comic_id)
        values = {"id": comic_id, "user_id": user_id, "role": role}
        try:
            row = await self._one(caller, sql.ADD_MEMBER, values)
        except psycopg.errors.ForeignKeyViolation:
            row = None
        except psycopg.errors.InsufficientPrivilege:
            raise BadRequest("The owner of a comic stays its owner.", param="user_id") from None
        return _found(row, "user", user_id)

    async def remove_member(self, caller: Principal, comic_id: UUID, user_id: UUID) -> None:
        comic = await self.comic(caller, comic_id)
        if user_id != caller.user_id and comic["role"] != "owner":
            raise Forbidden("Only the owner of a comic does this.")
        if user_id == caller.user_id and comic["role"] == "owner":
            raise BadRequest("The owner of a comic stays its owner.", param="user_id")
        row = await self._one(caller, sql.REMOVE_MEMBER, {"id": comic_id, "user_id": user_id})
        _found(row, "member", user_id)

    # Chapters

    async def chapter(self, caller: Principal, chapter_id: UUID) -> DictRow:
        return _found(await self._one(caller, sql.CHAPTER, {"id": chapter_id}), "chapter", chapter_id)

    async def drift(self, caller: Principal, chapter_id: UUID) -> DictRow:
        """``panels`` of a chapter with their consistency, and ``names`` of who is in them."""
        return _found(await self._one(caller, sql.DRIFT, {"id": chapter_id}), "chapter", chapter_id)

    async def create_chapter(self, caller: Principal, comic_id: UUID, name: str | None) -> DictRow:
        await self.require_editor(caller, comic_id)
        async with self._comic_locked(caller, comic_id) as connection:
            row = await _one(connection, sql.CREATE_CHAPTER, {"id": comic_id, "name": name})
            assert row is not None
            return row

    async def change_chapter(self, caller: Principal, chapter_id: UUID, name: str) -> DictRow:
        await self._editable_chapter(caller, chapter_id)
        row = await self._one(caller, sql.CHANGE_CHAPTER, {"id": chapter_id, "name": name})
        return _found(row, "chapter", chapter_id)

    async def delete_chapter(self, caller: Principal, chapter_id: UUID) -> None:
        """With its panels; those behind it move up."""
        chapter = await self._editable_chapter(caller, chapter_id)
        async with self._comic_locked(caller, chapter["project_id"]) as connection:
            await _one(connection, sql.DELETE_CHAPTER, {"id": chapter_id})
            await _close_gaps(connection, sql.CHAPTER_ORDER, sql.ORDER_CHAPTERS, chapter["project_id"])

    async def order_chapters(self, caller: Principal, comic_id: UUID, ids: Sequence[UUID]) -> None:
        await self.require_editor(caller, comic_id)
        async with self._comic_locked(caller, comic_id) as connection:
            await _reorder(connection, sql.CHAPTER_ORDER, sql.ORDER_CHAPTERS, comic_id, ids)

    # Panels

    async def panel(self, caller: Principal, panel_id: UUID) -> DictRow:
        return _found(await self._one(caller, sql.PANEL, {"id": panel_id}), "panel", panel_id)

    async def editable_panel(self, caller: Principal, panel_id: UUID) -> DictRow:
        panel = await self.panel(caller, panel_id)
        await self.require_editor(caller, panel["project_id"])
        return panel

    async def order_panels(self, caller: Principal, chapter_id: UUID, ids: Sequence[UUID]) -> None:
        await self._editable_chapter(caller, chapter_id)
        async with self._chapters_locked(caller, chapter_id) as connection:
            await _reorder(connection, sql.PANEL_ORDER, sql.ORDER_PANELS, chapter_id, ids)

    async def change_panel(self, caller: Principal, panel_id: UUID, changes: dict[str, Any]) -> None:
        await self._one(caller, sql.CHANGE_PANEL, {**changes, "id": panel_id})

    async def move_panel(
        self, caller: Principal, panel: DictRow, chapter_id: UUID, position: int | None
    ) -> None:
        """To a place of a chapter of the same comic, or to its end; nobody's positions have gaps after it."""
        if (await self.chapter(caller, chapter_id))["project_id"] != panel["project_id"]:
            raise BadRequest(
                "A panel moves within its comic.", code="chapter_of_another_comic", param="chapter_id"
            )
        here = panel["chapter_id"]
        async with self._chapters_locked(caller, here, chapter_id) as connection:
            await _require_still_in(connection, panel)
            if chapter_id != here:
                await connection.execute(sql.MOVE_PANEL, {"id": panel["id"], "chapter_id": chapter_id})
                await _close_gaps(connection, sql.PANEL_ORDER, sql.ORDER_PANELS, here)
            ids = await _order(connection, sql.PANEL_ORDER, chapter_id)
            ids.remove(panel["id"])
            ids.insert(len(ids) if position is None else position - 1, panel["id"])
            await connection.execute(sql.ORDER_PANELS, {"id": chapter_id, "ids": ids})

    async def delete_panel(self, caller: Principal, panel: DictRow) -> None:
        """A copy is kept by trigger, and its picture is taken away."""
        async with self._chapters_locked(caller, panel["chapter_id"]) as connection:
            await _require_still_in(connection, panel)
            await connection.execute(sql.DELETE_PANEL, {"id": panel["id"]})
            await _close_gaps(connection, sql.PANEL_ORDER, sql.ORDER_PANELS, panel["chapter_id"])

    async def earlier(self, caller: Principal, chapter_id: UUID, before: int | None = None) -> list[str]:
        """What the panels of a chapter show, in order; those in front of a position, or all."""
        rows = await self._all(caller, sql.EARLIER, {"chapter_id": chapter_id, "before": before})
        return [row["prompt"] for row in rows]

    async def editable_comic_of(self, caller: Principal, chapter_id: UUID) -> DictRow:
        comic = await self._one(caller, sql.COMIC_OF_CHAPTER, {"id": chapter_id})
        if _found(comic, "chapter", chapter_id)["role"] == "viewer":
            raise Forbidden("Only editors of a comic change it.")
        return _found(comic, "chapter", chapter_id)

    async def panel_of_job(self, caller: Principal, comic_id: UUID, job_id: UUID) -> DictRow | None:
        """The panel of a comic that a job draws, or has drawn last."""
        return await self._one(caller, sql.PANEL_OF_JOB, {"project_id": comic_id, "job_id": job_id})

    async def job_owner(self, job_id: UUID) -> UUID | None:
        """Who pays for a job that has not ended."""
        row = await self._db.one(sql.JOB_OWNER, {"id": job_id})
        return row["user_id"] if row else None

    async def restore_panel(self, caller: Principal, panel_id: UUID) -> None:
        """Back where it stood, or at the end of a chapter that has become shorter."""
        gone = await self._db.one(sql.DELETED_PANEL, {"id": panel_id})
        if gone is None:
            await self.editable_panel(caller, panel_id)  # it is there, or never was
            return
        try:
            await self.require_editor(caller, gone["project_id"])
        except NotFound:
            raise NotFound(f"There is no panel {panel_id}.") from None
        place = {"id": panel_id, "chapter_id": gone["chapter_id"]}
        async with self._db.service_transaction() as connection:
            if await _one(connection, sql.LOCK_CHAPTER, place) is None:
                raise Conflict("The chapter of this panel was deleted.", code="chapter_deleted")
            await connection.execute(sql.RESTORE_PANEL, place)
            ids = await _order(connection, sql.PANEL_ORDER, gone["chapter_id"])
            ids.remove(panel_id)
            ids.insert(gone["position"] - 1, panel_id)
            await connection.execute(sql.ORDER_PANELS, {"id": gone["chapter_id"], "ids": ids})

    async def forget_deleted(self) -> None:
        """Nothing brings a panel back once its picture is gone."""
        await self._db.do(sql.FORGET_DELETED, {})

    async def assets(self, ids: Sequence[UUID]) -> dict[UUID, DictRow]:
        """Pictures of panels that the caller was shown, whoever of the members has drawn them."""
        rows = await self._db.all(sql.ASSETS, {"ids": list(ids)}) if ids else []
        return {row["id"]: row for row in rows}

    async def _editable_chapter(self, caller: Principal, chapter_id: UUID) -> DictRow:
        chapter = await self.chapter(caller, chapter_id)
        await self.require_editor(caller, chapter["project_id"])
        return chapter

    @asynccontextmanager
    async def _comic_locked(self, caller: Principal, comic_id: UUID) -> AsyncIterator[Connection]:
        async with self._db.as_user(caller) as connection:
            _found(await _one(connection, sql.LOCK_COMIC, {"id": comic_id}), "comic", comic_id)
            yield connection

    @asynccontextmanager
    async def _chapters_locked(self, caller: Principal, *ids: UUID) -> AsyncIterator[Connection]:
        """Always in the same order, so that two who want the same do not wait for each other."""
        async with self._db.as_user(caller) as connection:
            locked = await connection.execute(sql.LOCK_CHAPTERS, {"ids": list(set(ids))})
            if len(await locked.fetchall()) != len(set(ids)):
                raise NotFound(f"There is no chapter {ids[-1]}.")
            yield connection

    async def _one(self, caller: Principal, statement: str, values: dict[str, Any]) -> DictRow | None:
        async with self._db.as_user(caller) as connection:
            return await _one(connection, statement, values)

    async def _all(self, caller: Principal, statement: str, values: dict[str, Any]) -> list[DictRow]:
        async with self._db.as_user(caller) as connection:
            return await (await connection.execute(statement.encode(), values)).fetchall()


async def _one(connection: Connection, statement: str, values: dict[str, Any]) -> DictRow | None:
    return await (await connection.execute(statement.encode(), values)).fetchone()


async def _order(connection: Connection, statement: str, above: UUID) -> list[UUID]:
    rows = await (await connection.execute(statement.encode(), {"id": above})).fetchall()
    return [row["id"] for row in rows]


async def _reorder(
    connection: Connection, order: str, reorder: str, above: UUID, ids: Sequence[UUID]
) -> None:
    """``ids`` at 1 to n; BadRequest unless they are exactly those that are there."""
    if sorted(ids) != sorted(await _order(connection, order, above)):
        raise BadRequest("`ids` must name each of them once.", code="order_incomplete", param="ids")
    await connection.execute(reorder.encode(), {"id": above, "ids": list(ids)})


async def _close_gaps(connection: Connection, order: str, reorder: str, above: UUID) -> None:
    ids = await _order(connection, order, above)
    await connection.execute(reorder.encode(), {"id": above, "ids": ids})


async def _require_still_in(connection: Connection, panel: DictRow) -> None:
    """Somebody may have moved or deleted it before its chapter was locked."""
    if panel["id"] not in await _order(connection, sql.PANEL_ORDER, panel["chapter_id"]):
        raise Conflict("Somebody else has just moved this panel.", code="panel_moved")


def _found(row: DictRow | None, what: str, row_id: UUID) -> DictRow:
    if row is None:
        raise NotFound(f"There is no {what} {row_id}.")
    return row
