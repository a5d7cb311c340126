"""Usage, budgets and statistics, as rows: each method sends one statement of ``statements``."""

import datetime
from typing import Any
from uuid import UUID

from psycopg.rows import DictRow

from gateway.auth import Principal
from gateway.db import Database
from gateway.usage import statements as sql


class UsageRows:
    """What the service's own login may sum up; whose rows, its caller decides."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def usage(
        self, group_by: str, start: datetime.datetime, end: datetime.datetime, user_id: UUID | None
    ) -> list[DictRow]:
        span = {"start": start, "end": end, "user_id": user_id}
        return await self._db.all(sql.USAGE_BY[group_by], span)

    async def idle(self, start: datetime.datetime, end: datetime.datetime) -> DictRow:
        return await self._one(sql.IDLE, {"start": start, "end": end})

    async def budgets(self, user_id: UUID) -> dict[str, DictRow]:
        """At most two, by who has set them."""
        rows = await self._db.all(sql.BUDGETS, {"user_id": user_id})
        return {row["set_by"]: row for row in rows}

    async def spent_this_month(self, user_id: UUID) -> DictRow:
        return await self._one(sql.SPENT_THIS_MONTH, {"user_id": user_id})

    async def set_own_budget(self, caller: Principal, limits: dict[str, Any]) -> None:
        async with self._db.as_user(caller) as connection:
            await connection.execute(sql.SET_OWN_BUDGET.encode(), limits)

    async def set_admins_budget(self, user_id: UUID, limits: dict[str, Any]) -> None:
        """ForeignKeyViolation where there is no such user."""
        await self._db.do(sql.SET_ADMINS_BUDGET, {"user_id": user_id, **limits})

    async def record_refusal(self, user_id: UUID, set_by: str) -> None:
        await self._db.do(sql.RECORD_REFUSAL, {"user_id": user_id, "set_by": set_by})

    async def stats(self) -> dict[str, DictRow]:
        statements = {
            "jobs": sql.JOB_STATS,
            "calls": sql.CALL_STATS,
            "storage": sql.STORAGE_STATS,
            "users": sql.USER_STATS,
            "webhooks": sql.WEBHOOK_STATS,
        }
        return {name: await self._one(statement, {}) for name, statement in statements.items()}

    async def _one(self, statement: str, values: dict[str, Any]) -> DictRow:
        row = await self._db.one(statement, values)
        assert row is not None
        return row
