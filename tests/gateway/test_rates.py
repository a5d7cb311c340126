"""Who asks too often is told to wait; nobody else notices."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import httpx
import pytest
from openai import AsyncOpenAI, RateLimitError

from gateway import rates
from tests.gateway.conftest import INSTANT, NewProject
from tests.gateway.test_refusals import assert_problem
from tests.support.stack import Stack, stack

Limited = Callable[..., AbstractAsyncContextManager[Stack]]


@pytest.fixture
def limited(new_database: Callable[[], str], new_folder: Callable[[], Path]) -> Limited:
    """A gateway with these limits, by the end of their names."""

    def start(**limits: int) -> AbstractAsyncContextManager[Stack]:
        settings = {f"rate_limit_{name}": number for name, number in limits.items()}
        return stack(new_database(), new_folder(), gpu=INSTANT, default_model="instant", **settings)

    return start


async def test_reads_beyond_the_limit_are_told_when_to_come_back(limited: Limited) -> None:
    async with limited(per_minute=5) as product:
        answers = [await product.user.http.get("/v1/jobs") for _ in range(6)]
        assert [answer.status_code for answer in answers] == [200] * 5 + [429]
        problem = assert_problem(answers[-1], 429, "rate_limited")
        assert problem["retryable"] is True
        headers = answers[-1].headers
        assert 1 <= int(headers["retry-after"]) <= 12
        assert headers["ratelimit-policy"] == '"reads";q=5;w=60'
        assert headers["ratelimit"].startswith('"reads";r=0;t=')
        assert (headers["x-ratelimit-limit-requests"], headers["x-ratelimit-remaining-requests"]) == (
            "5",
            "0",
        )
        assert 48 <= int(headers["x-ratelimit-reset-requests"].removesuffix("s")) <= 60
        # what creates, what streams, what another credential asks, and what nobody signs for goes on
        assert (await product.user.http.post("/v1/jobs", json={"prompt": "a"})).status_code == 202
        async with product.user.http.stream("GET", "/v1/events") as events:
            assert events.status_code == 200
        assert (await product.new_user().http.get("/v1/jobs")).status_code == 200
        for path in ("/healthz", "/readyz"):
            assert [(await product.user.http.get(path)).status_code for _ in range(8)] == [200] * 8


async def test_every_answer_says_what_is_left_even_one_that_refuses(limited: Limited) -> None:
    async with limited(per_minute=100, creates_per_minute=10) as product:
        answer = await product.user.http.get("/v1/jobs/not-an-id")
        assert answer.status_code == 422
        assert answer.headers["ratelimit"].startswith('"reads";r=99;t=1')
        answer = await product.user.http.post("/v1/jobs", json={"prompt": "a"})
        assert answer.headers["ratelimit"].startswith('"creates";r=9;t=6')


async def test_openais_client_sees_its_own_error_after_its_retries(limited: Limited) -> None:
    async with limited(creates_per_minute=1) as product:
        client = AsyncOpenAI(base_url=f"{product.url}/v1", api_key=product.user.key, max_retries=0)
        await client.images.generate(prompt="a", size="64x64")  # type: ignore[call-overload]
        with pytest.raises(RateLimitError) as refused:
            await client.images.generate(prompt="a", size="64x64")  # type: ignore[call-overload]
        assert refused.value.code == "rate_limited"
        assert len(product.rows("select 1 from public.generation_jobs")) == 1


async def test_an_address_that_guesses_keys_is_slowed_and_a_good_key_beside_it_works(
    limited: Limited,
) -> None:
    async with limited(failures_per_minute=3) as product, httpx.AsyncClient(base_url=product.url) as stranger:
        guesses = [
            await stranger.get("/v1/jobs", headers={"Authorization": f"Bearer tk_{n}"}) for n in range(4)
        ]
        assert [guess.status_code for guess in guesses] == [401] * 3 + [429]
        assert_problem(guesses[-1], 429, "rate_limited")
        assert (await product.user.http.get("/v1/jobs")).status_code == 200


async def test_passwords_are_not_even_tried_for_an_address_that_guesses(new_project: NewProject) -> None:
    wrong = {"email": "ada@example.com", "password": "wrong"}
    async with (
        new_project(rate_limit_failures_per_minute=3) as project,
        httpx.AsyncClient(base_url=project.url) as http,
    ):
        statuses = [(await http.post("/v1/session", json=wrong)).status_code for _ in range(5)]
        assert statuses == [401] * 3 + [429] * 2
        mails = await http.post("/v1/session/link", json={"email": "ada@example.com"})
        assert_problem(mails, 429, "rate_limited")


def test_a_bucket_fills_evenly_and_holds_a_minutes_worth(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1000.0]
    monkeypatch.setattr(rates.time, "monotonic", lambda: clock[0])
    limit = rates.Limit("reads", 60)
    assert [left.remaining for _ in range(60) if (left := limit.take("a"))] == list(range(59, -1, -1))
    with pytest.raises(rates.TooManyRequests, match="try again in 1 s"):
        limit.take("a")
    clock[0] += 1.0
    assert limit.take("a")
    with pytest.raises(rates.TooManyRequests):
        limit.take("a")
    clock[0] += 3600
    assert (left := limit.take("a")) and (left.remaining, left.reset_seconds) == (59, 1)


def test_full_buckets_are_forgotten_and_empty_ones_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1000.0]
    monkeypatch.setattr(rates.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(rates, "REMEMBERED", 3)
    limit = rates.Limit("reads", 1)
    for name in ("old", "older", "oldest"):
        limit.take(name)
    clock[0] += 59.0
    limit.take("new")
    clock[0] += 2.0
    limit.take("newer")
    with pytest.raises(rates.TooManyRequests):
        limit.take("new")
    assert limit.take("old")


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("192.0.2.1", "192.0.2.2", False),
    ],
)
def test_addresses_of_one_ipv6_network_count_as_one(one: str, other: str, same: bool) -> None:
    def request(host: str) -> rates.Request:
        return rates.Request({"type": "http", "client": (host, 1), "headers": []})

    assert (rates._network(request(one)) == rates._network(request(other))) is same
