"""One small job from its creation to its picture, and what it left behind."""

import asyncio
import datetime
import hashlib
import time
from typing import Any

import httpx

from gateway.doctor.findings import Finding, failed, ok, skipped, warning
from gateway.doctor.over_http import WEBHOOK
from gateway.doctor.subject import Subject

JOB = {"prompt": "a red circle on white", "size": "256x256", "metadata": {"made_by": "tenkaigen doctor"}}
FREE_MODEL = "instant"
"""Where it is served, it is asked by name: it costs nothing and starts nothing."""
ENDED = ("completed", "failed", "canceled")

TOLD = """
select count(*) as calls, count(*) filter (where exists (
  select from private.webhook_inbox i where i.job_id = c.job_id and i.payload ->> 'key' = c.key)) as told
from private.generation_calls c
where c.finished_at > now() - interval '24 hours' and c.status in ('succeeded', 'failed')
"""


async def smoke_job(subject: Subject) -> Finding:
    """A job is taken, moved, drawn and stored."""
    async with subject.http() as http:
        created = await http.post("/v1/jobs", json={**JOB, "model": FREE_MODEL})
        if created.status_code == 400:
            created = await http.post("/v1/jobs", json=JOB)
        if created.status_code not in (200, 202):
            return failed(f"refused: {_problem(created)}", "docs/troubleshooting.md has its code.")
        job = await _followed(http, created.json(), subject.patience_seconds)
        if job["status"] not in ENDED:
            await http.post(f"/v1/jobs/{job['id']}/cancel")
            return _unended(job, subject.patience_seconds)
    if job["status"] != "completed":
        error = job["error"] or {"code": job["status"], "message": "somebody canceled it"}
        return failed(f"{error['code']}: {error['message']}", "docs/troubleshooting.md has its code.")
    subject.smoke = job
    seconds, dollars = job["timing"]["total_ms"] / 1000, job["cost"]["usd_micros"] / 1e6
    return ok(f"{job['model']} drew it in {seconds:.1f} s for ${dollars:.6f}")


async def webhook_delivery(subject: Subject) -> Finding:
    """Results come by the GPU service's webhook, and not because the gateway asked in the end."""
    if subject.smoke is None:
        return await _delivery_of_the_last_day(subject)
    async with subject.http() as http:
        calls = (await http.get(f"/v1/jobs/{subject.smoke['id']}/calls")).json()["data"]
    if not calls or "webhook_at" not in calls[-1]:
        return skipped("the gateway does not say")
    told, ended = calls[-1]["webhook_at"], calls[-1]["finished_at"]
    if told is None:
        return failed(
            "no webhook told of the smoke job's end; the gateway had to ask", _webhook_advice(subject)
        )
    late = (_time(told) - _time(ended)).total_seconds()
    if late > 0:
        return warning(
            f"the smoke job's webhook came {late:.1f} s after the gateway had asked",
            "Raise WEBHOOK_PATIENCE_SECONDS, or look at what slows the way from the GPU service.",
        )
    return ok("the smoke job's end was told by its webhook")


async def image_delivery(subject: Subject) -> Finding:
    """The picture's address serves the picture, to a browser without credentials."""
    assert subject.smoke is not None
    (image, *_) = subject.smoke["images"]
    async with httpx.AsyncClient(timeout=30) as http:
        try:
            answer = await http.get(image["url"])
        except httpx.HTTPError as error:
            return failed(
                f"its address cannot be reached: {error or type(error).__name__}",
                "SITE_URL is where pictures' addresses begin: set it to where users reach the gateway.",
            )
    if answer.status_code != 200 or hashlib.sha256(answer.content).hexdigest() != image["sha256"]:
        return failed(
            f"its address answered {answer.status_code} with other bytes than were stored",
            "Let no proxy rewrite or guard /images and /files; check that SITE_URL leads to this gateway.",
        )
    if answer.headers.get("content-type") != image["content_type"]:
        return warning(f"served as {answer.headers.get('content-type')}", "A proxy rewrites its headers.")
    if answer.headers.get("access-control-allow-origin") != "*":
        return warning("pages of other origins may not read its pixels", "A proxy strips its headers.")
    return ok(f"{answer.headers['content-type']}, {len(answer.content)} bytes, as stored")


async def _followed(http: httpx.AsyncClient, job: dict[str, Any], patience_seconds: float) -> dict[str, Any]:
    """The job once it has ended, or as it stands when patience has."""
    deadline, pause = time.monotonic() + patience_seconds, 0.1
    while job["status"] not in ENDED and time.monotonic() < deadline:
        await asyncio.sleep(pause)
        pause = min(2.0, pause * 1.5)
        answer = await http.get(f"/v1/jobs/{job['id']}")
        answer.raise_for_status()
        job = answer.json()
    return job


def _unended(job: dict[str, Any], patience_seconds: float) -> Finding:
    found = f"still {job['status']} ({job['stage']}) after {patience_seconds:.0f} s; it was canceled"
    if job["status"] == "queued":
        return failed(
            found,
            "No worker moves jobs: a gateway on this database needs WORKER=true. Or JOBS_IN_FLIGHT is full.",
        )
    return failed(
        found,
        "The GPU service took it and is not done: a first start takes minutes (--patience), and "
        "`modal app logs tenkaigen` says what it does.",
    )


async def _delivery_of_the_last_day(subject: Subject) -> Finding:
    if not subject.database_url:
        return skipped("no smoke job was drawn")
    (row,) = await subject.rows(TOLD)
    calls, told = row["calls"], row["told"]
    found = f"{told} of {calls} calls that ended in 24 h were told by a webhook"
    if not calls:
        return skipped("no call ended in 24 h, and no smoke job was drawn")
    if told == 0:
        return failed(found, _webhook_advice(subject))
    return warning(found, _webhook_advice(subject)) if told < 0.9 * calls else ok(found)


def _webhook_advice(subject: Subject) -> str:
    return (
        f"Modal's secret needs TENKAIGEN_WEBHOOK_URL={subject.url}{WEBHOOK} and, as "
        "TENKAIGEN_WEBHOOK_SECRET, the gateway's WEBHOOK_SECRET. `webhook_refused` in the gateway's log: "
        "the secrets differ; nothing there: the address is wrong or closed."
    )


def _problem(answer: httpx.Response) -> str:
    try:
        facts = answer.json()
        return f"{facts['code']}: {facts['detail']}"
    except (ValueError, KeyError, TypeError):
        return f"status {answer.status_code}"


def _time(text: str) -> datetime.datetime:
    return datetime.datetime.fromisoformat(text)
