"""Whatever the network loses: as many jobs, pictures and charges as there were wishes."""

import asyncio
import base64
import io
import os
import sys
from typing import Any

import openai
import pytest
from PIL import Image

from tests.openai.lossy_proxy import LossyProxy
from tests.support.stack import Stack

REQUESTS = int(os.environ.get("EXACTLY_ONCE_REQUESTS", "150"))
"""1,000 (`make exactly-once`) take 40 s on two cores that do nothing else."""
AT_ONCE = 20

COUNTS = """
select
  (select count(*) from public.generation_jobs) as jobs,
  (select count(*) from public.generation_jobs where status = 'completed') as completed,
  (select count(*) from public.generated_assets) as pictures,
  (select count(*) from private.generation_calls) as calls,
  (select count(*) from private.generation_calls where usd_micros > 0) as charges,
  (select count(*) from private.ledger where kind = 'reserve') as reserved,
  (select count(*) from private.ledger where kind = 'release') as released,
  (select count(*) from private.ledger where kind = 'settle' and usd_micros > 0) as settled,
  (select sum(usd_micros) from private.generation_calls) as charged,
  (select sum(usd_micros) from private.ledger) as balance,
  (select sum(cost_usd_micros) from public.generation_jobs) as told
"""


def client(url: str, key: str, **options: Any) -> openai.AsyncOpenAI:
    """Unmodified but for its patience between two tries."""
    made = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=key, **options)
    made._calculate_retry_timeout = lambda *args, **kwargs: 0.02  # type: ignore[method-assign]
    return made


@pytest.mark.parametrize("with_key", [False, True], ids=["by its retries", "by its key"])
async def test_a_network_that_loses_a_third_of_the_answers_changes_no_count(
    product: Stack, with_key: bool
) -> None:
    requests = REQUESTS // 5 if with_key else REQUESTS
    user = product.new_user()
    proxy = LossyProxy(product.url, requests=0.05, answers=0.3)
    turns = asyncio.Semaphore(AT_ONCE)
    (before,) = product.rows(COUNTS)

    async def draw(sdk: openai.AsyncOpenAI, n: int) -> tuple[str, int]:
        headers = {"Idempotency-Key": f"number {n}"} if with_key else {}
        async with turns:
            answer = await sdk.images.generate(
                prompt=f"number {n}", size="64x64", extra_body={"seed": n}, extra_headers=headers
            )
        assert answer.data and answer.model_extra
        with Image.open(io.BytesIO(base64.b64decode(answer.data[0].b64_json or ""))) as picture:
            assert picture.size == (64, 64)
        return answer.model_extra["job_id"], (answer.data[0].model_extra or {})["seed"]

    async with proxy.serve() as url, client(url, user.key, max_retries=30) as sdk:
        drawn = await asyncio.gather(*(draw(sdk, n) for n in range(requests)))

    assert [seed for _, seed in drawn] == list(range(requests)), "everyone got their own picture"
    assert len({job for job, _ in drawn}) == requests
    (after,) = product.rows(COUNTS)
    grown = {name: after[name] - (before[name] or 0) for name in after}
    charged = grown.pop("charged")
    assert grown.pop("told") == grown.pop("balance") == charged > 0
    assert set(grown.values()) == {requests}, grown
    assert proxy.passed == requests
    assert proxy.lost_answers > 0.15 * (proxy.passed + proxy.lost_answers)
    assert proxy.lost_requests
    lost = f"{proxy.lost_requests} requests and {proxy.lost_answers} answers lost"
    sys.stdout.write(f"{lost}: {requests} jobs, pictures and settled charges, {charged} micro-dollars\n")
