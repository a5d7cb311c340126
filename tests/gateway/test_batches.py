"""Batches over HTTP: all jobs or none, each then on its own, the whole paid for before anything runs."""

import asyncio
import hashlib
import io
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
import pytest_asyncio
from PIL import Image

from tests.support.stack import Stack, User, stack

CARD: dict[str, Any] = {"prompt": "a card", "size": "64x64"}
KEY = {"Idempotency-Key": "once"}


def cards(count: int, **fields: Any) -> list[dict[str, Any]]:
    return [CARD | {"seed": n} | fields for n in range(count)]


async def post(user: User, requests: list[dict[str, Any]], **headers: str) -> httpx.Response:
    return await user.http.post("/v1/batches", json={"requests": requests}, headers=headers)


async def drawn(user: User, requests: list[dict[str, Any]], within: float = 200) -> dict[str, Any]:
    """The batch once all of it has ended."""
    answer = await post(user, requests, Prefer="wait=60")
    assert answer.status_code in (200, 202), answer.text
    batch = dict(answer.json())
    async with asyncio.timeout(within):
        while batch["finished_at"] is None:
            await asyncio.sleep(0.5)
            batch = dict((await user.http.get(f"/v1/batches/{batch['id']}")).json())
    return batch


def jobs_of(product: Stack, user: User) -> int:
    (row,) = product.rows("select count(*) as n from public.generation_jobs where user_id = %s", user.id)
    return int(row["n"])


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def priced(new_database: Callable[[], str], new_folder: Callable[[], Path]) -> AsyncIterator[Stack]:
    """A product on a GPU that costs something, whose jobs stay in the queue."""
    gpu = {"GPU_MODELS": "instant", "GPU_NAME": "B200"}
    async with stack(new_database(), new_folder(), gpu=gpu, default_model="instant", worker=False) as running:
        yield running


# What is refused


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "requests"),
        ({"requests": []}, "requests"),
        ({"requests": [CARD] * 101}, "requests"),
        ({"requests": [CARD, {"size": "64x64"}]}, "requests.1.prompt"),
        ({"requests": [CARD, CARD | {"colour": "red"}]}, "requests.1.colour"),
        ({"requests": [CARD], "parallel": True}, "parallel"),
    ],
)
async def test_a_body_that_is_none_is_refused(product: Stack, body: dict[str, Any], param: str) -> None:
    answer = await product.user.http.post("/v1/batches", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, param)


NOBODYS = [{"image_id": str(uuid4())}]


@pytest.mark.parametrize(
    ("path", "wrong", "status", "code", "param"),
    [
        ("/v1/batches", {"model": "nobody"}, 400, "unknown_model", "requests.2.model"),
        ("/v1/batches", {"strength": 0.5}, 400, "unsupported_parameter", "requests.2.strength"),
        ("/v1/batches", {"references": NOBODYS}, 404, "not_found", "requests.2.references"),
        ("/v1/batches", {"cache": True}, 400, "unsupported_parameter", "requests.2.cache"),
        ("/v1/batches/estimate", {"model": "nobody"}, 400, "unknown_model", "requests.2.model"),
        ("/v1/batches/estimate", {"strength": 0.5}, 400, "unsupported_parameter", "requests.2.strength"),
    ],
)
async def test_one_request_that_is_refused_refuses_the_batch_by_its_place(
    product: Stack, path: str, wrong: dict[str, Any], status: int, code: str, param: str
) -> None:
    user = product.new_user()
    answer = await user.http.post(path, json={"requests": [*cards(2), CARD | wrong, CARD]})
    problem = answer.json()
    assert (answer.status_code, problem["code"], problem["error"]["param"]) == (status, code, param)
    assert problem["detail"].startswith("Request 2: ")
    assert jobs_of(product, user) == 0
    assert (await user.http.get("/v1/batches")).json()["data"] == []


