"""What so many images will cost."""

import datetime
from typing import Any

from gateway.config import Settings
from gateway.errors import BadRequest
from gateway.usage import schemas
from gateway.usage.estimates import Work
from gateway.usage.estimator import Estimate, Estimator
from gateway.usage.prices import usd_micros
from modal_app import catalog
from modal_app.catalog import Model

REFERENCE_SECONDS, REFERENCE_GPU = 45.0, "A10"
"""Of an image, as far as anybody says before something is measured: 13750 micro-dollars at 1.10 $ an hour."""
ROUNDED_USD_MICROS = 15_000
PROJECTED = (100, 1_000, 10_000)


class Forecasts:
    """Goes by the same measurements as the estimate of a job."""

    def __init__(self, estimator: Estimator, settings: Settings) -> None:
        self._estimator = estimator
        self._settings = settings

    async def forecast(self, images: int, model_id: str | None, gpu: str | None) -> schemas.Forecast:
        """Of the named model, else of the default one where it was measured, else of the price table."""
        model = _model(model_id or self._settings.default_model)
        if gpu is not None and gpu not in {row.gpu for row in catalog.PRICES}:
            raise BadRequest(f"There is no price for a GPU `{gpu[:40]}`.", code="unknown_gpu", param="gpu")
        estimate = await self._estimator.estimate(_one_image(model), gpu)
        if model_id is None and estimate.seconds.basis == "catalogue":
            return _from_price_table(images, gpu or REFERENCE_GPU)
        return _from_estimate(images, model.id, estimate)


def _model(model_id: str) -> Model:
    model = catalog.find(model_id)
    if model is None:
        raise BadRequest(f"There is no model `{model_id[:80]}`.", code="unknown_model", param="model")
    return model


def _one_image(model: Model) -> Work:
    return Work(model, 1024, 1024, 1, model.num_inference_steps, model.true_cfg_scale)


def _from_price_table(images: int, gpu: str) -> schemas.Forecast:
    each = usd_micros(gpu, REFERENCE_SECONDS)
    return _forecast(
        images, gpu, each, (each, each), model=None, basis="price_table", samples=0, seconds=REFERENCE_SECONDS
    )


def _from_estimate(images: int, model_id: str, estimate: Estimate) -> schemas.Forecast:
    return _forecast(
        images,
        estimate.gpu,
        estimate.usd_micros,
        (estimate.low_usd_micros, estimate.high_usd_micros),
        model=model_id,
        basis=estimate.seconds.basis,
        samples=estimate.seconds.samples,
        seconds=estimate.seconds.expected,
    )


def _forecast(
    images: int, gpu: str, each: int, spread: tuple[int, int], *, seconds: float, **facts: Any
) -> schemas.Forecast:
    today = datetime.datetime.now(datetime.UTC).date()
    return schemas.Forecast(
        images=images,
        gpu=gpu,
        seconds_per_image=round(seconds, 3),
        gpu_usd_micros_per_hour=catalog.price(gpu, today).usd_micros_per_hour,
        per_image_usd_micros=each,
        estimated_usd_micros=each * images,
        low=spread[0] * images,
        high=spread[1] * images,
        exact=_projected(each),
        rounded=schemas.Rounded(
            per_image_usd_micros=ROUNDED_USD_MICROS, images=_projected(ROUNDED_USD_MICROS)
        ),
        **facts,
    )


def _projected(each: int) -> list[schemas.Projection]:
    return [schemas.Projection(images=count, cost_usd_micros=each * count) for count in PROJECTED]
