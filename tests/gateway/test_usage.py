"""What was used and what it will cost, over HTTP."""

import asyncio
import csv
import datetime
import io
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import pytest_asyncio

from gateway.usage import billing, history
from modal_app import catalog
from tests.support.stack import Stack, User, stack

PRICED = {"GPU_MODELS": "instant", "GPU_NAME": "A10", "INSTANT_SECONDS": "0.05"}
SMALL: dict[str, Any] = {"prompt": "a", "size": "64x64"}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def measured(new_database: Callable[[], str], new_folder: Callable[[], Path]) -> AsyncIterator[Stack]:
    """A gateway that looks at its measurements anew every time, and that has drawn nothing yet."""
    remembered, history.REMEMBERED_SECONDS = history.REMEMBERED_SECONDS, 0.0
    async with stack(new_database(), new_folder(), gpu=PRICED, default_model="instant") as running:
        yield running
    history.REMEMBERED_SECONDS = remembered


async def get(user: User, path: str, **query: Any) -> dict[str, Any]:
    answer = await user.http.get(path, params=query)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def estimate(user: User, **body: Any) -> dict[str, Any]:
    answer = await user.http.post("/v1/jobs/estimate", json=SMALL | body)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def today() -> datetime.date:
    return datetime.datetime.now(datetime.UTC).date()


def codes(found: dict[str, Any]) -> list[str]:
    return [warning["code"] for warning in found["warnings"]]


async def test_before_anything_is_measured_a_forecast_is_the_price_tables(measured: Stack) -> None:
    found = await get(measured.user, "/v1/usage/forecast", images=1000)
    assert (found["basis"], found["gpu"], found["seconds_per_image"]) == ("price_table", "A10", 45.0)
    assert (found["per_image_usd_micros"], found["estimated_usd_micros"]) == (13_750, 13_750_000)
    assert found["gpu_usd_micros_per_hour"] == 1_100_000
    assert [each["cost_usd_micros"] for each in found["exact"]] == [1_375_000, 13_750_000, 137_500_000]
    rounded = found["rounded"]
    assert rounded["per_image_usd_micros"] == 15_000
    assert rounded["images"] == [
        {"images": 100, "cost_usd_micros": 1_500_000},
        {"images": 1_000, "cost_usd_micros": 15_000_000},
        {"images": 10_000, "cost_usd_micros": 150_000_000},
    ]


async def test_a_forecast_for_a_named_model_or_gpu_goes_by_its_row(measured: Stack) -> None:
    found = await get(measured.user, "/v1/usage/forecast", images=10, model="qwen-image-fast", gpu="A10")
    assert (found["basis"], found["seconds_per_image"], found["per_image_usd_micros"]) == (
        "catalogue",
        8.0,
        2_444,
    )
    found = await get(measured.user, "/v1/usage/forecast", images=10, gpu="T4")
    assert found["estimated_usd_micros"] == 75_000
    for query, code in (({"model": "nobody"}, "unknown_model"), ({"gpu": "abacus"}, "unknown_gpu")):
        answer = await measured.user.http.get("/v1/usage/forecast", params=query)
        assert (answer.status_code, answer.json()["code"]) == (400, code)
    assert (await measured.user.http.get("/v1/usage/forecast?images=0")).status_code == 422


async def test_an_estimate_makes_nothing_and_says_what_a_job_would_be(measured: Stack) -> None:
    user = measured.new_user()
    found = await estimate(user, style="anime", enhance=True)
    assert (found["model"], found["gpu"], found["basis"]) == ("instant", "A10", "catalogue")
    assert found["final_prompt"].startswith("a, ")
    assert found["low"] <= found["estimated_usd_micros"] <= found["high"]
    assert codes(found) == ["not_measured", "prompt_enhanced"]
    assert (await get(user, "/v1/jobs"))["data"] == []
    assert measured.rows("select from private.ledger where user_id = %s", user.id) == []


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"model": "nobody"}, 400, "unknown_model"),
        ({"negative_prompt": "b"}, 400, "unsupported_parameter"),
        ({"size": "1x1"}, 422, "invalid_size"),
        ({"surprise": 1}, 422, "validation_failed"),
    ],
)
async def test_an_estimate_refuses_what_a_job_would_be_refused_for(
    measured: Stack, body: dict[str, Any], status: int, code: str
) -> None:
    answer = await measured.user.http.post("/v1/jobs/estimate", json=SMALL | body)
    assert (answer.status_code, answer.json()["code"]) == (status, code)