async def test_a_credential_that_only_reads_makes_and_cancels_no_batch(product: Stack) -> None:
    reader = product.new_user(("read",))
    assert (await post(reader, [CARD])).status_code == 403
    assert (await reader.http.post(f"/v1/batches/{uuid4()}/cancel")).status_code == 403


async def test_a_batch_beyond_the_budget_makes_no_job_and_reserves_nothing(priced: Stack) -> None:
    user = priced.new_user()
    one = (await user.http.post("/v1/batches/estimate", json={"requests": [CARD]})).json()
    await user.http.put("/v1/budget", json={"limit_usd_micros": 20_000})
    warned = (await user.http.post("/v1/batches/estimate", json={"requests": cards(10)})).json()
    assert warned["estimated_usd_micros"] == 10 * one["estimated_usd_micros"]
    short = ["budget_exceeded" in [w["code"] for w in each["warnings"]] for each in warned["requests"]]
    assert short == sorted(short) and short[-1] and not short[0]
    assert "budget_exceeded" in [warning["code"] for warning in warned["warnings"]]

    answer = await post(user, cards(10), **KEY)
    assert (answer.status_code, answer.json()["code"]) == (402, "budget_exceeded")
    assert answer.headers["x-should-retry"] == "false"
    for table in ("public.generation_jobs", "public.batches", "private.ledger", "private.idempotency_keys"):
        assert priced.rows(f"select from {table} where user_id = %s", user.id) == []

    fitting = short.index(True)
    answer = await post(user, cards(fitting), **KEY)
    assert (answer.status_code, len(answer.json()["jobs"])) == (202, fitting)
    assert (await user.http.post("/v1/jobs", json=CARD)).status_code == 402


@pytest.mark.usefixtures("same_day")
async def test_a_batch_beyond_the_days_quota_makes_no_job(priced: Stack) -> None:
    user = priced.new_user()
    await user.http.put("/v1/budget", json={"max_images_per_day": 3})
    answer = await post(user, cards(2, num_images=2))
    assert (answer.status_code, answer.json()["code"]) == (429, "quota_exceeded")
    assert jobs_of(priced, user) == 0
    assert (await post(user, cards(3))).status_code == 202


# How it is made


async def test_a_batch_is_answered_with_its_jobs_in_order_before_any_gpu_work(priced: Stack) -> None:
    user = priced.new_user()
    answer = await post(user, cards(4, priority="low"))
    batch = answer.json()
    assert answer.status_code == 202
    assert answer.headers["location"] == f"/v1/batches/{batch['id']}"
    assert int(answer.headers["retry-after"]) >= 1
    assert (batch["object"], batch["status"], batch["finished_at"]) == ("batch", "queued", None)
    assert [job["params"]["seed"] for job in batch["jobs"]] == [0, 1, 2, 3]
    assert {(job["status"], job["priority"], job["batch_id"]) for job in batch["jobs"]} == {
        ("queued", "low", batch["id"])
    }
    assert batch["cost"]["estimated_usd_micros"] == sum(
        job["cost"]["estimated_usd_micros"] for job in batch["jobs"]
    )
    assert (await user.http.get(answer.headers["location"])).json()["jobs"] == batch["jobs"]
    listed = await user.http.get("/v1/jobs", params={"batch_id": batch["id"]})
    assert {job["id"] for job in listed.json()["data"]} == {job["id"] for job in batch["jobs"]}


async def test_a_hundred_requests_are_drawn(product: Stack) -> None:
    batch = await drawn(product.new_user(), cards(100))
    assert batch["request_counts"] == {
        **{"total": 100, "completed": 100},
        **{"queued": 0, "processing": 0, "failed": 0, "canceled": 0},
    }
    assert (batch["status"], batch["finished_at"] is not None) == ("completed", True)
    assert len({image["id"] for job in batch["jobs"] for image in job["images"]}) == 100


