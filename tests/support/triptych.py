"""A composite that exists in tests only: one job whose children draw three pictures.

``python -m tests.support.triptych`` is a gateway that knows it.
"""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import psycopg
from psycopg.types.json import Jsonb

from gateway import services
from gateway.jobs import recipes
from gateway.jobs.lifecycle import TERMINAL, ClaimedJob, Fail
from gateway.jobs.plans import (
    CallSpec,
    Child,
    Complete,
    FanOut,
    Outcome,
    Picture,
    Plan,
    Row,
    Statement,
    WaitForChildren,
)
from modal_app.contract import ImageResult, LanguageResult
from tests.support.stack import Stack

VIEWS = ("front", "side", "back")
ENDINGS = """
create table if not exists private.endings (job_id uuid primary key, status text not null, pictures integer);
grant select, insert on private.endings to gateway_service
"""
PARENT = """
insert into public.generation_jobs (
  user_id, plan, prompt_input, prompt_final, model, width, height, seed, inputs, expires_at)
values (
  %s, 'triptych', 'three views', 'three views', 'instant', 1, 1, 0, %s, now() + make_interval(secs => %s))
returning id::text
"""


class Triptych(Plan):
    """Three children; those that fail are run once more, then the parent fails."""

    poll_after_ms = 5000

    def next(self, job: ClaimedJob, children: Sequence[Row]) -> CallSpec | Outcome:
        views: dict[str, dict[str, Any]] = job.row["inputs"]["views"]
        if not children:
            return FanOut([Child(view, columns) for view, columns in views.items()])
        if any(child["status"] not in TERMINAL for child in children):
            return WaitForChildren()
        drawn = {child["slot"].partition(":")[0] for child in children if child["status"] == "completed"}
        missing = [view for view in views if view not in drawn]
        if not missing:
            return Complete()
        if len(children) > len(views):
            return Fail("views_failed", f"{missing} could not be drawn.", retryable=True)
        return FanOut([Child(f"{view}:2", views[view]) for view in missing])

    def settle(
        self, job: ClaimedJob, result: ImageResult | LanguageResult, pictures: Sequence[Picture]
    ) -> Outcome:
        raise AssertionError("a triptych makes no calls")

    def ended(self, job: Row, pictures: Sequence[Picture]) -> Sequence[Statement]:
        values = {"id": job["id"], "status": job["status"], "pictures": len(pictures)}
        return [Statement("insert into private.endings values (%(id)s, %(status)s, %(pictures)s)", values)]


def plans() -> dict[str, Plan]:
    return {**_known(), "triptych": Triptych()}


def begin(
    product: Stack, user_id: UUID, *, views: Sequence[str] = VIEWS, expires_in: int = 3600, **changes: Any
) -> str:
    """A new parent's id; ``changes`` are columns of its children."""
    with psycopg.connect(product.admin_url) as connection:
        connection.execute(ENDINGS)
    child = {**recipes.task_columns("image", "instant", {}), "inputs": {}, "width": 64, "height": 64}
    child |= {"params": {"num_inference_steps": 1}, "steps": 1, **changes}
    told = {"views": {view: {**child, "prompt_final": f"{view} view"} for view in views}}
    (row,) = product.rows(PARENT, user_id, Jsonb(told), expires_in)
    return str(row["id"])


_known = services.plans

if __name__ == "__main__":
    from gateway import __main__ as gateway

    services.plans = plans
    gateway.main()
