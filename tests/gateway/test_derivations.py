"""Variations and upscaled pictures, judged from the pixels of the tiny model."""

import io
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import pytest_asyncio
from PIL import Image

from gateway.usage.estimates import Work
from modal_app import catalog
from tests.judge import judge
from tests.support.stack import Stack, User, stack

RED = "a red round creature with a blue hat, front view, on a beach"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def studio(new_database: Callable[[], str], new_folder: Callable[[], Path]) -> AsyncIterator[Stack]:
    gpu = {"GPU_MODELS": "tiny-qwen,tiny-qwen-edit,instant", "GPU_PRELOAD": "tiny-qwen"}
    async with stack(new_database(), new_folder(), gpu=gpu) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def red(studio: Stack) -> dict[str, Any]:
    """A picture that the user has drawn."""
    body = {"prompt": RED, "seed": 7, "size": "96x96", "visibility": "private"}
    return dict((await studio.user.create(**body, metadata={"flow_id": "a"}, wait=60))["images"][0])


async def pixels(user: User, image: dict[str, Any]) -> Image.Image:
    content = await user.http.get(f"/v1/images/{image['id']}/content")
    return Image.open(io.BytesIO(content.content)).convert("RGB")


async def ask(user: User, image: dict[str, Any], what: str, wait: int = 60, **body: Any) -> httpx.Response:
    headers = {"Prefer": f"wait={wait}"}
    return await user.http.post(f"/v1/images/{image['id']}/{what}", json=body, headers=headers)


# What is refused


@pytest.mark.parametrize(
    ("what", "body"),
    [
        ("variations", {"num_images": 0}),
        ("variations", {"num_images": 11}),
        ("variations", {"prompt": "a"}),
        ("upscale", {"scale": 3}),
        ("upscale", {"strength": 0}),
        ("upscale", {"prompt": " "}),
    ],
)
async def test_a_body_that_is_none_is_refused(
    studio: Stack, red: dict[str, Any], what: str, body: dict[str, Any]
) -> None:
    assert (await ask(studio.user, red, what, **body)).status_code == 422


async def test_a_picture_does_not_grow_beyond_the_limit(studio: Stack) -> None:
    wide = (await studio.user.create(prompt="a", model="instant", size="1040x512", wait=30))["images"][0]
    answer = await ask(studio.user, wide, "upscale", scale=4)
    assert (answer.status_code, answer.json()["code"]) == (400, "too_large")
    assert "4096" in answer.json()["detail"]


async def test_models_that_do_not_draw_over_a_picture_are_told(product: Stack) -> None:
    card = (await product.user.create(prompt="a", size="64x64", wait=30))["images"][0]
    answer = await ask(product.user, card, "upscale")
    assert (answer.status_code, answer.json()["code"]) == (400, "unsupported_parameter")


# What comes out


async def test_an_upscaled_picture_shows_the_same_creature_with_new_detail(
    studio: Stack, red: dict[str, Any]
) -> None:
    small = await pixels(studio.user, red)
    answer = await ask(studio.user, red, "upscale", scale=2, seed=7)
    job = answer.json()
    assert (answer.status_code, job["status"], job["task"]) == (200, "completed", "upscale"), job
    assert job["params"]["references"] == [{"image_id": red["id"], "role": "init"}]
    image = job["images"][0]
    assert (image["kind"], image["width"], image["height"]) == ("upscale", 192, 192)
    large = await pixels(studio.user, image)
    assert large.size == (192, 192)
    assert judge(large) == judge(small)
    plain = small.resize((192, 192), Image.Resampling.LANCZOS)
    assert np.abs(np.asarray(large, int) - np.asarray(plain, int)).mean() > 1
    row = studio.rows("select visibility from public.generated_assets where id = %s", image["id"])[0]
    assert row["visibility"] == "private"
    recipe = (await studio.user.http.get(f"/v1/images/{image['id']}/recipe")).json()
    assert (recipe["task"], recipe["references"]) == ("upscale", [{"sha256": red["sha256"], "role": "init"}])


async def test_an_upscaled_picture_is_drawn_again_and_varied(studio: Stack, red: dict[str, Any]) -> None:
    image = (await ask(studio.user, red, "upscale", scale=2)).json()["images"][0]
    again = await studio.user.http.post(
        "/v1/replay", json={"image_id": image["id"]}, headers={"Prefer": "wait=60"}
    )
    assert again.json()["replay"]["equal"] is True
    varied = (await ask(studio.user, image, "variations")).json()
    assert (varied["status"], varied["model"]) == ("completed", "tiny-qwen-edit"), varied["error"]
    assert varied["params"]["references"] == [{"image_id": image["id"], "role": "reference"}]
    assert varied["params"]["variation_of"] == image["id"]


async def test_a_picture_without_a_model_of_its_own_is_upscaled_by_the_default_one(studio: Stack) -> None:
    card = (await studio.user.create(prompt=RED, model="instant", size="96x96", wait=30))["images"][0]
    job = (await ask(studio.user, card, "upscale", prompt="a green spiky creature", strength=0.9)).json()
    assert (job["status"], job["model"]) == ("completed", "tiny-qwen")
    assert job["prompt"]["final"] == "a green spiky creature"


async def test_variations_have_the_recipe_and_other_seeds(studio: Stack, red: dict[str, Any]) -> None:
    answer = await ask(studio.user, red, "variations", num_images=2)
    job, first = answer.json(), await studio.user.job(red["job_id"])
    assert (answer.status_code, job["status"], len(job["images"])) == (200, "completed", 2), job
    assert job["prompt"] == first["prompt"]
    same = ("width", "height", "num_inference_steps", "true_cfg_scale")
    assert [job["params"][name] for name in same] == [first["params"][name] for name in same]
    assert job["params"]["variation_of"] == red["id"]
    assert job["metadata"] == {}
    shas = {red["sha256"], *(image["sha256"] for image in job["images"])}
    assert len(shas) == 3
    assert {image["kind"] for image in job["images"]} == {"variation"}
    rows = studio.rows("select visibility from public.generated_assets where job_id = %s", job["id"])
    assert [row["visibility"] for row in rows] == ["private", "private"]


async def test_a_repeat_with_the_same_key_is_one_job(studio: Stack, red: dict[str, Any]) -> None:
    headers = {"Idempotency-Key": "variations"}
    path = f"/v1/images/{red['id']}/variations"
    answers = [await studio.user.http.post(path, json={}, headers=headers) for _ in range(2)]
    assert answers[0].json()["id"] == answers[1].json()["id"]
    other = await studio.user.http.post(path, json={"num_images": 2}, headers=headers)
    assert other.json()["code"] == "idempotency_key_reused"


def test_the_estimate_of_an_upscale_counts_its_tiles() -> None:
    tiny, qwen = catalog.find("tiny-qwen"), catalog.find("qwen-image")
    assert tiny and qwen
    assert Work(tiny, 192, 192, task="upscale").pixels == 9 * 96 * 96
    large = Work(qwen, 4096, 4096, task="upscale")
    assert large.pixels > 4096 * 4096
    assert large.pixels % (1328 * 1328) == 0