async def test_waiting_ends_when_the_time_is_over(priced: Stack) -> None:
    answer = await post(priced.new_user(), cards(2), Prefer="wait=1")
    assert (answer.status_code, answer.json()["status"]) == (202, "queued")
    assert answer.headers["preference-applied"] == "wait=1"


async def test_a_repeated_key_replays_the_answer_and_another_body_is_refused(product: Stack) -> None:
    user = product.new_user()
    first = await post(user, cards(3), **KEY)
    again = await post(user, cards(3), **KEY)
    assert (again.status_code, again.json()) == (first.status_code, first.json())
    assert again.headers["idempotent-replayed"] == "true"
    other = await post(user, cards(4), **KEY)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    assert jobs_of(product, user) == 3


async def test_twenty_equal_requests_at_once_make_one_batch(product: Stack) -> None:
    user = product.new_user()
    answers = await asyncio.gather(*(post(user, cards(3), **KEY) for _ in range(20)))
    assert {answer.status_code for answer in answers} <= {200, 202, 409}
    made = {answer.json()["id"] for answer in answers if answer.status_code != 409}
    assert (len(made), jobs_of(product, user)) == (1, 3)
    assert len((await user.http.get("/v1/batches")).json()["data"]) == 1


async def test_a_clients_own_repeat_finds_the_batch_without_a_key(priced: Stack) -> None:
    user = priced.new_user()
    first = await post(user, cards(3), **{"x-stainless-retry-count": "0"})
    again = await post(user, cards(3), **{"x-stainless-retry-count": "1"})
    assert again.json()["id"] == first.json()["id"]
    assert again.headers["idempotent-replayed"] == "true"
    assert jobs_of(priced, user) == 3


# What becomes of it


async def test_what_fails_leaves_the_rest_alone_and_is_told_by_its_place(
    new_database: Callable[[], str], new_folder: Callable[[], Path]
) -> None:
    """The second request waits for the others, and longer than it may."""
    requests = [
        CARD | {"priority": "high"},
        CARD | {"priority": "low", "expires_in_seconds": 1},
        CARD,
    ]
    gpu = {"GPU_MODELS": "instant", "INSTANT_SECONDS": "1.5"}
    one_at_a_time = {"default_model": "instant", "jobs_in_flight_per_user": 1}
    async with stack(new_database(), new_folder(), gpu=gpu, **one_at_a_time) as product:
        user = product.user
        batch = await drawn(user, requests)
        results = (await user.http.get(f"/v1/batches/{batch['id']}/results")).json()["data"]
    assert (batch["status"], batch["finished_at"] is not None) == ("completed", True)
    assert (batch["request_counts"]["completed"], batch["request_counts"]["failed"]) == (2, 1)
    assert [each["index"] for each in results] == [0, 1, 2]
    assert [each["job_id"] for each in results] == [job["id"] for job in batch["jobs"]]
    assert [each["status"] for each in results] == ["completed", "failed", "completed"]
    assert [len(each["images"]) for each in results] == [1, 0, 1]
    assert (results[1]["error"]["code"], results[0]["error"]) == ("expired", None)
    assert batch["cost"]["usd_micros"] == sum(each["cost"]["usd_micros"] for each in results)


async def test_a_batch_with_a_failure_is_completed_and_one_of_failures_only_has_failed(priced: Stack) -> None:
    user = priced.new_user()
    batch = (await post(user, cards(3))).json()

    async def end(place: int, status: str, error: str | None = None) -> dict[str, Any]:
        priced.rows(
            """update public.generation_jobs set status = 'processing' where id = %s returning id""",
            batch["jobs"][place]["id"],
        )
        priced.rows(
            """update public.generation_jobs
               set status = %s::public.job_status, error_code = %s, wake_at = null, finished_at = now()
               where id = %s returning id""",
            *(status, error, batch["jobs"][place]["id"]),
        )
        return dict((await user.http.get(f"/v1/batches/{batch['id']}")).json())

    assert (await end(0, "failed", "gpu_failed"))["status"] == "processing"
    assert (await end(1, "failed", "gpu_failed"))["finished_at"] is None
    assert (await end(2, "completed"))["status"] == "completed"
    other = (await post(user, cards(2))).json()
    batch = other
    await end(0, "failed", "gpu_failed")
    assert (await end(1, "canceled"))["status"] == "failed"


