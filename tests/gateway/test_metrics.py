"""``/metrics``, read by Prometheus' own parser after jobs that really ran."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
import pytest_asyncio
from prometheus_client.parser import text_string_to_metric_families

from gateway.metrics import database, ended
from tests.gateway.conftest import INSTANT
from tests.gateway.test_refusals import HOOK, assert_problem, event, signed
from tests.support.stack import Stack, free_port, gateway_process, stack

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]
TOKEN = "token-of-the-scraper"


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "FRESH_SECONDS", 0.0)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def scraped(new_database: Callable[[], str], new_folder: Callable[[], Path]) -> AsyncIterator[Stack]:
    settings = {"default_model": "instant", "metrics_token": TOKEN}
    async with stack(new_database(), new_folder(), gpu=INSTANT, **settings) as running:
        yield running


async def scrape(url: str, token: str = TOKEN) -> Samples:
    async with httpx.AsyncClient(base_url=url) as http:
        answer = await http.get("/metrics", headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/plain; version=")
    families = list(text_string_to_metric_families(answer.text))
    assert len(families) == len({family.name for family in families})
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def value(samples: Samples, name: str, **labels: str) -> float:
    """The sum of all series that have these labels."""
    wanted = set(labels.items())
    return sum(number for (found, has), number in samples.items() if found == name and wanted <= has)


def grown(before: Samples, after: Samples, name: str, **labels: str) -> float:
    return value(after, name, **labels) - value(before, name, **labels)


async def test_strangers_and_mere_readers_see_no_numbers(scraped: Stack) -> None:
    async with httpx.AsyncClient(base_url=scraped.url) as proxied:
        answer = await proxied.get("/metrics", headers={"X-Forwarded-For": "8.8.8.8"})
        assert_problem(answer, 401, "unauthenticated")
        rebound = await proxied.get("/metrics", headers={"Host": "evil.example"})
        assert_problem(rebound, 401, "unauthenticated")
        wrong = await proxied.get("/metrics", headers={"Authorization": f"Bearer {TOKEN}x"})
        assert_problem(wrong, 401, "unauthenticated")
    assert_problem(await scraped.user.http.get("/metrics"), 403, "forbidden")


async def test_a_gateway_that_others_reach_answers_nobody_for_being_near(
    new_database: Callable[[], str], new_folder: Callable[[], Path]
) -> None:
    settings = {"site_url": "https://draw.example.com", "worker": False}
    async with stack(new_database(), new_folder(), gpu=INSTANT, **settings) as public:
        async with httpx.AsyncClient(base_url=public.url) as http:
            assert_problem(await http.get("/metrics"), 401, "unauthenticated")
        admin = public.new_user(scopes=("admin",))
        assert (await admin.http.get("/metrics")).status_code == 200


async def test_the_machine_itself_and_administrators_need_no_token(scraped: Stack) -> None:
    async with httpx.AsyncClient(base_url=scraped.url) as http:
        assert (await http.get("/metrics")).status_code == 200
    admin = scraped.new_user(scopes=("admin",))
    assert (await admin.http.get("/metrics")).status_code == 200


async def test_jobs_calls_and_costs_are_those_of_the_database(scraped: Stack) -> None:
    before = await scrape(scraped.url)
    drawn = [await scraped.user.create(prompt="a", size="64x64", wait=30) for _ in range(3)]
    failed = await scraped.user.create(prompt="a", size="64x64", metadata={}, wait=30, seed=1)
    scraped.rows(
        "update private.generation_calls set usd_micros = 7, gpu_seconds = 0.5 where job_id = %s returning 1",
        drawn[0]["id"],
    )
    after = await scrape(scraped.url)
    (row,) = scraped.rows(
        "select sum(usd_micros)::float as usd, sum(gpu_seconds)::float as seconds, count(*)::int as calls"
        " from private.generation_calls"
    )
    assert failed["status"] == "completed"
    assert grown(before, after, "tenkaigen_jobs", status="completed") == 4
    assert (
        grown(before, after, "tenkaigen_jobs_ended_total", status="completed", model="instant", error_code="")
        == 4
    )
    assert value(after, "tenkaigen_cost_usd_micros_total", model="instant", task="image") == row["usd"]
    assert value(after, "tenkaigen_gpu_seconds_total", model="instant") == pytest.approx(row["seconds"])
    assert value(after, "tenkaigen_gpu_calls_total", status="succeeded") == row["calls"]
    assert grown(before, after, "tenkaigen_job_overhead_seconds_count") == 4
    assert 0 < grown(before, after, "tenkaigen_job_overhead_seconds_sum") < 120
    assert (
        grown(before, after, "tenkaigen_gpu_call_duration_seconds_count", model="instant", task="image") == 4
    )
    assert value(after, "tenkaigen_gpu_call_duration_seconds_bucket", le="+Inf") == row["calls"]


async def test_what_waits_and_what_failed_is_told_apart(scraped: Stack) -> None:
    await scraped.user.create(prompt="a", size="64x64", wait=30)
    before = await scrape(scraped.url)
    copy = """
    insert into public.generation_jobs (user_id, prompt_input, prompt_final, model, width, height, seed,
      wake_at, created_at, status, finished_at, error_code, expires_at)
    select user_id, '', '', model, 1, 1, 0, %s::timestamptz, now() - interval '90 seconds', %s::job_status,
      %s::timestamptz, %s, now() + interval '1 day'
    from public.generation_jobs limit 1 returning id
    """
    scraped.rows(copy, "2100-01-01", "queued", None, None)
    for _ in range(2):
        scraped.rows(copy, None, "failed", "now", "out_of_memory")
    once, twice = await scrape(scraped.url), await scrape(scraped.url)
    for after in (once, twice):
        assert grown(before, after, "tenkaigen_jobs", status="queued") == 1
        assert grown(before, after, "tenkaigen_jobs", status="failed") == 2
        assert value(after, "tenkaigen_jobs_ended_total", error_code="out_of_memory") == 2
        assert 90 <= value(after, "tenkaigen_queue_age_seconds") < 600


async def test_deliveries_to_users_servers_are_counted_by_how_they_stand(scraped: Stack) -> None:
    before = await scrape(scraped.url)
    user = scraped.new_user()
    made = await user.http.post("/v1/webhook-endpoints", json={"url": "https://8.8.8.8/"})
    assert made.status_code == 201, made.text
    add = """
    insert into public.webhook_deliveries
      (endpoint_id, user_id, event_id, event_type, status, attempts, wake_at)
    values (%s, %s, gen_random_uuid(), 'webhook.test', %s, %s, %s::timestamptz) returning id
    """
    for status, attempts, wake_at in (
        ("pending", 0, "2100-01-01"),
        ("pending", 3, "2100-01-01"),
        ("failed", 10, None),
        ("delivered", 1, None),
    ):
        scraped.rows(add, made.json()["id"], user.id, status, attempts, wake_at)
    after = await scrape(scraped.url)
    states = {s: grown(before, after, "tenkaigen_webhook_deliveries", state=s) for s in STATES}
    assert states == {"pending": 1, "retrying": 1, "failed": 1}
    assert ("tenkaigen_webhook_deliveries", frozenset({("state", "outbox")})) in after


STATES = ("pending", "retrying", "failed")


async def test_polls_streams_webhooks_and_latencies_are_counted_here(scraped: Stack) -> None:
    job = await scraped.user.create(prompt="a", size="64x64", wait=30)
    before = await scrape(scraped.url)
    for _ in range(5):
        await scraped.user.job(job["id"])
    async with httpx.AsyncClient(base_url=scraped.url) as http:
        await http.post(HOOK, content=b"{}")
        unknown = event(f"{uuid4()}:1:1")
        await http.post(HOOK, content=unknown, headers=signed(unknown, name=str(uuid4())))
        await http.get(f"/nowhere/{uuid4()}")
    async with scraped.user.http.stream("GET", "/v1/events") as stream:
        assert stream.status_code == 200
        during = await scrape(scraped.url)
    after = await scrape(scraped.url)
    assert grown(before, after, "tenkaigen_status_polls_total") == 5
    assert grown(before, after, "tenkaigen_gpu_webhooks_total", outcome="bad_signature") == 1
    assert grown(before, after, "tenkaigen_gpu_webhooks_total", outcome="changed_nothing") == 1
    assert value(during, "tenkaigen_sse_streams_open") >= 1
    asked = {"method": "GET", "route": "/v1/jobs/{job_id}", "status": "200"}
    assert grown(before, after, "tenkaigen_http_request_duration_seconds_count", **asked) == 5
    assert grown(before, after, "tenkaigen_http_request_duration_seconds_count", route="unmatched") == 1
    assert value(after, "tenkaigen_gpu_request_duration_seconds_count", route="/calls", status="202") >= 1
    assert value(after, "tenkaigen_gpu_request_duration_seconds_count", route="/calls/{id}/images/{id}") >= 1
    assert value(after, "tenkaigen_database_connections", pool="service") >= 1
    routes = {dict(labels).get("route", "") for _, labels in after}
    assert not [route for route in routes if job["id"] in route]


async def test_two_gateways_tell_the_same_of_their_database(
    scraped: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one has added up what ended before, the other reads it for the first time."""
    await scraped.user.create(prompt="a", size="64x64", wait=30)
    monkeypatch.setattr(ended, "SETTLED_SECONDS", 0.0)
    await scrape(scraped.url)
    await scraped.user.create(prompt="a", size="64x64", wait=30)
    port = free_port()
    other = gateway_process(
        *(scraped.folder, port, scraped.admin_url, scraped.url),
        **{"WORKER": "false", "METRICS_TOKEN": TOKEN},
    )
    other.start()
    try:
        theirs = await scrape(f"http://127.0.0.1:{port}")
    finally:
        other.stop()
    ours = await scrape(scraped.url)
    shared = ("tenkaigen_jobs", "tenkaigen_gpu_", "tenkaigen_cost", "tenkaigen_job_overhead")
    apart = ("tenkaigen_gpu_webhooks", "tenkaigen_gpu_request")

    def told(samples: Samples) -> Samples:
        return {k: v for k, v in samples.items() if k[0].startswith(shared) and not k[0].startswith(apart)}

    assert told(theirs) == pytest.approx(told(ours))  # sums of the same numbers in another order
    assert len(told(ours)) > 20
