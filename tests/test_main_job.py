"""The main job on the bundled model, judged from pixels."""

import asyncio
import io
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest_asyncio
from PIL import Image

from scripts.tiny.captions import plain_caption
from scripts.tiny.creatures import random_picture
from tests.judge import judge
from tests.support.stack import Stack, stack

COUNT = 40


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def studio(new_database: Callable[[], str], new_folder: Callable[[], Path]) -> AsyncIterator[Stack]:
    async with stack(new_database(), new_folder(), gpu={"GPU_PRELOAD": "tiny-qwen"}) as running:
        yield running


async def pixels(studio: Stack, job: dict) -> Image.Image:  # type: ignore[type-arg]
    content = await studio.user.http.get(f"/v1/images/{job['images'][0]['id']}/content")
    return Image.open(io.BytesIO(content.content)).convert("RGB")


async def test_a_negative_prompt_that_would_do_nothing_is_refused_by_name(studio: Stack) -> None:
    body = {"prompt": "a red round creature", "negative_prompt": "a hat"}
    refused = await studio.user.http.post("/v1/jobs", json=body)
    assert refused.status_code == 400
    assert (refused.json()["code"], refused.json()["error"]["param"]) == (
        "unsupported_parameter",
        "negative_prompt",
    )
    job = await studio.user.create(**body, true_cfg_scale=2.0, wait=60)
    assert (job["status"], job["prompt"]["negative"]) == ("completed", "a hat")


async def test_forty_jobs_at_once_all_show_what_their_prompts_say(studio: Stack) -> None:
    dice = random.Random(20)
    wanted = [random_picture(dice) for _ in range(COUNT)]
    created = await asyncio.gather(
        *(
            studio.user.create(prompt=plain_caption(picture), seed=n, size="384x384")
            for n, picture in enumerate(wanted)
        )
    )
    jobs = [await studio.user.ended(job["id"], within=90) for job in created]
    assert [job["status"] for job in jobs] == ["completed"] * COUNT
    seen = [judge(await pixels(studio, job)) for job in jobs]
    for fact in ("color", "scene", "body"):
        right = sum(s[fact] == picture.facts[fact] for s, picture in zip(seen, wanted, strict=True))
        assert right >= 0.95 * COUNT, f"{fact}: {right} of {COUNT}"


async def test_the_same_seed_draws_the_same_bytes(studio: Stack) -> None:
    prompt = "a green square creature with a red hat, front view, in a forest"
    first, again = [await studio.user.create(prompt=prompt, seed=3, wait=60) for _ in range(2)]
    other = await studio.user.create(prompt=prompt, seed=4, wait=60)
    assert first["images"][0]["sha256"] == again["images"][0]["sha256"] != other["images"][0]["sha256"]


async def test_the_picture_has_the_size_asked_for_and_the_recipe_says_how_it_came_to_it(
    studio: Stack,
) -> None:
    job = await studio.user.create(prompt="a red round creature, front view, by day", size="panel", wait=60)
    image = await pixels(studio, job)
    assert image.size == (1728, 2304)
    (call,) = (await studio.user.http.get(f"/v1/jobs/{job['id']}/calls")).json()["data"]
    result = call["result"]
    assert (result["native_width"], result["native_height"], result["resampling"]) == (96, 96, "lanczos")


async def test_a_sum_of_costs_is_what_the_seconds_cost(studio: Stack) -> None:
    job = await studio.user.create(prompt="a red round creature", wait=60)
    assert job["cost"]["gpu_seconds"] > 0
    assert job["cost"]["usd_micros"] == round(job["cost"]["gpu_seconds"] * 47_160 / 3600)