async def test_a_canceled_batch_cancels_what_has_not_ended_and_keeps_what_has(priced: Stack) -> None:
    user = priced.new_user()
    await user.http.put("/v1/budget", json={"limit_usd_micros": 10**9})
    batch = (await post(user, cards(5))).json()
    await user.http.post(f"/v1/jobs/{batch['jobs'][0]['id']}/cancel")
    held = (await user.http.get("/v1/budget")).json()["reserved_usd_micros"]
    for _ in range(2):
        answer = await user.http.post(f"/v1/batches/{batch['id']}/cancel")
        assert (answer.status_code, answer.json()["status"]) == (200, "canceled")
        assert answer.json()["request_counts"]["canceled"] == 5
    assert held > 0
    assert (await user.http.get("/v1/budget")).json()["reserved_usd_micros"] == 0

    done = await drawn_elsewhere(priced, user)
    answer = await user.http.post(f"/v1/batches/{done}/cancel")
    assert answer.json()["status"] == "completed"


async def drawn_elsewhere(product: Stack, user: User) -> str:
    """A batch of one job, which has ended with its picture."""
    batch = (await post(user, cards(1))).json()
    for status, wakes in (("processing", "wake_at"), ("completed", "null")):
        product.rows(
            f"""update public.generation_jobs set status = '{status}', wake_at = {wakes},
                  finished_at = case when '{status}' = 'completed' then now() end
                where id = %s returning id""",
            batch["jobs"][0]["id"],
        )
    return str(batch["id"])


async def test_batches_are_listed_newest_first_in_pages(priced: Stack) -> None:
    user = priced.new_user()
    ids = [(await post(user, cards(n))).json()["id"] for n in (1, 2, 3)]
    first = (await user.http.get("/v1/batches", params={"limit": 2})).json()
    assert [batch["id"] for batch in first["data"]] == ids[:0:-1]
    assert (first["has_more"], first["last_id"]) == (True, ids[1])
    rest = (await user.http.get("/v1/batches", params={"after": first["last_id"]})).json()
    assert ([batch["id"] for batch in rest["data"]], rest["has_more"]) == ([ids[0]], False)
    assert rest["data"][0]["request_counts"]["total"] == 1
    assert "jobs" not in rest["data"][0]


async def test_pictures_of_a_batch_are_those_that_each_request_has_alone(
    new_database: Callable[[], str], new_folder: Callable[[], Path]
) -> None:
    """The real model, which draws compatible requests in one run."""
    requests = [
        {"prompt": f"a {color} round creature", "seed": n, "size": "64x64", "num_inference_steps": 4}
        for n, color in enumerate(("red", "blue", "green"))
    ]
    gpu = {"GPU_MODELS": "tiny-qwen", "GPU_PRELOAD": "tiny-qwen"}
    async with stack(new_database(), new_folder(), gpu=gpu) as product:
        user = product.user
        batch = await drawn(user, requests)
        together = [await pixels(user, job) for job in batch["jobs"]]
        alone = []
        for body in requests:
            job = await user.create(**body)
            alone.append(await pixels(user, await user.ended(job["id"], within=100)))
    assert together == alone
    assert len(set(together)) == 3


async def pixels(user: User, job: dict[str, Any]) -> str:
    content = (await user.http.get(f"/v1/images/{job['images'][0]['id']}/content")).content
    return hashlib.sha256(Image.open(io.BytesIO(content)).convert("RGB").tobytes()).hexdigest()
