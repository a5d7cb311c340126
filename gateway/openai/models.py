"""The catalogue as OpenAI lists models, with what a caller needs to choose one."""

import datetime
import time

from gateway.db import Database
from gateway.errors import NotFound
from gateway.gpu import GpuClient
from gateway.openai import schemas
from gateway.openai.translation import is_alias
from modal_app import catalog

CATALOGED_AT = int(datetime.datetime(2026, 11, 20, tzinfo=datetime.UTC).timestamp())
"""When the rows were written: nobody publishes a moment at which weights were "created"."""
ECONOMY_USD_MICROS, STANDARD_USD_MICROS = 1_000, 10_000
"""Upper ends of the price classes, for one picture: a tenth of a cent, and a cent."""
MEASURED_SECONDS = 60.0
"""How long medians are remembered."""

Medians = dict[tuple[str, str], float]
"""GPU seconds of a picture by model and GPU."""

MEDIANS = """
select model, gpu, percentile_cont(0.5) within group (order by seconds)::float as seconds
from (
  select model, gpu, gpu_seconds / greatest(1, jsonb_array_length(result -> 'images')) as seconds
  from private.generation_calls
  where status = 'succeeded' and task = 'image' and gpu is not null and finished_at is not null
  order by finished_at desc limit 5000
) lately
group by model, gpu
"""


class Models:
    """Every row of the catalogue, whether it can be drawn with now or not."""

    def __init__(self, db: Database, gpu: GpuClient, default_model: str) -> None:
        self._db = db
        self._gpu = gpu
        self._default_model = default_model
        self._medians: Medians = {}
        self._measure_again_at = 0.0

    async def all(self) -> list[schemas.Model]:
        medians, served = await self._measured(), await self._served()
        return [_shown(model, medians, served) for model in catalog.CATALOG]

    async def get(self, model_id: str) -> schemas.Model:
        """One row; OpenAI's own names show the default's."""
        alias = is_alias(model_id)
        model = catalog.find(self._default_model if alias else model_id)
        if model is None:
            raise NotFound(f"There is no model `{model_id[:80]}`.", code="model_not_found", param="model")
        shown = _shown(model, await self._measured(), await self._served())
        return shown.model_copy(update={"id": model_id, "alias_of": model.id}) if alias else shown

    async def _served(self) -> frozenset[str]:
        served = await self._gpu.served()
        return frozenset(served.models if served else ())

    async def _measured(self) -> Medians:
        if time.monotonic() >= self._measure_again_at:
            self._measure_again_at = time.monotonic() + MEASURED_SECONDS
            rows = await self._db.all(MEDIANS, {})
            self._medians = {(row["model"], row["gpu"]): round(row["seconds"], 3) for row in rows}
        return self._medians


def _shown(model: catalog.Model, medians: Medians, served: frozenset[str]) -> schemas.Model:
    cost = _estimated_usd_micros(model)
    return schemas.Model(
        **{name: getattr(model, name) for name in ("id", "family", "license", "commercial_use")},
        **{name: getattr(model, name) for name in ("needs_acceptance", "lora_group")},
        created=CATALOGED_AT,
        owned_by=_owner(model),
        available=model.id in served,
        limits=_limits(model),
        price_class=_price_class(cost),
        estimated_seconds=model.est_seconds,
        estimated_usd_micros=cost,
        gpus=[_gpu(model, gpu, medians) for gpu in _gpus(model)],
    )


def _limits(model: catalog.Model) -> schemas.Limits:
    return schemas.Limits(
        max_images=10,
        max_references=model.max_references,
        reference_roles=sorted(model.roles),
        max_inference_steps=model.max_inference_steps,
        steps_by_quality=model.steps_by_quality,
        min_side=catalog.SIZE_MIN,
        max_side=catalog.SIZE_MAX,
        side_multiple=catalog.SIZE_MULTIPLE,
        native_sizes=[f"{width}x{height}" for width, height in model.native_sizes],
        parameters=sorted(model.supports),
    )


def _owner(model: catalog.Model) -> str:
    """Who published the weights; the last variant of a row is the one that nobody converted."""
    if not model.variants or model.variants[-1].bundled:
        return "tenkaigen"
    return model.variants[-1].repository.partition("/")[0]


def _runs_on_cpu(model: catalog.Model) -> bool:
    return all(variant.bundled for variant in model.variants)


def _gpus(model: catalog.Model) -> list[str]:
    return [*(["cpu"] if _runs_on_cpu(model) else []), *catalog.allowed_gpus(model)]


def _gpu(model: catalog.Model, gpu: str, medians: Medians) -> schemas.AllowedGpu:
    today = datetime.datetime.now(datetime.UTC).date()
    return schemas.AllowedGpu(
        gpu=gpu,
        usd_micros_per_hour=catalog.price(gpu, today).usd_micros_per_hour,
        measured_p50_seconds=medians.get((model.id, gpu)),
    )


def _estimated_usd_micros(model: catalog.Model) -> int:
    """Of one picture, on what the row's ``est_seconds`` are for."""
    gpu = "cpu" if _runs_on_cpu(model) else catalog.DEFAULT_GPU
    return catalog.cost_usd_micros(gpu, model.est_seconds, datetime.datetime.now(datetime.UTC).date())


def _price_class(usd_micros: int) -> schemas.PriceClass:
    if usd_micros <= ECONOMY_USD_MICROS:
        return "economy"
    return "standard" if usd_micros <= STANDARD_USD_MICROS else "premium"
