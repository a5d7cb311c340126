"""What the calls of a day cost, beside a recorded bill."""

import datetime
import json
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest

from gateway.config import ConfigurationError
from gateway.embedded import add_key
from gateway.usage import billing
from gateway.usage.billing import Day
from modal_app import deployment

DAY = datetime.date(2026, 11, 20)
NEXT = datetime.date(2026, 11, 21)

JOB = """
insert into public.generation_jobs (id, user_id, task, prompt_input, prompt_final, model, width, height, seed,
  params, expires_at)
values (%s, %s, 'image', 'a', 'a', 'tiny-qwen', 64, 64, 1, '{}', now() + interval '1 hour')
"""
CALL = """
insert into private.generation_calls (job_id, seq, attempt, user_id, task, model, status, gpu, gpu_seconds,
  usd_micros, finished_at)
values (%s, 1, 1, %s, 'image', 'tiny-qwen', 'succeeded', 'L40S', %s, %s, %s)
"""


def line(day: datetime.date, cost: str, **tags: str) -> dict[str, str]:
    """As Modal's client 1.6 writes it with --json."""
    return {
        "object_id": "ap-1",
        "description": "tenkaigen",
        "environment": "main",
        "interval_start": day.isoformat(),
        "cost": cost,
        "tags": json.dumps({"env": "main", **tags}),
    }


@pytest.mark.parametrize("text", ["", "[1]", '[{"tags": "x"}]', '{"a": 1}', '[{"tags": "[]"}]'])
def test_what_is_no_bill_is_refused_with_the_command_that_makes_one(tmp_path: Path, text: str) -> None:
    path = tmp_path / "report.json"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match="modal billing report"):
        billing.bill(path, "tenkaigen")


def test_the_bill_is_searched_for_what_the_deployment_is_tagged_with() -> None:
    assert deployment.TAGS["service"] == billing.BILLED_SERVICE


def test_a_missing_bill_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="modal billing report"):
        billing.bill(tmp_path / "missing.json", "tenkaigen")


def test_only_the_named_service_counts_and_hours_add_up_to_days(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    hours = [
        line(DAY, "0.25", service="tenkaigen"),
        {**line(DAY, "0.1000005", service="tenkaigen"), "interval_start": f"{DAY}T23:00:00+00:00"},
        line(NEXT, "1", service="tenkaigen"),
        line(DAY, "99", service="another"),
    ]
    path.write_text(json.dumps(hours))
    assert billing.bill(path, "tenkaigen") == {DAY: 350_000, NEXT: 1_000_000}


def test_calls_are_summed_by_the_day_they_ended(admin_url: str) -> None:
    user, _ = add_key(admin_url, "a@example.com", ["read"])
    ends = [f"{DAY}T00:00:00Z", f"{DAY}T23:59:59.9Z", f"{NEXT}T00:00:00Z", None]
    with psycopg.connect(admin_url) as connection:
        for end in ends:
            job = uuid4()
            connection.execute(JOB.encode(), (job, user))
            connection.execute(CALL.encode(), (job, user, 2.5, 1354, end))
    assert billing.daily(admin_url, DAY, NEXT) == [Day(DAY, 2, 5.0, 2708)]
    assert [day.calls for day in billing.daily(admin_url, DAY, NEXT + datetime.timedelta(days=1))] == [2, 1]
    assert (
        billing.daily(admin_url, NEXT + datetime.timedelta(days=1), NEXT + datetime.timedelta(days=9)) == []
    )


def test_what_no_call_explains_is_idle_and_every_day_of_either_is_there() -> None:
    lines = billing.reconcile([Day(DAY, 10, 36.0, 19_500)], {DAY: 26_000, NEXT: 4_000})
    assert [(each.day.date, each.idle_usd_micros, round(each.idle_share, 2)) for each in lines] == [
        (DAY, 6_500, 0.25),
        (NEXT, 4_000, 1.0),
    ]
    total = sum(each.day.usd_micros + each.idle_usd_micros for each in lines)
    assert total == 30_000


def test_a_day_without_a_bill_shows_what_its_calls_were_charged() -> None:
    (only,) = billing.reconcile([Day(DAY, 1, 1.0, 13)], {})
    assert (only.idle_usd_micros, only.idle_share) == (-13, 0.0)
