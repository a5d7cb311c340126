"""From what is asked for to the columns of its job: model, LoRAs, references, prompts, cost.

Nothing is made here; whoever makes jobs asks for these columns first.
"""

import asyncio
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from gateway.auth import Principal
from gateway.config import Settings
from gateway.errors import ApiError, BadRequest
from gateway.gpu import GpuClient
from gateway.jobs import recipes
from gateway.jobs.loras import JobLoras, LoraInUse, model_of_group, refuse_unfit
from gateway.jobs.references import References
from gateway.jobs.schemas import JobCreate
from gateway.safety import refuse_minors
from gateway.usage.estimator import Estimator, work_of
from modal_app import catalog
from modal_app.catalog import Model
from modal_app.contract import Task

RECIPES_AT_ONCE = 8
"""Of one batch: pictures and LoRAs that its requests name may have to be fetched first."""
DRAWN_SEED_LIMIT = 2**32
"""Drawn seeds stay below it, so that every JSON reader keeps them exact."""


class Drafts:
    """Of every kind of job that draws, or does a language task."""

    def __init__(
        self,
        gpu: GpuClient,
        estimator: Estimator,
        settings: Settings,
        references: References,
        loras: JobLoras,
    ) -> None:
        self._gpu = gpu
        self._estimator = estimator
        self._settings = settings
        self._references = references
        self._loras = loras

    async def recipe(self, caller: Principal, body: JobCreate) -> dict[str, Any]:
        """The columns that say what to draw; BadRequest when the model cannot, or nobody may."""
        await self._refuse_early(body)
        loras = await self._loras.find(caller, body)
        model = await self._able(body, loras)
        loras = loras or await self._loras.of_franchise(caller, body.prompt, model)
        recipes.columns(body, model, [], loras)
        references = await self._references.find(caller, body)  # last, as it may go out to fetch
        values = recipes.columns(body, model, references, loras)
        if body.enhance:
            values["inputs"]["enhance"]["model"] = await self.speaker(model.id)
        return {
            **values,
            **await self.costs(values),
            **self._chosen(body),
        }

    async def batch(self, caller: Principal, bodies: Sequence[JobCreate]) -> list[dict[str, Any]]:
        """The recipe of each; of several that are refused, the first is told of."""
        places = asyncio.Semaphore(RECIPES_AT_ONCE)

        async def recipe(body: JobCreate) -> dict[str, Any]:
            async with places:
                return await self.recipe(caller, body)

        for place, body in enumerate(bodies):
            with about_request(place):
                refuse_cache(body)
                await self._refuse_early(body)
        found = await asyncio.gather(*map(recipe, bodies), return_exceptions=True)
        for place, each in enumerate(found):
            if isinstance(each, BaseException):
                with about_request(place):
                    raise each
        return [each for each in found if not isinstance(each, BaseException)]

    async def outline(
        self,
        body: JobCreate,
        references: Sequence[dict[str, Any]] = (),
        loras: Sequence[LoraInUse] = (),
    ) -> dict[str, Any]:
        """The columns of ``recipe`` for a body whose references are found already, or not drawn yet.

        Nobody has looked at its prompt: that is whoever's who puts it together.
        """
        model = await self._able(body, loras)
        values = await self.priced(recipes.columns(body, model, list(references), loras))
        return {**values, **self._chosen(body)}

    async def priced(self, columns: dict[str, Any]) -> dict[str, Any]:
        """With what the job is expected to cost; BadRequest when its model is not served."""
        model = catalog.find(columns["model"])
        if model is not None:
            await self._served(model)
        return columns | await self.costs(columns)

    async def costs(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """What the job is expected to cost and what it reserves, as columns."""
        model = catalog.find(values["model"])
        if model is None:  # of an old job, whose model has left the catalogue
            return {"estimated_usd_micros": 0, "reserved_usd_micros": 0, "reserved_gpu_seconds": 0}
        return (await self._estimator.estimate(work_of(values, model))).columns

    def model(self, body: JobCreate, loras: Sequence[LoraInUse] = ()) -> Model:
        """The row to draw with, which takes the LoRAs.  A low quality may have its own row."""
        settings = self._settings
        default = settings.default_edit_model if body.needs_edit_model else settings.default_model
        wanted = default if body.model == "auto" else body.model
        model = catalog.find(wanted)
        if body.model == "auto" and loras:
            model = model_of_group(loras[0].lora.group, model, edits=body.needs_edit_model)
        if model is None:
            raise BadRequest(f"There is no model `{wanted}`.", code="unknown_model", param="model")
        model = catalog.at_quality(model, body.quality)
        refuse_unfit(loras, model)
        return model

    async def serves(self, model: Model) -> bool:
        """Whether the running GPU service draws with it, as far as it has told."""
        served = await self._gpu.served()
        return served is None or model.id in served.models

    async def speaker(self, model_id: str) -> str:
        """Who does the language tasks of a job that ``model_id`` draws: itself, unless another that is
        served can follow instructions and it cannot."""
        served = await self._gpu.served()
        candidates = [model_id, *(served.models if served else [])]
        return next((each for each in candidates if _follows_instructions(each)), model_id)

    async def language_model(self, task: Task) -> str | None:
        """Who does a language task that draws nothing; None while nobody can."""
        served = await self._gpu.served()
        if served is None or task not in served.tasks or not served.models:
            return None
        default = self._settings.default_model
        return await self.speaker(default if default in served.models else served.models[0])

    def _chosen(self, body: JobCreate) -> dict[str, Any]:
        """Columns that a body may leave to us."""
        visibility = body.visibility or self._settings.default_visibility
        return {"seed": seed_of(body.seed), "visibility": visibility}

    async def _refuse_early(self, body: JobCreate) -> None:
        """Whatever can be refused before anything is fetched."""
        refuse_minors(body.prompt)
        if not (body.loras and body.model == "auto"):
            recipes.columns(body, await self._able(body), [])

    async def _able(self, body: JobCreate, loras: Sequence[LoraInUse] = ()) -> Model:
        """The model to draw with; BadRequest when it is not served, or does not take what the body has."""
        model = await self._served(self.model(body, loras))
        recipes.refuse_unsupported(body, model)
        return model

    async def _served(self, model: Model) -> Model:
        """The same; BadRequest when the running GPU service does not draw with it."""
        if not await self.serves(model):
            raise BadRequest(
                f"The running GPU service does not serve `{model.id}`.",
                code="model_unavailable",
                param="model",
            )
        return model


def seed_of(wanted: int | None) -> int:
    """The seed that is wanted, or one that is drawn."""
    return random.randrange(DRAWN_SEED_LIMIT) if wanted is None else wanted


def refuse_cache(body: JobCreate) -> None:
    """The jobs of a batch are its own: an earlier one is no answer to a request of it."""
    if body.cache:
        raise BadRequest("A batch draws anew.", code="unsupported_parameter", param="cache")


@contextmanager
def about_request(place: int) -> Iterator[None]:
    """Refusals say which of several requests they are about."""
    try:
        yield
    except ApiError as error:
        error.param = f"requests.{place}" + (f".{error.param}" if error.param else "")
        error.detail = f"Request {place}: {error.detail}"
        raise


def _follows_instructions(model_id: str) -> bool:
    model = catalog.find(model_id)
    return model is not None and model.language == "chat"
