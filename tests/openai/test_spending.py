"""Budgets and quotas as the SDK tells of them: at once, without trying again."""

import httpx
import openai
import pytest

from tests.support.stack import Stack


@pytest.mark.parametrize(
    ("budget", "error", "status", "code"),
    [
        ({"limit_usd_micros": 0}, openai.APIStatusError, 402, "budget_exceeded"),
        ({"max_images_per_day": 1}, openai.RateLimitError, 429, "quota_exceeded"),
    ],
)
async def test_what_a_caller_may_not_spend_is_not_tried_again(
    product: Stack, budget: dict[str, int], error: type[Exception], status: int, code: str
) -> None:
    user = product.new_user()
    await user.http.put("/v1/budget", json={"period": "day", **budget})
    async with openai.AsyncOpenAI(base_url=f"{product.url}/v1", api_key=user.key, max_retries=5) as sdk:
        with pytest.raises(error) as raised:
            await sdk.images.generate(prompt="a", size="64x64", n=2)
    assert isinstance(raised.value, openai.APIStatusError)
    assert (raised.value.status_code, raised.value.code) == (status, code)
    assert raised.value.response.headers["x-should-retry"] == "false"
    assert (await user.http.get("/v1/jobs")).json()["data"] == []


async def test_a_repeat_of_what_was_paid_for_costs_nothing(product: Stack) -> None:
    user = product.new_user()

    async def generate(retry: int) -> httpx.Response:
        body, headers = {"prompt": "a", "size": "64x64"}, {"x-stainless-retry-count": str(retry)}
        return await user.http.post("/v1/images/generations", json=body, headers=headers)

    first = await generate(0)
    await user.http.put("/v1/budget", json={"period": "day", "limit_usd_micros": 0})
    again = await generate(1)
    assert (again.status_code, again.json()) == (200, first.json())
    assert again.json()["cost_usd_micros"] > 0


async def test_pictures_that_are_there_cost_nothing_where_the_caller_wants_them(product: Stack) -> None:
    user = product.new_user()
    hit = "Tenkaigen; hit"

    async def generate(key: str = "", **options: object) -> httpx.Response:
        body = {"prompt": "a", "size": "64x64", "cache": True, **options}
        headers = {"Idempotency-Key": key} if key else {}
        return await user.http.post("/v1/images/generations", json=body, headers=headers)

    first = await generate()
    assert first.json()["cached"] is False and first.json()["cost_usd_micros"] > 0
    await user.http.put("/v1/budget", json={"period": "day", "limit_usd_micros": 0})
    assert [(await generate(cache=False)).status_code, (await generate(seed=1)).status_code] == [402, 402]
    free = {**first.json(), "cached": True, "cost_usd_micros": 0}
    for key in ("", "k", "k"):
        answer = await generate(key)
        assert (answer.headers["cache-status"], answer.json()) == (hit, free)
    streamed = await generate(stream=True)
    assert streamed.headers["cache-status"] == hit
    assert '"cached":true' in streamed.text and '"cost_usd_micros":0' in streamed.text
    assert len((await user.http.get("/v1/jobs")).json()["data"]) == 1
