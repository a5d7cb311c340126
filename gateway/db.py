"""Postgres, straight: one connection to serve a user, another to move jobs.

``as_user`` becomes the signed-in user for one transaction, so row-level security always applies.
``as_service`` says out loud that it does not: it logs in as ``gateway_service``, whose rights are its
own grants and policies.  Both logins are NOBYPASSRLS, and ``gateway`` is NOINHERIT: a forgotten
``set_config`` reads nothing.

Connections never prepare statements (``prepare_threshold=None``), so a transaction pooler may stand
in between.
"""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
from psycopg.rows import DictRow, dict_row
from psycopg.types.json import set_json_loads
from psycopg_pool import AsyncConnectionPool
from pydantic_core import from_json

from gateway import limits
from gateway.auth import Principal
from gateway.config import Settings

Connection = psycopg.AsyncConnection[DictRow]

set_json_loads(from_json)
"""A job has seven columns of jsonb; this reads them in a fifth of the time that json.loads takes."""

BECOME_USER = """
select set_config('role', 'authenticated', true), set_config('request.jwt.claims', %(claims)s, true)
"""


class Database:
    """Two pools over one database. ``async with Database(settings) as db: ...``"""

    def __init__(self, settings: Settings) -> None:
        self._users = _pool(settings.database_url.get_secret_value(), settings.database_pool_size)
        self._service = _pool(settings.service_database_url, settings.database_pool_size)

    async def __aenter__(self) -> "Database":
        await self._users.open(wait=True, timeout=15)
        await self._service.open(wait=True, timeout=15)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._users.close()
        await self._service.close()

    def connections(self) -> dict[str, dict[str, int]]:
        """By pool: how many connections are in use and idle, and how many requests wait for one."""
        pools = {"users": self._users.get_stats(), "service": self._service.get_stats()}
        return {
            name: {
                "in_use": stats.get("pool_size", 0) - stats.get("pool_available", 0),
                "idle": stats.get("pool_available", 0),
                "waiting": stats.get("requests_waiting", 0),
            }
            for name, stats in pools.items()
        }

    @asynccontextmanager
    async def as_user(self, principal: Principal) -> AsyncIterator[Connection]:
        """One transaction as the caller; sees what the caller's policies show."""
        async with self._users.connection() as connection:  # which commits at the end, or rolls back
            begin = psycopg.AsyncClientCursor(connection)
            await begin.execute(f"begin; {BECOME_USER}".encode(), {"claims": json.dumps(principal.claims)})
            yield connection

    async def read(self, principal: Principal, sql: str, parameters: dict[str, Any]) -> list[DictRow]:
        """The rows of one statement as the caller sees them, in one round trip.

        Statements that are sent in one message are one transaction, which the caller's claims end with.
        """
        async with self._users.connection() as connection:
            cursor = psycopg.AsyncClientCursor(connection)
            claims = {"claims": json.dumps(principal.claims)}
            await cursor.execute(f"{BECOME_USER}; {sql}".encode(), {**parameters, **claims})
            await cursor.set_result(-1)
            return await cursor.fetchall()

    async def read_one(self, principal: Principal, sql: str, parameters: dict[str, Any]) -> DictRow | None:
        """The first row of ``read``, or None."""
        rows = await self.read(principal, sql, parameters)
        return rows[0] if rows else None

    @asynccontextmanager
    async def as_service(self) -> AsyncIterator[Connection]:
        """A connection in autocommit: every statement is a transaction of its own.

        One that makes jobs beyond a limit of their user raises OverBudget or OverQuota, and makes none.
        """
        async with self._service.connection() as connection:
            try:
                yield connection
            except psycopg.DatabaseError as error:
                raise limits.refusal(error) or error from error

    @asynccontextmanager
    async def service_transaction(self) -> AsyncIterator[Connection]:
        """One transaction of the service, for several statements that count together or not at all."""
        async with self.as_service() as connection, connection.transaction():
            yield connection

    async def one(self, sql: str, parameters: dict[str, Any]) -> DictRow | None:
        """The first row of one statement of the service, or None."""
        async with self.as_service() as connection:
            return await (await connection.execute(sql.encode(), parameters)).fetchone()

    async def all(self, sql: str, parameters: dict[str, Any]) -> list[DictRow]:
        """All rows of one statement of the service."""
        async with self.as_service() as connection:
            return await (await connection.execute(sql.encode(), parameters)).fetchall()

    async def do(self, sql: str, parameters: dict[str, Any]) -> int:
        """Rows touched by one statement of the service."""
        async with self.as_service() as connection:
            return (await connection.execute(sql.encode(), parameters)).rowcount


def _pool(database_url: str, size: int) -> AsyncConnectionPool[Connection]:
    return AsyncConnectionPool(
        database_url,
        connection_class=psycopg.AsyncConnection[DictRow],
        min_size=min(2, size),
        max_size=size,
        open=False,
        kwargs={"autocommit": True, "prepare_threshold": None, "row_factory": dict_row},
    )
