"""What a job will take, cost and wait for, before it runs."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from gateway.gpu import GpuClient
from gateway.usage import estimates
from gateway.usage.estimates import Seconds, Work
from gateway.usage.history import History
from gateway.usage.prices import has_price, usd_micros
from modal_app import catalog
from modal_app.catalog import Model

START_SECONDS = 60.0
"""Of a rented GPU that has to start first, where none was measured: a guess."""


@dataclass(frozen=True)
class Estimate:
    """GPU seconds, and the same as micro-dollars on the GPU that would draw."""

    gpu: str
    seconds: Seconds
    served: bool
    """Whether the running GPU service draws with the model, as far as is known."""

    @property
    def priced(self) -> bool:
        return has_price(self.gpu)

    @property
    def usd_micros(self) -> int:
        return usd_micros(self.gpu, self.seconds.expected)

    @property
    def low_usd_micros(self) -> int:
        return usd_micros(self.gpu, self.seconds.low)

    @property
    def high_usd_micros(self) -> int:
        return usd_micros(self.gpu, self.seconds.high)

    @property
    def columns(self) -> dict[str, Any]:
        """Of a new job's row: what it is expected to cost, and what it reserves of a budget."""
        return {
            "estimated_usd_micros": self.usd_micros,
            "reserved_usd_micros": usd_micros(self.gpu, self.seconds.reserve),
            "reserved_gpu_seconds": self.seconds.reserve,
        }


class Estimator:
    """Goes by measured calls, else by the catalogue; asks nobody more often than every few seconds."""

    def __init__(self, history: History, gpu: GpuClient) -> None:
        self._history = history
        self._gpu = gpu

    async def estimate(self, work: Work, gpu: str | None = None) -> Estimate:
        """On ``gpu``, or on the one that would draw: the running service's if it serves the model."""
        served = await self._gpu.served()
        here = served is not None and work.model.id in served.models
        name = gpu or (served.gpu if served is not None and here else home_of(work.model))
        history = await self._history.of(work.model.id).fresh()
        return Estimate(name, estimates.seconds(work, name, history.samples), here)

    def eta_seconds(self, row: Mapping[str, Any]) -> float | None:
        """Seconds until a job of this row has ended, by what is known now; None for an unknown model."""
        model = catalog.find(row["model"])
        if model is None:
            return None
        own = self._seconds_now(work_of(row, model))
        if row["stage"] == "storing":
            return 0.0
        if row["status"] == "processing" and row["stage"] != "loading":
            return round(own * (1 - _progress(row)), 1)
        return round(self._start_seconds(model) + own * (self._turns(row) + 1), 1)

    def position(self, user_id: UUID) -> int:
        """Of the next job that the user makes, among their own that wait."""
        return self._history.queue.now().waiting.get(user_id, 0) + 1

    def _turns(self, row: Mapping[str, Any]) -> float:
        """Jobs that come before it, by how many run at once; of those at the GPU service, on average half."""
        queue = self._history.queue.now()
        if row["status"] == "processing":
            return max(0, queue.running - 1) / 2 / queue.parallel
        return queue.ahead(row["user_id"], row["queue_position"] or 1) / queue.parallel

    def _seconds_now(self, work: Work) -> float:
        known = self._gpu.known
        gpu = known.gpu if known is not None else home_of(work.model)
        return estimates.seconds(work, gpu, self._history.of(work.model.id).now().samples).expected

    def _start_seconds(self, model: Model) -> float:
        """What a GPU that is not there yet, or has not loaded the model, takes first."""
        history, known = self._history.of(model.id).now(), self._gpu.known
        loaded = known is not None and known.warm is not None and model.id in known.warm
        if loaded or history.warm:
            return 0.0
        if history.start_seconds is not None:
            return history.start_seconds
        return 0.0 if is_bundled(model) else START_SECONDS


def is_bundled(model: Model) -> bool:
    """Whether the weights come with the code, and run on a CPU."""
    return all(variant.bundled for variant in model.variants)


def home_of(model: Model) -> str:
    """The GPU that the catalogue's figures are for."""
    return "cpu" if is_bundled(model) else catalog.DEFAULT_GPU


def work_of(row: Mapping[str, Any], model: Model) -> Work:
    """What a job's row, or the columns of one to be, asks of the GPU."""
    if row["task"] not in ("image", "upscale"):
        return Work(model, row["width"], row["height"], num_images=0, before=(row["task"],))
    params = row["params"]
    steps = params.get("num_inference_steps") or model.num_inference_steps
    if row["task"] == "upscale":  # a tile begins with a picture that is there already
        steps = max(1, math.ceil(steps * (params.get("strength") or 1.0)))
    return Work(
        model=model,
        width=row["width"],
        height=row["height"],
        num_images=row["num_images"],
        steps=steps,
        true_cfg_scale=params.get("true_cfg_scale") or 1.0,
        references=sum(use["role"] != "mask" for use in row["references"]),
        task=row["task"],
        before=tuple(task for task in ("enhance", "judge") if task in row["inputs"]),
    )


def _progress(row: Mapping[str, Any]) -> float:
    return min(1.0, row["step"] / row["steps"]) if row["steps"] else 0.0
