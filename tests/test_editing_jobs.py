"""Jobs that bring pictures: of one's own only, fetched by the GPU service, judged from pixels."""

import io
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest_asyncio
from PIL import Image, ImageChops

from tests.judge import judge
from tests.support.stack import Stack, User, stack

RED = "a red round creature with a blue hat, front view, on a beach"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def studio(new_database: Callable[[], str], new_folder: Callable[[], Path]) -> AsyncIterator[Stack]:
    models = {"GPU_MODELS": "tiny-qwen,tiny-qwen-edit", "GPU_PRELOAD": "tiny-qwen-edit"}
    async with stack(new_database(), new_folder(), gpu=models) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def red(studio: Stack) -> dict[str, Any]:
    """A picture that the user has drawn."""
    job = await studio.user.create(prompt=RED, seed=7, size="384x384", wait=60)
    return dict(job["images"][0])


async def pixels(user: User, image: dict[str, Any]) -> Image.Image:
    content = await user.http.get(f"/v1/images/{image['id']}/content")
    return Image.open(io.BytesIO(content.content)).convert("RGB")


async def refused(user: User, **body: Any) -> dict[str, Any]:
    answer = await user.http.post("/v1/jobs", json={"prompt": "make the creature green", **body})
    assert answer.status_code >= 400, answer.text
    return dict(answer.json())


async def test_a_picture_of_somebody_else_is_like_one_that_does_not_exist(
    studio: Stack, red: dict[str, Any]
) -> None:
    stranger = studio.new_user()
    answers = [await refused(stranger, references=[{"image_id": i}]) for i in (red["id"], str(uuid4()))]
    assert [answer["code"] for answer in answers] == ["not_found", "not_found"]
    assert not studio.rows("select from public.generation_jobs where user_id = %s", stranger.id)


async def test_what_a_model_does_not_take_is_refused_by_name(studio: Stack, red: dict[str, Any]) -> None:
    own = {"image_id": red["id"]}
    for body, param in (
        ({"references": [own] * 4}, "references"),
        ({"references": [own], "model": "tiny-qwen"}, "references"),
        ({"references": [{**own, "role": "init"}] * 2}, "references"),
        ({"references": [own], "strength": 0.5}, "strength"),
        ({"mask": own}, "mask"),
    ):
        problem = await refused(studio.user, **body)
        assert (problem["code"], problem["error"]["param"]) == ("unsupported_parameter", param)


async def test_a_reference_keeps_the_character_and_changes_what_was_asked(
    studio: Stack, red: dict[str, Any]
) -> None:
    job = await studio.user.create(
        prompt="make the creature green", size="384x384", references=[{"image_id": red["id"]}], wait=60
    )
    assert (job["status"], job["model"]) == ("completed", "tiny-qwen-edit"), job["error"]
    assert job["params"]["references"] == [{"image_id": red["id"], "role": "reference"}]
    seen = judge(await pixels(studio.user, job["images"][0]))
    assert (seen["color"], seen["hat"], seen["scene"]) == ("green", "blue", "beach")


async def test_the_debug_view_names_the_file_and_keeps_no_address(studio: Stack, red: dict[str, Any]) -> None:
    job = await studio.user.create(prompt="remove the hat", references=[{"image_id": red["id"]}], wait=60)
    (call,) = (await studio.user.http.get(f"/v1/jobs/{job['id']}/calls")).json()["data"]
    (use,) = call["request"]["references"]
    assert use["sha256"] == red["sha256"]
    assert "http" not in use["url"]
    assert "signature" not in str(call["request"])


async def test_a_picture_can_be_drawn_over_as_far_as_strength_says(
    studio: Stack, red: dict[str, Any]
) -> None:
    before = await pixels(studio.user, red)
    away = []
    for strength in (0.2, 0.9):
        job = await studio.user.create(
            prompt="a green square creature in a forest",
            size="384x384",
            seed=3,
            references=[{"image_id": red["id"], "role": "init"}],
            strength=strength,
            wait=60,
        )
        assert (job["status"], job["model"]) == ("completed", "tiny-qwen"), job["error"]
        difference = ImageChops.difference(before, await pixels(studio.user, job["images"][0])).convert("L")
        away.append(sum(difference.tobytes()))
    assert away[0] < away[1] / 2


async def test_a_style_picture_is_named_in_the_final_prompt(studio: Stack, red: dict[str, Any]) -> None:
    own = {"image_id": red["id"]}
    body = {"references": [own, {**own, "role": "style"}], "prompt": "both creatures side by side"}
    job = await studio.user.create(**body, wait=60)
    assert job["prompt"]["input"] == "both creatures side by side"
    assert job["prompt"]["final"] == "both creatures side by side, in the style of picture 2"


async def test_a_retry_brings_the_same_pictures(studio: Stack, red: dict[str, Any]) -> None:
    job = await studio.user.create(prompt="remove the hat", references=[{"image_id": red["id"]}])
    await studio.user.http.post(f"/v1/jobs/{job['id']}/cancel")
    if (await studio.user.ended(job["id"]))["status"] != "canceled":
        return  # it was faster
    again = (await studio.user.http.post(f"/v1/jobs/{job['id']}/retry")).json()
    ended = await studio.user.ended(again["id"])
    assert (ended["status"], ended["params"]["references"]) == ("completed", job["params"]["references"])


async def test_a_job_whose_picture_has_gone_fails_before_the_gpu(studio: Stack) -> None:
    drawn = (await studio.user.create(prompt=RED, seed=8, size="384x384", wait=60))["images"][0]
    (row,) = studio.rows("select key from public.generated_assets where id = %s", drawn["id"])
    (studio.folder / "buckets" / "generated-designs" / row["key"]).unlink()
    job = await studio.user.create(
        prompt="make it green", references=[{"image_id": drawn["id"]}], visibility="private", wait=60
    )
    assert (job["status"], job["error"]["code"]) == ("failed", "reference_deleted")
    assert job["cost"]["usd_micros"] == 0
