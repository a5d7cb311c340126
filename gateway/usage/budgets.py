"""What users may spend: their own budgets, and the ceilings of administrators.

The database holds them: see the migrations ``reserve_costs_of_new_jobs`` and ``settle_costs_of_ended_jobs``.
"""

from collections.abc import Iterator
from typing import Literal
from uuid import UUID

import psycopg
from psycopg.rows import DictRow

from gateway.auth import Principal
from gateway.errors import NotFound, OverBudget
from gateway.usage import schemas
from gateway.usage.estimator import Estimate
from gateway.usage.repository import UsageRows

Shortage = tuple[Literal["budget_exceeded", "quota_exceeded"], str]


class Budgets:
    """Both hold for a user, so that nobody raises a ceiling of their own."""

    def __init__(self, rows: UsageRows) -> None:
        self._rows = rows

    async def get(self, caller: Principal) -> schemas.Budget:
        known = await self._rows.budgets(caller.user_id)
        own = known.get("user") or await self._rows.spent_this_month(caller.user_id)
        ceiling = _state(known["admin"]) if "admin" in known else None
        return schemas.Budget(user_id=caller.user_id, ceiling=ceiling, **_state(own).model_dump())

    async def set(self, caller: Principal, budget: schemas.BudgetWrite) -> schemas.Budget:
        await self._rows.set_own_budget(caller, budget.model_dump())
        return await self.get(caller)

    async def get_ceiling(self, user_id: UUID) -> schemas.AdminBudget:
        known = await self._rows.budgets(user_id)
        set_ = known.get("admin") or await self._rows.spent_this_month(user_id)
        own = _state(known["user"]) if "user" in known else None
        return schemas.AdminBudget(user_id=user_id, own=own, **_state(set_).model_dump())

    async def set_ceiling(self, user_id: UUID, budget: schemas.BudgetWrite) -> schemas.AdminBudget:
        try:
            await self._rows.set_admins_budget(user_id, budget.model_dump())
        except psycopg.errors.ForeignKeyViolation:
            raise NotFound(f"There is no user {user_id}.") from None
        return await self.get_ceiling(user_id)

    async def refused(self, user_id: UUID, over: OverBudget) -> None:
        """A job was refused: have the user told, once in a period."""
        await self._rows.record_refusal(user_id, over.set_by)

    async def room(self, user_id: UUID) -> "Room":
        """What all budgets of the user leave right now."""
        return Room(list((await self._rows.budgets(user_id)).values()))


class Room:
    """Budgets into which jobs are put that nobody has made yet."""

    def __init__(self, budgets: list[DictRow]) -> None:
        self._budgets = budgets
        self._usd_micros, self._images, self._gpu_seconds = 0, 0, 0.0

    def take(self, estimate: Estimate, images: int) -> list[Shortage]:
        """Code and words of each limit that a job of this estimate would pass, after those before it."""
        self._usd_micros += estimate.columns["reserved_usd_micros"]
        self._gpu_seconds += estimate.seconds.reserve
        self._images += images
        return [short for row in self._budgets for short in self._shortages(row)]

    def _shortages(self, row: DictRow) -> Iterator[Shortage]:
        held = row["spent_usd_micros"] + row["reserved_usd_micros"]
        most, seconds = row["max_images_per_day"], row["max_gpu_seconds_per_day"]
        if _passes(held + self._usd_micros, row["limit_usd_micros"]):
            dollars = row["limit_usd_micros"] / 1e6
            yield (
                "budget_exceeded",
                f"The budget of {dollars:.6f} $ a {row['period']} has no room for it now.",
            )
        if _passes(row["images_today"] + self._images, most):
            yield "quota_exceeded", f"The quota of {most} images a day has no room for it."
        if _passes(float(row["gpu_seconds_today"]) + self._gpu_seconds, seconds):
            yield "quota_exceeded", f"The quota of {seconds} GPU seconds a day has no room for it now."


def _passes(amount: float, limit: int | None) -> bool:
    return limit is not None and amount > limit


def _state(row: DictRow) -> schemas.BudgetState:
    """A row of ``budget_use``, or what counts this month where there is no budget."""
    limit = row.get("limit_usd_micros")
    held = row["spent_usd_micros"] + row["reserved_usd_micros"]
    return schemas.BudgetState(
        **{name: row[name] for name in schemas.BudgetWrite.model_fields if name in row},
        starts_at=row["starts_at"],
        resets_at=row["ends_at"],
        spent_usd_micros=row["spent_usd_micros"],
        reserved_usd_micros=row["reserved_usd_micros"],
        remaining_usd_micros=None if limit is None else max(0, limit - held),
        images_today=row["images_today"],
        gpu_seconds_today=float(row["gpu_seconds_today"]),
    )
