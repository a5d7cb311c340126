"""What a client sees while a picture takes its time, and what becomes of the job when it does not wait."""

import asyncio
import base64
import io
import json
import os
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest
import pytest_asyncio
from PIL import Image

from tests.support.stack import Stack, User

SMALL = {"size": "64x64"}


@pytest.fixture
def user(slow: Stack) -> User:
    return slow.new_user()


@pytest_asyncio.fixture(loop_scope="session")
async def sdk(slow: Stack, user: User) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{slow.url}/v1", api_key=user.key, max_retries=0) as client:
        yield client


async def only_job(user: User, **filters: str) -> dict[str, Any]:
    (job,) = (await user.http.get("/v1/jobs", params=filters)).json()["data"]
    return dict(job)


async def started(user: User, **filters: str) -> dict[str, Any]:
    """The user's only job, once it is there."""
    async with asyncio.timeout(30):
        while not (await user.http.get("/v1/jobs", params=filters)).json()["data"]:
            await asyncio.sleep(0.05)
    return await only_job(user, **filters)


async def test_a_clients_own_patience_ends_and_its_job_goes_on(
    sdk: openai.AsyncOpenAI, user: User, slow: Stack
) -> None:
    name = f"request-{os.urandom(8).hex()}"
    with pytest.raises(openai.APITimeoutError):
        await sdk.images.generate(prompt="a", **SMALL, timeout=0.5, extra_headers={"x-request-id": name})
    job = await started(user, **{"metadata.request_id": name})
    assert (await user.ended(job["id"]))["status"] == "completed"


async def test_a_repeat_attaches_to_the_running_job(user: User, slow: Stack) -> None:
    """Cut off twice, the third try brings the picture."""
    client = openai.AsyncOpenAI(base_url=f"{slow.url}/v1", api_key=user.key, max_retries=9, timeout=1.2)
    answer = await client.images.generate(prompt="a", **SMALL)
    assert answer.data and answer.data[0].b64_json
    assert (await only_job(user))["id"] == (answer.model_extra or {})["job_id"]


async def test_a_job_that_is_canceled_is_a_conflict(sdk: openai.AsyncOpenAI, user: User) -> None:
    waiting = asyncio.create_task(sdk.images.generate(prompt="a", **SMALL))
    job = await started(user)
    await user.http.post(f"/v1/jobs/{job['id']}/cancel")
    with pytest.raises(openai.ConflictError) as raised:
        await waiting
    assert raised.value.code == "job_canceled"
    assert raised.value.response.headers["x-should-retry"] == "false"


async def test_a_job_past_its_deadline_is_an_error_that_nobody_repeats(user: User, slow: Stack) -> None:
    client = openai.AsyncOpenAI(base_url=f"{slow.url}/v1", api_key=user.key, max_retries=5)
    with pytest.raises(openai.InternalServerError) as raised:
        await client.images.generate(prompt="a", **SMALL, extra_body={"expires_in_seconds": 1})
    assert (raised.value.status_code, raised.value.code) == (504, "expired")
    assert raised.value.response.headers["location"] == f"/v1/jobs/{(await only_job(user))['id']}"


async def test_a_key_in_flight_is_a_conflict_until_the_job_has_ended(
    sdk: openai.AsyncOpenAI, user: User
) -> None:
    headers = {"Idempotency-Key": "slow"}
    waiting = asyncio.create_task(sdk.images.generate(prompt="a", **SMALL, extra_headers=headers))
    await started(user)
    with pytest.raises(openai.ConflictError) as raised:
        await sdk.images.generate(prompt="a", **SMALL, extra_headers=headers)
    assert raised.value.code == "idempotency_key_in_flight"
    first = await waiting
    assert await sdk.images.generate(prompt="a", **SMALL, extra_headers=headers) == first


@pytest.mark.parametrize("partial_images", [0, 3])
async def test_partial_pictures_come_before_the_picture(
    sdk: openai.AsyncOpenAI, user: User, partial_images: int
) -> None:
    stream = await sdk.images.generate(
        prompt="a",
        n=2,
        size="256x128",
        stream=True,
        partial_images=partial_images,
        output_format="jpeg",
        extra_body={"num_inference_steps": 30, "seed": 1},
    )
    events: list[Any] = [event async for event in stream]
    *partial, first, second = events
    assert {first.type, second.type} == {"image_generation.completed"}
    assert min(partial_images, 1) <= len(partial) <= partial_images
    finished = [corner(opened(event.b64_json)) for event in (first, second)]
    for index, event in enumerate(partial):
        assert (event.type, event.partial_image_index) == ("image_generation.partial_image", index)
        assert (event.size, event.output_format, event.background) == ("256x128", "jpeg", "opaque")
        picture = opened(event.b64_json)
        assert (picture.format, picture.size) == ("JPEG", (256, 128))
        assert any(alike(corner(picture), colors) for colors in finished)


async def test_an_error_after_the_stream_has_begun_is_raised(sdk: openai.AsyncOpenAI, user: User) -> None:
    stream = await sdk.images.generate(prompt="a", **SMALL, stream=True, extra_body={"expires_in_seconds": 1})
    with pytest.raises(openai.APIError) as raised:
        async for _ in stream:
            pass
    assert raised.value.code == "expired"


async def test_a_stream_that_is_cut_loses_nothing(sdk: openai.AsyncOpenAI, user: User) -> None:
    stream = await sdk.images.generate(prompt="a", **SMALL, stream=True)
    await stream.close()
    job = await user.ended((await started(user))["id"])
    assert job["status"] == "completed"


async def test_a_jobs_events_show_how_it_looks_so_far(user: User) -> None:
    job = await user.create(prompt="a", size="256x128", num_images=2, num_inference_steps=30)
    seen: list[tuple[int, str, dict[str, Any]]] = []
    async with user.http.stream("GET", f"/v1/jobs/{job['id']}/events") as answer:
        async for event in events_of(answer):
            seen.append(event)
    ids = [number for number, _, _ in seen]
    assert ids == sorted(set(ids))
    looks = [(number, data) for number, name, data in seen if name == "preview"]
    assert looks and seen[-1][1] == "completed"
    number, look = looks[0]
    assert (look["id"], look["status"], look["images"]) == (job["id"], "processing", [])
    assert look["preview"]["content_type"] == "image/webp"
    assert opened(look["preview"]["b64_json"]).size == (256, 128)
    headers = {"Last-Event-ID": str(number)}
    async with user.http.stream("GET", f"/v1/jobs/{job['id']}/events", headers=headers) as answer:
        resumed = [event async for event in events_of(answer)]
    assert [event[0] for event in resumed][-1] == ids[-1]
    assert all(event[0] > number for event in resumed)


async def events_of(answer: httpx.Response) -> AsyncIterator[tuple[int, str, dict[str, Any]]]:
    fields: dict[str, str] = {}
    async for line in answer.aiter_lines():
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        elif fields:
            if "data" in fields:
                yield int(fields["id"]), fields["event"], json.loads(fields["data"])
            fields = {}


def opened(data: str) -> Image.Image:
    picture = Image.open(io.BytesIO(base64.b64decode(data)))
    picture.load()
    return picture


def alike(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    return all(abs(a - b) < 20 for a, b in zip(one, other, strict=True))


def corner(picture: Image.Image) -> tuple[int, ...]:
    found = picture.convert("RGB").getpixel((2, 2))
    assert isinstance(found, tuple)
    return tuple(int(channel) for channel in found)
