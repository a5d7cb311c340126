"""What a user's webhook is told of a job."""

from collections.abc import Mapping
from typing import Any

from psycopg.rows import DictRow

from gateway.auth import Principal
from gateway.jobs.rendering import Renderer
from gateway.jobs.repository import Jobs


class Subjects:
    """``describe`` makes the ``data`` of an event, with addresses that work from now on."""

    def __init__(self, jobs: Jobs, renderer: Renderer) -> None:
        self._jobs = jobs
        self._renderer = renderer

    async def describe(self, delivery: DictRow) -> Mapping[str, Any]:
        """The job of a job's event, as its owner sees it now; of other events, what was noted of them."""
        if not delivery["event_type"].startswith("job."):
            job = {"job_id": str(delivery["job_id"])} if delivery["job_id"] else {}
            return {**job, **delivery["payload"]}
        owner = Principal(delivery["user_id"], "webhook", frozenset({"read"}))
        row = await self._jobs.get(owner, delivery["job_id"])
        if row is None:
            return {"id": str(delivery["job_id"])}
        return (await self._renderer.job(row)).model_dump(mode="json")
