"""The catalogue as it is listed: what a model may do, where it runs, what that costs and takes."""

import datetime
from typing import Any

from modal_app import catalog
from tests.support.stack import Stack


async def listed(product: Stack) -> dict[str, dict[str, Any]]:
    answer = (await product.user.http.get("/v1/models")).json()
    assert (answer["object"], answer["has_more"]) == ("list", False)
    return {model["id"]: model for model in answer["data"]}


async def test_a_stranger_sees_no_models(product: Stack) -> None:
    answer = await product.user.http.get("/v1/models", headers={"Authorization": ""})
    assert answer.status_code == 401


async def test_the_whole_catalogue_is_listed_with_its_licences_and_limits(product: Stack) -> None:
    models = await listed(product)
    assert list(models) == [row.id for row in catalog.CATALOG]
    for row in catalog.CATALOG:
        model = models[row.id]
        assert (model["family"], model["license"]) == (row.family, row.license)
        assert (model["commercial_use"], model["needs_acceptance"]) == (
            row.commercial_use,
            row.needs_acceptance,
        )
        limits = model["limits"]
        assert (limits["max_references"], limits["max_images"]) == (row.max_references, 10)
        assert (limits["min_side"], limits["max_side"], limits["side_multiple"]) == (64, 2560, 16)
        assert limits["parameters"] == sorted(row.supports)
        assert limits["steps_by_quality"] == row.steps_by_quality
    owners = {
        name: models[name]["owned_by"] for name in ("qwen-image-fast", "flux1-dev", "sdxl", "tiny-qwen")
    }
    assert owners == {
        "qwen-image-fast": "Qwen",
        "flux1-dev": "black-forest-labs",
        "sdxl": "stabilityai",
        "tiny-qwen": "tenkaigen",
    }


async def test_every_gpu_that_holds_a_model_stands_there_with_its_price(product: Stack) -> None:
    today = datetime.datetime.now(datetime.UTC).date()
    models = await listed(product)
    for row in catalog.CATALOG:
        gpus = {gpu["gpu"]: gpu["usd_micros_per_hour"] for gpu in models[row.id]["gpus"]}
        assert set(gpus) - {"cpu"} == set(catalog.allowed_gpus(row))
        assert all(price == catalog.price(gpu, today).usd_micros_per_hour for gpu, price in gpus.items())
    assert [gpu["gpu"] for gpu in models["instant"]["gpus"]] == ["cpu"]
    classes = {name: models[name]["price_class"] for name in ("tiny-qwen", "qwen-image-fast", "qwen-image")}
    assert classes == {"tiny-qwen": "economy", "qwen-image-fast": "standard", "qwen-image": "premium"}
    assert models["qwen-image"]["estimated_usd_micros"] == 38_458, "71 s on an L40S at 1.95 $/h"


async def test_a_median_stands_there_once_pictures_were_drawn(product: Stack) -> None:
    """Of the charged seconds of a picture, by GPU."""
    assert product.app is not None
    job = await product.user.create(prompt="a", size="64x64", wait=20)
    for seconds in (2, 4, 90):
        product.rows(
            """insert into private.generation_calls
                 (job_id, seq, attempt, user_id, task, model, status, gpu, gpu_seconds, result, finished_at)
               values (%s, %s, 9, %s, 'image', 'sdxl', 'succeeded', 'L4', %s, %s, now()) returning key""",
            *(job["id"], seconds, product.user.id, seconds, '{"images": [{}, {}]}'),
        )
    product.app.state.models._measure_again_at = 0.0
    gpus = (await listed(product))["sdxl"]["gpus"]
    assert {gpu["gpu"]: gpu["measured_p50_seconds"] for gpu in gpus if gpu["measured_p50_seconds"]} == {
        "L4": 2.0
    }