async def test_a_model_that_is_not_served_has_an_estimate_on_the_gpu_it_is_meant_for(measured: Stack) -> None:
    found = await estimate(measured.user, model="qwen-image", size="1024x1024", quality="high")
    assert (found["model"], found["gpu"]) == ("qwen-image", catalog.DEFAULT_GPU)
    assert found["estimated_usd_micros"] == 38_458  # 71 s at 1.95 $ an hour
    assert {"model_unavailable", "not_measured"} <= set(codes(found))
    assert found["eta_seconds"] > 71


async def test_an_estimate_says_which_limit_a_job_would_pass(measured: Stack) -> None:
    user = measured.new_user()
    await user.http.put("/v1/budget", json={"limit_usd_micros": 10, "max_images_per_day": 1})
    assert {"budget_exceeded", "quota_exceeded"} <= set(codes(await estimate(user, num_images=2)))


async def test_estimates_and_forecasts_go_by_what_was_measured(measured: Stack) -> None:
    user = measured.new_user()
    jobs = [await user.create(**SMALL, seed=n, wait=20) for n in range(6)]
    costs = sorted(job["cost"]["usd_micros"] for job in jobs)
    found = await estimate(user, num_images=3)
    assert found["basis"] == "measured"
    estimated = [found[name] for name in ("low", "estimated_usd_micros", "high")]
    assert estimated == sorted(estimated)
    assert 3 * costs[0] - 3 <= found["low"] and found["high"] <= 3 * costs[-1] + 3  # each cost is rounded up
    assert found["eta_seconds"] < 5
    assert (await estimate(user, num_inference_steps=2))["basis"] == "scaled"
    forecast = await get(user, "/v1/usage/forecast", images=100, model="instant")
    assert (forecast["basis"], forecast["samples"] >= 6) == ("scaled", True)
    job = await user.create(**SMALL)
    assert 0 <= job["eta_seconds"] < 5
    assert job["cost"]["estimated_usd_micros"] in range(costs[0], costs[-1] + 1)
    await user.ended(job["id"])


async def test_usage_adds_up_however_it_is_grouped(measured: Stack) -> None:
    user = measured.new_user()
    bodies: list[dict[str, Any]] = [
        {"style": "anime", "metadata": {"character_id": "luna"}},
        {"style": "anime", "num_images": 2},
        {"metadata": {"character_id": "luna"}},
    ]
    jobs = [await user.create(**SMALL, **body, wait=20) for body in bodies]
    cost = sum(job["cost"]["usd_micros"] for job in jobs)
    reports = {
        by: await get(user, "/v1/usage", group_by=by) for by in ("day", "model", "style", "character", "task")
    }
    for report in reports.values():
        assert (report["total"]["jobs"], report["total"]["images"]) == (3, 4)
        assert (
            report["total"]["cost_usd_micros"]
            == sum(row["cost_usd_micros"] for row in report["data"])
            == cost
        )
        assert report["user_id"] == str(user.id)
    keys = {by: {row["key"]: row["images"] for row in report["data"]} for by, report in reports.items()}
    assert keys == {
        "day": {str(today()): 4},
        "model": {"instant": 4},
        "style": {"design/anime": 3, None: 1},
        "character": {"luna": 2, None: 2},
        "task": {"image": 4},
    }
    tomorrow = today() + datetime.timedelta(days=1)
    assert (await get(user, "/v1/usage", **{"from": tomorrow, "to": "2999-01-01"}))["data"] == []
    assert len((await get(user, "/v1/usage", **{"from": f"{today()}T00:00:00Z"}))["data"]) == 1


async def test_usage_is_ones_own_unless_an_administrator_asks(measured: Stack) -> None:
    user, other = measured.new_user(), measured.new_user()
    admin = measured.new_user(("read", "admin"))
    await user.create(**SMALL, wait=20)
    assert (await get(other, "/v1/usage"))["data"] == []
    for query in ({"group_by": "user"}, {"user_id": str(user.id)}, {"user_id": "all"}):
        answer = await other.http.get("/v1/usage", params=query)
        assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
    assert (await get(admin, "/v1/usage", user_id=str(user.id)))["total"]["jobs"] == 1
    everybody = await get(admin, "/v1/usage", group_by="user")
    assert str(user.id) in {row["key"] for row in everybody["data"]}
    costs = [row["cost_usd_micros"] for row in everybody["data"]]
    assert costs == sorted(costs, reverse=True)
    assert (await get(admin, "/v1/usage", user_id="all"))["total"]["jobs"] == everybody["total"]["jobs"]


