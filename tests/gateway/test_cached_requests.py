"""Equal requests whose caller wants the pictures that are there: drawn once, charged once, and told so."""

import asyncio
import io
from typing import Any

import httpx
import pytest
from PIL import Image

from tests.gateway.test_jobs import held_queue
from tests.support.stack import Stack, User

BODY = {"prompt": "a", "size": "64x64", "cache": True}
HIT = "Tenkaigen; hit"


async def ask(user: User, path: str = "/v1/jobs", key: str = "", **body: Any) -> httpx.Response:
    headers = {"Prefer": "wait=20", **({"Idempotency-Key": key} if key else {})}
    return await user.http.post(path, json={**BODY, **body}, headers=headers)


async def jobs_of(user: User) -> list[dict[str, Any]]:
    return list((await user.http.get("/v1/jobs")).json()["data"])


def png(color: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 64), color).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    "other",
    [
        {"cache": False},
        {"prompt": "b"},
        {"seed": 1},
        {"num_images": 2},
        {"size": "64x80"},
        {"output_format": "webp"},
        {"num_inference_steps": 7},
        {"style": "Anime"},
        {"visibility": "private"},
    ],
    ids=lambda other: next(iter(other)),
)
async def test_another_request_is_drawn(product: Stack, other: dict[str, Any]) -> None:
    user = product.new_user()
    first, second = await ask(user), await ask(user, **other)
    assert first.json()["id"] != second.json()["id"]
    for answer in (first, second):
        assert (answer.json()["cached"], answer.headers.get("cache-status")) == (False, None)


async def test_nobody_gets_a_picture_of_somebody_else(product: Stack) -> None:
    one, other = product.new_user(), product.new_user()
    first, second = await ask(one), await ask(other)
    assert first.json()["id"] != second.json()["id"] and second.json()["cached"] is False


async def test_who_does_not_ask_for_it_leaves_nothing_to_be_found(product: Stack) -> None:
    user = product.new_user()
    first = await ask(user, cache=False)
    assert (await ask(user)).json()["id"] != first.json()["id"]


async def test_a_job_that_has_lost_a_picture_is_not_found(product: Stack) -> None:
    user = product.new_user()
    first = (await ask(user, num_images=2)).json()
    path = f"/v1/images/{first['images'][0]['id']}"
    await user.http.delete(path)
    assert (await ask(user, num_images=2)).json()["id"] != first["id"]


async def test_a_job_that_has_not_ended_is_not_found(product: Stack) -> None:
    user = product.new_user()
    async with held_queue(product):
        answers = [(await user.http.post("/v1/jobs", json=BODY)).json() for _ in range(2)]
        for answer in answers:
            await user.http.post(f"/v1/jobs/{answer['id']}/cancel")
    assert [answer["cached"] for answer in answers] == [False, False]
    assert answers[0]["id"] != answers[1]["id"]


async def test_an_equal_request_is_answered_with_the_job_that_is_there(product: Stack) -> None:
    user = product.new_user()
    first = await ask(user, metadata={"flow_id": "f"})
    again = await ask(user, priority="low", metadata={"flow_id": "g"})
    assert (again.status_code, again.headers["cache-status"]) == (200, HIT)
    assert again.json() == {**first.json(), "cached": True}
    short = await ask(user, "/api/generate")
    assert (short.json()["jobId"], short.headers["cache-status"]) == (first.json()["id"], HIT)
    assert [job["id"] for job in await jobs_of(user)] == [first.json()["id"]]
    assert (await user.job(first.json()["id"]))["cached"] is False


async def test_a_key_replays_what_was_found(product: Stack) -> None:
    user = product.new_user()
    await ask(user)
    found, again = await ask(user, key="k"), await ask(user, key="k")
    assert again.json() == found.json() and again.headers["idempotent-replayed"] == "true"
    other = await ask(user, key="k", prompt="b")
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    assert len(await jobs_of(user)) == 1


async def test_equal_requests_at_once_with_one_key_find_one_job(product: Stack) -> None:
    user = product.new_user()
    first = (await ask(user)).json()["id"]
    answers = await asyncio.gather(*(ask(user, key="k") for _ in range(8)))
    assert {answer.json()["id"] for answer in answers} == {first}
    assert len(await jobs_of(user)) == 1


async def test_pictures_of_an_edit_count_by_what_they_show(product: Stack) -> None:
    user = product.new_user()

    async def edit(content: bytes) -> dict[str, Any]:
        fields = {"prompt": "a", "size": "64x64", "cache": "true"}
        answer = await user.http.post("/v1/images/edits", data=fields, files={"image": content})
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    red, blue = png("red"), png("blue")
    first, again, other = await edit(red), await edit(red), await edit(blue)
    assert (first["cached"], again["cached"], other["cached"]) == (False, True, False)
    assert again["job_id"] == first["job_id"] != other["job_id"]
    uploads = product.rows("select id from public.uploads where user_id = %s and deleted_at is null", user.id)
    assert len(uploads) == 2, "the second of the equal pictures is not kept"
