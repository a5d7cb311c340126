"""What the last day's jobs say: stuck, failing, slow, drawn with too little.

From the rows of every user where the database is known; else from the key's own jobs, over HTTP.
"""

import datetime
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from gateway.config import Settings
from gateway.doctor.findings import Finding, failed, ok, skipped, warning
from gateway.doctor.subject import Subject
from modal_app import catalog

LEASES = 2
"""A job that is due for longer than this was claimed by nobody."""
WAITS_SECONDS = 60.0
"""The same over HTTP, where leases are not told."""
ENOUGH_JOBS = 3
"""Fewer say nothing."""
TOO_SLOW = 2.0
"""Times the catalogue's seconds."""
LONG_SECONDS = 30.0
"""From here on the fast row is worth a word, even where the slow one takes what it should."""
FEW_STEPS = 0.5
"""Of the steps that the model draws with by default."""
LIGHTNING_STEPS = 4
SHORT_PROMPT = 15
"""Characters of a prompt that leaves almost everything to chance."""

STUCK = """
with busy as (
  select user_id, count(*) as n from public.generation_jobs where status = 'processing' group by 1
),
late as (
  select j.status::text, j.wake_at from public.generation_jobs j left join busy using (user_id)
  where j.wake_at < now() - make_interval(secs => %(late)s)
    and (j.status = 'processing' or (
      coalesce(busy.n, 0) < %(per_user)s and (select coalesce(sum(n), 0) from busy) < %(in_flight)s))
)
select status, count(*) as n, extract(epoch from now() - min(wake_at))::float as seconds
from late group by 1 order by 1 desc
"""
ENDED = """
select model, status::text, error_code, num_images, gpu_seconds::float, length(prompt_input) as prompt_length,
  (params ->> 'num_inference_steps')::float as steps
from public.generation_jobs
where finished_at > now() - interval '24 hours' and metadata ->> 'made_by' is distinct from 'tenkaigen doctor'
order by finished_at desc limit 500
"""


@dataclass(frozen=True)
class Ended:
    """A job that ended in the last 24 hours."""

    model: str
    status: str
    error_code: str | None
    num_images: int
    gpu_seconds: float
    steps: float | None
    prompt_length: int


async def stuck_jobs(subject: Subject) -> Finding:
    """No job is due, and may run, and is taken by nobody."""
    late = await _late(subject)
    if late is None:
        return skipped("neither the database nor a key is known")
    if not late:
        return ok("no job waits for longer than it should")
    found = "; ".join(f"{n} stuck in '{status}', for {seconds:.0f} s" for status, n, seconds in late)
    return failed(
        found,
        "Nobody moves them: is a gateway with WORKER=true running on this database? Its log says what breaks "
        "(`worker_round_failed`, `step_broke`); after a restart they go on by themselves.",
    )


async def recent_failures(subject: Subject) -> Finding:
    """How many jobs failed in 24 hours, by code."""
    jobs = await _ended(subject)
    if jobs is None:
        return skipped("neither the database nor a key is known")
    codes = Counter(job.error_code or "unknown" for job in jobs if job.status == "failed")
    if not codes:
        return ok(f"none of {len(jobs)} jobs of the last 24 h failed")
    listed = ", ".join(f"{code} {n}" for code, n in codes.most_common(5))
    found = f"{codes.total()} of {len(jobs)} jobs of the last 24 h failed: {listed}"
    advice = (
        "docs/troubleshooting.md says what each code means; `GET /v1/jobs/{id}/calls` shows a job's calls."
    )
    most = codes.total() >= ENOUGH_JOBS and codes.total() * 2 > len(jobs)
    return failed(found, advice) if most else warning(found, advice)


async def slow_generation(subject: Subject) -> Finding:
    """Half of the pictures of each model take no longer than the catalogue expects."""
    jobs = await _ended(subject)
    if jobs is None:
        return skipped("neither the database nor a key is known")
    drawn = _drawn(jobs)
    slow = [line for row, those in drawn for line in _slow(row, those)]
    if not slow:
        return ok("pictures take what the catalogue expects" if drawn else "too few pictures to say")
    return warning(
        "; ".join(slow),
        'Draw with Lightning: a fast row such as qwen-image-fast, or "quality": "low" or "medium". If a fast '
        "row is slow too: another GPU (modal_app/README.md, Tuning), and look for cold starts.",
    )


