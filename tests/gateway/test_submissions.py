"""One wish makes one job, however often and by whichever way it is said."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.support.stack import Stack, User, stack

BODY = {"prompt": "a", "size": "64x64"}
KEY = {"Idempotency-Key": "once"}


async def post(user: User, retry: int | None = None, **headers: str) -> httpx.Response:
    count = {} if retry is None else {"x-stainless-retry-count": str(retry)}
    return await user.http.post("/v1/jobs", json=BODY, headers={**count, **headers})


async def jobs_of(user: User) -> list[dict[str, Any]]:
    return list((await user.http.get("/v1/jobs")).json()["data"])


@pytest.mark.parametrize("retry", [None, 0])
async def test_two_equal_first_requests_are_two_wishes(product: Stack, retry: int | None) -> None:
    user = product.new_user()
    first, second = await post(user, retry), await post(user, retry)
    assert first.json()["id"] != second.json()["id"]
    assert "idempotent-replayed" not in second.headers


@pytest.mark.parametrize("first_try", [None, 0])
async def test_a_repeat_without_a_key_attaches_to_the_job_of_the_first_try(
    product: Stack, first_try: int | None
) -> None:
    user = product.new_user()
    first = await post(user, first_try)
    again = await post(user, 1)
    last = await post(user, 2)
    assert first.json()["id"] == again.json()["id"] == last.json()["id"]
    assert again.headers["idempotent-replayed"] == "true"
    assert len(await jobs_of(user)) == 1


async def test_a_repeat_attaches_to_nothing_of_another_body_path_or_credential(product: Stack) -> None:
    user, other = product.new_user(), product.new_user()
    first = (await post(user)).json()["id"]
    headers = {"x-stainless-retry-count": "1"}
    answers = [
        await user.http.post("/v1/jobs", json={**BODY, "seed": 1}, headers=headers),
        await other.http.post("/v1/jobs", json=BODY, headers=headers),
    ]
    assert first not in [answer.json()["id"] for answer in answers]
    compat = await user.http.post("/api/generate", json=BODY, headers=headers)
    assert compat.json()["jobId"] != first


TEN_MINUTES_AGO = """
update private.submissions set created_at = now() - interval '601 seconds' where job_id = %s returning job_id
"""


async def test_a_repeat_after_ten_minutes_is_a_new_wish(product: Stack) -> None:
    user = product.new_user()
    first = await user.ended((await post(user, 0)).json()["id"])
    product.rows(TEN_MINUTES_AGO, first["id"])
    assert (await post(user, 1)).json()["id"] != first["id"]


async def test_a_job_that_runs_longer_than_its_clients_patience_is_found(idle: Stack) -> None:
    user = idle.new_user()
    first = (await post(user, 0)).json()["id"]
    idle.rows(TEN_MINUTES_AGO, first)
    assert (await post(user, 1)).json()["id"] == first


async def test_repeats_of_two_equal_requests_get_a_job_each(product: Stack) -> None:
    user = product.new_user()
    wishes = {(await post(user, 0)).json()["id"] for _ in range(2)}
    repeats = {(await post(user, 1)).json()["id"] for _ in range(2)}
    assert repeats == wishes


async def test_a_repeat_whose_first_try_never_arrived_makes_the_job_once(product: Stack) -> None:
    user = product.new_user()
    answers = await asyncio.gather(*(post(user, 1 + n % 3) for n in range(20)))
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert len(await jobs_of(user)) == 1


async def test_a_repeat_waits_a_moment_for_a_first_try_that_is_on_its_way(
    product: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.jobs.service.OVERTAKING_SECONDS", 3.0)  # a moment of a busy machine
    user = product.new_user()
    repeat = asyncio.create_task(post(user, 1))
    await asyncio.sleep(0.05)
    first = await post(user, 0)
    assert (await repeat).json()["id"] == first.json()["id"]
    assert len(await jobs_of(user)) == 1


async def test_a_first_try_that_its_repeat_overtakes_finds_the_job_made(product: Stack) -> None:
    """The first try has told who it is and is held up; the repeat comes first to the job."""
    user = product.new_user()
    waiting, go_on = asyncio.Event(), asyncio.Event()
    assert product.app is not None
    drafts = product.app.state.drafts
    look_up = drafts.recipe

    async def held_up(caller: Any, body: Any) -> Any:
        if not waiting.is_set():
            waiting.set()
            await go_on.wait()
        return await look_up(caller, body)

    drafts.recipe = held_up
    try:
        first_try = asyncio.create_task(post(user, 0))
        await waiting.wait()
        repeat = await post(user, 1)
        go_on.set()
        first = await first_try
    finally:
        drafts.recipe = look_up
    assert repeat.json()["id"] == first.json()["id"]
    assert "idempotent-replayed" not in repeat.headers
    assert first.headers["idempotent-replayed"] == "true"
    assert len(await jobs_of(user)) == 1


FORGET = "update private.idempotency_keys set status = null, body = null where user_id = %s returning key"
"""What a gateway leaves behind that dies between the job and its answer."""


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def idle(new_database: Callable[[], str], new_folder: Callable[[], Path]) -> AsyncIterator[Stack]:
    """A product whose jobs stay in the queue."""
    settings = {"default_model": "instant", "worker": False}
    async with stack(new_database(), new_folder(), gpu={"GPU_MODELS": "instant"}, **settings) as running:
        yield running


async def test_a_key_whose_first_request_is_being_answered_says_so(idle: Stack) -> None:
    user = idle.new_user()
    await post(user, **KEY)
    idle.rows(FORGET, user.id)
    answer = await post(user, **KEY)
    assert (answer.status_code, answer.json()["code"]) == (409, "idempotency_key_in_flight")
    assert answer.headers["retry-after"] == "1"


async def test_a_gateway_that_died_before_its_answer_blocks_the_key_for_a_minute_only(idle: Stack) -> None:
    user = idle.new_user()
    first = await post(user, **KEY)
    idle.rows(FORGET, user.id)
    older = "update private.idempotency_keys set created_at = created_at - interval '61 seconds'"
    idle.rows(older + " where user_id = %s returning key", user.id)
    again = await post(user, **KEY)
    assert (again.status_code, again.json()["id"]) == (202, first.json()["id"])
    assert again.headers["idempotent-replayed"] == "true"
    assert len(await jobs_of(user)) == 1


async def test_a_client_that_repeats_its_own_request_is_not_told_to_wait_for_itself(idle: Stack) -> None:
    user = idle.new_user()
    first = await post(user, 0, **KEY)
    idle.rows(FORGET, user.id)
    again = await post(user, 1, **KEY)
    assert (again.status_code, again.json()["id"]) == (202, first.json()["id"])


async def test_a_key_whose_job_has_ended_answers_at_once(product: Stack) -> None:
    user = product.new_user()
    first = await post(user, **KEY)
    job = await user.ended(first.json()["id"])
    product.rows(FORGET, user.id)
    again = await post(user, **KEY)
    assert (again.status_code, again.json()["id"], again.json()["status"]) == (200, job["id"], "completed")
    assert (await post(user, **KEY)).json() == again.json()


async def test_a_retried_job_is_retried_once(idle: Stack) -> None:
    user = idle.new_user()
    failed = (await post(user)).json()["id"]
    await user.http.post(f"/v1/jobs/{failed}/cancel")

    async def retry(**headers: str) -> httpx.Response:
        return await user.http.post(f"/v1/jobs/{failed}/retry", headers=headers)

    first, again = await retry(**KEY), await retry(**KEY)
    assert (first.status_code, first.json()) == (202, again.json())
    attached = await retry(**{"x-stainless-retry-count": "1"})
    assert attached.json()["id"] != first.json()["id"], "the first try had a key, this one has none"
    assert (await retry(**{"x-stainless-retry-count": "2"})).json()["id"] == attached.json()["id"]


async def test_a_key_belongs_to_one_path(product: Stack) -> None:
    user = product.new_user()
    await post(user, **KEY)
    answer = await user.http.post("/api/generate", json=BODY, headers=KEY)
    assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_key_reused")