@pytest.mark.parametrize(
    "query",
    [
        {"group_by": "moon"},
        {"from": "yesterday"},
        {"to": "2026"},
        {"from": "2026-11-02", "to": "2026-11-01"},
        {"from": "2026-11-02", "to": "2026-11-02"},
        {"format": "xml"},
    ],
)
async def test_a_malformed_question_about_usage_is_refused(measured: Stack, query: dict[str, str]) -> None:
    assert (await measured.user.http.get("/v1/usage", params=query)).status_code == 422


async def test_usage_as_a_table_for_spreadsheets(measured: Stack) -> None:
    user = measured.new_user()
    job = await user.create(**SMALL, metadata={"character_id": "=HYPERLINK(1)"}, wait=20)
    by_query = await user.http.get("/v1/usage", params={"group_by": "character", "format": "csv"})
    by_header = await user.http.get(
        "/v1/usage", params={"group_by": "character"}, headers={"Accept": "text/csv"}
    )
    assert by_query.text == by_header.text
    assert by_query.headers["content-type"].startswith("text/csv")
    (row,) = csv.DictReader(io.StringIO(by_query.text))
    assert row["character"] == "'=HYPERLINK(1)"
    assert (row["images"], row["cost_usd_micros"]) == ("1", str(job["cost"]["usd_micros"]))


async def test_idle_time_is_known_for_days_whose_bill_is(measured: Stack) -> None:
    user = measured.new_user()
    await user.create(**SMALL, wait=20)
    assert (await get(user, "/v1/usage"))["idle"] is None
    (charged,) = measured.rows("select sum(usd_micros)::bigint as usd_micros from private.generation_calls")
    await asyncio.to_thread(billing.record, measured.admin_url, {today(): charged["usd_micros"] * 4})
    idle = (await get(user, "/v1/usage"))["idle"]
    assert (idle["idle_share"], idle["idle_usd_micros"]) == (0.75, charged["usd_micros"] * 3)
    before = {"from": "2026-01-01", "to": "2026-01-31"}
    assert (await get(user, "/v1/usage", **before))["idle"] is None


async def test_the_state_of_the_whole_is_an_administrators_to_see(measured: Stack) -> None:
    user, admin = measured.new_user(), measured.new_user(("read", "generate", "admin"))
    answer = await user.http.get("/v1/admin/stats")
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
    job = await user.create(**SMALL, wait=20)
    await user.job(job["id"])
    stats = await get(admin, "/v1/admin/stats")
    (truth,) = measured.rows(
        """select (select count(*)::int from public.generation_jobs where status = 'completed') as completed,
             (select count(*)::int from public.generated_assets) as images,
             (select sum(usd_micros)::int from private.generation_calls) as cost"""
    )
    assert set(stats["jobs"]["by_status"]) == {"queued", "processing", "completed", "failed", "canceled"}
    assert stats["jobs"]["by_status"]["completed"] == truth["completed"]
    assert (stats["jobs"]["failed_today"], stats["jobs"]["oldest_queued_seconds"]) == (0, 0)
    assert (stats["calls"]["cost_usd_micros"], stats["storage"]["images"]) == (truth["cost"], truth["images"])
    assert (stats["calls"]["error_rate"], stats["calls"]["by_status"]) == (
        0,
        {"succeeded": truth["completed"]},
    )
    assert 0 < stats["calls"]["gpu_seconds_p50"] <= stats["calls"]["latency_p95_seconds"]
    assert stats["storage"]["bytes"] > 0
    assert stats["users"]["active_today"] == len({*stats_users(measured)})
    assert {"user_id": str(user.id), "jobs": 1, "cost_usd_micros": job["cost"]["usd_micros"]} in (
        stats["users"]["busiest"]
    ) or len(stats["users"]["busiest"]) == 10
    assert stats["webhooks"]["received"] + stats["webhooks"]["missed"] >= truth["completed"]
    assert stats["webhooks"]["deliveries"] == {"pending": 0, "delivered": 0, "failed": 0}
    assert stats["polling"]["requests_per_minute"] > 0


def stats_users(product: Stack) -> list[str]:
    rows = product.rows("select distinct user_id::text from public.generation_jobs")
    return [row["user_id"] for row in rows]


async def test_without_a_credential_there_is_nothing_to_see(measured: Stack) -> None:
    for path in (
        "/v1/usage",
        "/v1/usage/forecast",
        "/v1/budget",
        "/v1/admin/stats",
        f"/v1/admin/budgets/{uuid4()}",
    ):
        answer = await measured.user.http.get(path, headers={"Authorization": ""})
        assert answer.status_code == 401, path
