"""Characters and their pictures as rows: read as the caller, written by the service once that is allowed."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from psycopg.rows import DictRow
from psycopg.types.json import Jsonb

from gateway.auth import Principal
from gateway.characters import statements as sql
from gateway.db import Database


class CharacterRows:
    """Whoever sees a character is for the policies to say; who may change it, for the services."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def get(self, caller: Principal, character_id: UUID) -> DictRow | None:
        return await self._one(caller, sql.GET, {"id": character_id})

    async def own(self, caller: Principal, character_id: UUID) -> DictRow | None:
        """Whose it is, and when it was deleted."""
        return await self._one(caller, sql.OWN, {"id": character_id})

    async def page(self, caller: Principal, after: UUID | None, limit: int) -> list[DictRow]:
        return await self._all(caller, sql.PAGE, {"after": after, "limit": limit})

    async def may_edit_project(self, caller: Principal, project_id: UUID) -> bool:
        return await self._one(caller, sql.MAY_EDIT_PROJECT, {"id": project_id}) is not None

    async def edit(self, caller: Principal, character_id: UUID, changes: dict[str, Any]) -> bool:
        """What is None stays; False when it is not the caller's."""
        values = {**changes, "id": character_id, "attributes": Jsonb(changes["attributes"])}
        async with self._db.as_user(caller) as connection:
            edited = await (await connection.execute(sql.EDIT, values)).fetchone()
            if edited is not None:
                await connection.execute(sql.EDIT_PROFILE, {**values, "traits": Jsonb(changes["traits"])})
        return edited is not None

    async def delete(self, caller: Principal, character_id: UUID) -> list[DictRow]:
        """Mark everything deleted; bucket and key of each file that has to go."""
        values = {"id": character_id, "user_id": caller.user_id}
        async with self._db.service_transaction() as connection:
            if await (await connection.execute(sql.DELETE, values)).fetchone() is None:
                return []
            await connection.execute(sql.FORGET_PROFILE, values)
            return await (await connection.execute(sql.DELETE_PICTURES.encode(), values)).fetchall()

    async def photo_to_delete(self, character_id: UUID) -> UUID | None:
        """The upload that no other character was made from."""
        row = await self._db.one(sql.PHOTO_TO_DELETE, {"id": character_id})
        return row["upload_id"] if row else None

    async def living_jobs(self, caller: Principal, character_id: UUID) -> list[UUID]:
        values = {"id": character_id, "user_id": caller.user_id}
        return [row["id"] for row in await self._db.all(sql.LIVING_JOBS, values)]

    # Pictures

    async def images(self, caller: Principal, filters: dict[str, Any]) -> list[DictRow]:
        return await self._all(caller, sql.IMAGES, filters)

    async def images_of_jobs(
        self, caller: Principal, character_id: UUID, jobs: Sequence[UUID]
    ) -> list[DictRow]:
        return await self._all(caller, sql.OF_JOBS, {"id": character_id, "jobs": list(jobs)})

    async def image(self, caller: Principal, character_id: UUID, image_id: UUID) -> DictRow | None:
        return await self._one(caller, sql.IMAGE, {"id": character_id, "image_id": image_id})

    async def has_reference(self, caller: Principal, character_id: UUID) -> bool:
        return await self._one(caller, sql.HAS_REFERENCE, {"id": character_id}) is not None

    async def assets(self, ids: Sequence[UUID]) -> dict[UUID, DictRow]:
        """Files of pictures that the caller was shown, deleted ones too; members of a project see them."""
        return {row["id"]: row for row in await self._db.all(sql.ASSETS, {"ids": list(ids)})} if ids else {}

    async def select(self, caller: Principal, character_id: UUID, image_id: UUID) -> DictRow | None:
        """The picture, now the only one selected; None when there is no such picture."""
        values = {"id": character_id, "image_id": image_id}
        async with self._db.as_user(caller) as connection:
            await connection.execute(sql.LOCK, values)
            await connection.execute(sql.UNSELECT, values)
            return await (await connection.execute(sql.SELECT.encode(), values)).fetchone()

    async def delete_image(self, character_id: UUID, image_id: UUID) -> list[DictRow]:
        """Mark it deleted; bucket, key and hash of its file."""
        return await self._db.all(sql.DELETE_PICTURE, {"id": character_id, "image_id": image_id})

    async def _one(self, caller: Principal, statement: str, values: dict[str, Any]) -> DictRow | None:
        async with self._db.as_user(caller) as connection:
            return await (await connection.execute(statement.encode(), values)).fetchone()

    async def _all(self, caller: Principal, statement: str, values: dict[str, Any]) -> list[DictRow]:
        async with self._db.as_user(caller) as connection:
            return await (await connection.execute(statement.encode(), values)).fetchall()