async def poor_quality(subject: Subject) -> Finding:
    """Most pictures are given enough steps, and enough words."""
    jobs = await _ended(subject)
    if jobs is None:
        return skipped("neither the database nor a key is known")
    drawn = _drawn(jobs)
    poor = [line for row, those in drawn for line in _hurried(row, those)] + _short(drawn)
    if not poor:
        return ok("pictures are given the steps of their model" if drawn else "too few pictures to say")
    return warning(
        "; ".join(poor),
        'Take 50 to 100 steps ("quality": "high", "xhigh" or "max"), the r128 weights (xhigh and max; '
        "QUANT of modal_app/deployment.py), and say more in the prompt, or let `enhance` do it.",
    )


async def _late(subject: Subject) -> list[tuple[str, int, float]] | None:
    """(status, number, seconds of the oldest); None where nothing can be known."""
    settings = subject.settings
    if isinstance(settings, Settings) and subject.database_url:
        rows = await subject.rows(
            STUCK,
            late=LEASES * settings.lease_seconds,
            per_user=settings.jobs_in_flight_per_user,
            in_flight=settings.jobs_in_flight,
        )
        return [(row["status"], row["n"], row["seconds"]) for row in rows]
    if not (subject.url and subject.key):
        return None
    return [] if await _jobs(subject, status="processing") else await _queued_too_long(subject)


async def _queued_too_long(subject: Subject) -> list[tuple[str, int, float]]:
    """Nothing moves, and yet these wait."""
    now = datetime.datetime.now(datetime.UTC)
    ages = [(now - _time(job["created_at"])).total_seconds() for job in await _jobs(subject, status="queued")]
    late = [age for age in ages if age > WAITS_SECONDS]
    return [("queued", len(late), max(late))] if late else []


async def _ended(subject: Subject) -> list[Ended] | None:
    if subject.database_url:
        return [Ended(**row) for row in await subject.rows(ENDED)]
    if not (subject.url and subject.key):
        return None
    since = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=24)
    jobs = await _jobs(subject)
    return [_as_ended(job) for job in jobs if job["finished_at"] and _time(job["finished_at"]) > since]


async def _jobs(subject: Subject, **filters: str) -> list[dict[str, Any]]:
    """The newest hundred of the key's own jobs, without the doctor's."""
    async with subject.http() as http:
        answer = await http.get("/v1/jobs", params={"limit": 100, **filters})
    answer.raise_for_status()
    return [job for job in answer.json()["data"] if job["metadata"].get("made_by") != "tenkaigen doctor"]


def _as_ended(job: dict[str, Any]) -> Ended:
    return Ended(
        model=job["model"],
        status=job["status"],
        error_code=(job["error"] or {}).get("code"),
        num_images=job["params"].get("num_images") or 1,
        gpu_seconds=job["cost"]["gpu_seconds"],
        steps=job["params"].get("num_inference_steps"),
        prompt_length=len(job["prompt"]["input"]),
    )


def _drawn(jobs: Sequence[Ended]) -> list[tuple[catalog.Model, list[Ended]]]:
    """Completed jobs by model, of models that really draw and were asked often enough."""
    by_model: defaultdict[str, list[Ended]] = defaultdict(list)
    for job in jobs:
        if job.status == "completed":
            by_model[job.model].append(job)
    rows = [(catalog.find(name), those) for name, those in sorted(by_model.items())]
    return [(row, those) for row, those in rows if row and row.variants and len(those) >= ENOUGH_JOBS]


def _slow(row: catalog.Model, jobs: Sequence[Ended]) -> list[str]:
    measured = median(job.gpu_seconds / job.num_images for job in jobs)
    steps = median(job.steps or row.num_inference_steps for job in jobs)
    expected = row.est_seconds * steps / row.num_inference_steps
    if measured > TOO_SLOW * expected or (measured > LONG_SECONDS and row.fast):
        return [f"{row.id} takes {measured:.1f} s a picture, expected {expected:.1f} s"]
    return []


def _hurried(row: catalog.Model, jobs: Sequence[Ended]) -> list[str]:
    steps = median(job.steps or row.num_inference_steps for job in jobs)
    lightning = bool(row.step_loras) and steps <= LIGHTNING_STEPS
    if steps < FEW_STEPS * row.num_inference_steps or lightning:
        return [f"{row.id} draws in {steps:g} steps"]
    return []


def _short(drawn: Sequence[tuple[catalog.Model, list[Ended]]]) -> list[str]:
    lengths = [job.prompt_length for _, jobs in drawn for job in jobs]
    if lengths and median(lengths) < SHORT_PROMPT:
        return [f"half of the prompts have {median(lengths):g} characters or fewer"]
    return []


def _time(text: str) -> datetime.datetime:
    return datetime.datetime.fromisoformat(text)
