"""What a job would take and cost, before there is one."""

from collections.abc import Sequence

from gateway.auth import Principal
from gateway.jobs import recipes
from gateway.jobs.drafts import Drafts, about_request, refuse_cache
from gateway.jobs.loras import JobLoras
from gateway.jobs.schemas import EstimateWarning, JobCreate, JobEstimate
from gateway.safety import refuse_minors
from gateway.usage.budgets import Budgets, Room
from gateway.usage.estimator import Estimator, work_of


class Estimates:
    def __init__(self, drafts: Drafts, loras: JobLoras, estimator: Estimator, budgets: Budgets) -> None:
        self._drafts = drafts
        self._loras = loras
        self._estimator = estimator
        self._budgets = budgets

    async def one(self, caller: Principal, body: JobCreate) -> JobEstimate:
        """What the job would take and cost; nothing is made, and its model need not be served."""
        return await self._estimated(caller, body, 0, await self._budgets.room(caller.user_id))

    async def all(self, caller: Principal, bodies: Sequence[JobCreate]) -> list[JobEstimate]:
        """The same for jobs made together: each comes after those before it, in line and in the budget."""
        room = await self._budgets.room(caller.user_id)
        found = []
        for place, body in enumerate(bodies):
            with about_request(place):
                refuse_cache(body)
                found.append(await self._estimated(caller, body, place, room))
        return found

    async def _estimated(self, caller: Principal, body: JobCreate, place: int, room: Room) -> JobEstimate:
        refuse_minors(body.prompt)
        loras = await self._loras.known(caller, body)
        model = self._drafts.model(body, loras)
        recipes.refuse_unsupported(body, model)
        values = recipes.columns(body, model, [{"role": use.role} for use in body.references], loras)
        estimate = await self._estimator.estimate(work_of(values, model))
        shortage = room.take(estimate, body.num_images)
        short = [EstimateWarning(code=code, message=message) for code, message in shortage]
        position = self._estimator.position(caller.user_id) + place
        queued = {"status": "queued", "stage": "queued", "queue_position": position}
        return JobEstimate(
            estimated_usd_micros=estimate.usd_micros,
            low=estimate.low_usd_micros,
            high=estimate.high_usd_micros,
            eta_seconds=self._estimator.eta_seconds({**values, **queued, "user_id": caller.user_id}),
            model=model.id,
            gpu=estimate.gpu,
            basis=estimate.seconds.basis,
            final_prompt=values["prompt_final"],
            warnings=[*recipes.warnings(body, model, estimate), *short],
        )
