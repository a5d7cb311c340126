"""Endpoints and deliveries as their owner."""

import secrets
from base64 import b64encode
from typing import Any
from uuid import UUID

from psycopg.rows import DictRow

from gateway.auth import Principal
from gateway.db import Database
from gateway.errors import BadRequest, NotFound
from gateway.outside import Outside
from gateway.webhooks import statements as sql
from gateway.webhooks.schemas import EndpointChange, EndpointCreate

ENDPOINT_LIMIT = 20
"""Endpoints of one user."""
OVERLAP_SECONDS = 24 * 3600.0
"""How long a secret that was replaced goes on signing beside the new one."""


class Webhooks:
    """Raises NotFound for what is not the caller's."""

    def __init__(self, db: Database, outside: Outside) -> None:
        self._db = db
        self._outside = outside

    async def add(self, caller: Principal, body: EndpointCreate) -> tuple[DictRow, str]:
        """The endpoint and its secret; OutsideError for an address that nothing would be sent to."""
        await self._outside.check(body.url)
        secret = new_secret()
        values = {**body.model_dump(), "user_id": caller.user_id, "secret": secret}
        rows = await self._as(caller, sql.ADD_ENDPOINT, values | {"limit": ENDPOINT_LIMIT})
        if not rows:
            raise BadRequest(
                f"There are {ENDPOINT_LIMIT} endpoints already: delete one first.", code="too_many_endpoints"
            )
        return rows[0], secret

    async def page(self, caller: Principal, after: UUID | None, limit: int) -> list[DictRow]:
        return await self._as(caller, sql.ENDPOINTS, {"after": after, "limit": limit})

    async def get(self, caller: Principal, endpoint_id: UUID) -> DictRow:
        return _found(await self._as(caller, sql.ENDPOINT, {"id": endpoint_id}))

    async def change(self, caller: Principal, endpoint_id: UUID, body: EndpointChange) -> DictRow:
        if body.url is not None:
            await self._outside.check(body.url)
        return _found(await self._as(caller, sql.CHANGE_ENDPOINT, {"id": endpoint_id, **body.model_dump()}))

    async def delete(self, caller: Principal, endpoint_id: UUID) -> None:
        _found(await self._as(caller, sql.DELETE_ENDPOINT, {"id": endpoint_id}))

    async def rotate(self, caller: Principal, endpoint_id: UUID) -> tuple[DictRow, str]:
        """The endpoint and its new secret; the old one signs beside it for a day."""
        secret = new_secret()
        values = {"id": endpoint_id, "secret": secret, "overlap": OVERLAP_SECONDS}
        return _found(await self._mine(caller, sql.ROTATE_SECRET, values)), secret

    async def deliveries(
        self, caller: Principal, endpoint_id: UUID, status: str | None, after: UUID | None, limit: int
    ) -> list[DictRow]:
        """The log of an endpoint, newest first."""
        await self.get(caller, endpoint_id)
        values = {"endpoint_id": endpoint_id, "status": status, "after": after, "limit": limit}
        return await self._as(caller, sql.DELIVERIES, values)

    async def test(self, caller: Principal, endpoint_id: UUID) -> DictRow:
        """A delivery of the event ``webhook.test``, on its way."""
        return _found(await self._mine(caller, sql.ADD_TEST, {"id": endpoint_id}))

    async def redeliver(self, caller: Principal, delivery_id: UUID) -> DictRow:
        """The same event once more, as a delivery of its own."""
        return _found(await self._mine(caller, sql.REDELIVER, {"id": delivery_id}))

    async def _as(self, caller: Principal, statement: str, values: dict[str, Any]) -> list[DictRow]:
        async with self._db.as_user(caller) as connection:
            return await (await connection.execute(statement.encode(), values)).fetchall()

    async def _mine(self, caller: Principal, statement: str, values: dict[str, Any]) -> list[DictRow]:
        """What users may not write themselves; the statement names its owner."""
        return await self._db.all(statement, values | {"user_id": caller.user_id})


def new_secret() -> str:
    return "whsec_" + b64encode(secrets.token_bytes(32)).decode()


def _found(rows: list[DictRow]) -> DictRow:
    if not rows:
        raise NotFound("There is no such webhook endpoint or delivery.")
    return rows[0]
