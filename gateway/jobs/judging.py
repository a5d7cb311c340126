"""Whether a picture kept what it had to keep, and what follows: the pure part of judging and repairing.

``inputs["judge"]`` of a job says what to look for, and how long to try:

    attributes     traits in words, each of which has to be seen
    references     pictures to compare with, as ``{bucket, key, sha256}``
    model          who looks (``JobService.speaker``; the one that draws)
    pass_score     from which a picture is accepted (60)
    repairs        how often another is drawn in place of one that is not (1)
    max_cost_usd_micros    what the job's calls may cost in all; None: whatever the repairs cost

``state["verdicts"]`` has a verdict for each picture: ``{seq, score, verdicts, answered_by}``.  With several
pictures to a call, the first stands for all.
"""

from collections.abc import Sequence
from typing import Any

from gateway.jobs.lifecycle import ClaimedJob
from gateway.jobs.plans import Picture, Row, stored
from gateway.storage import DESIGNS
from modal_app.contract import JudgeRequest, JudgeResult

PASS_SCORE = 60.0
"""The judge's own line between kept and lost is 50; the rest is for what it is unsure of."""
REPAIRS = 1
SEED_STEP = 1_000_003
"""From the seed of a picture to that of its repair: far enough that no picture of a batch is drawn twice."""
SEED_LIMIT = 2**63 - 10


def wanted(job: ClaimedJob) -> bool:
    return "judge" in job.row["inputs"]


def waits_for_verdict(job: ClaimedJob) -> bool:
    """The newest pictures are stored and not judged yet."""
    candidates = stored(job)
    return bool(candidates) and candidates[-1]["seq"] not in [each["seq"] for each in _verdicts(job.row)]


def newest(job: ClaimedJob) -> list[Picture]:
    """The pictures of the last call that drew some."""
    return of_call(job, stored(job)[-1]["seq"])


def judge_request(job: ClaimedJob) -> dict[str, Any]:
    asked = job.row["inputs"]["judge"]
    request = JudgeRequest.model_validate(
        {
            "model": asked.get("model", job.model),
            "image": _source(newest(job)[0]),
            "references": [_source(each) for each in asked.get("references", [])],
            "attributes": asked.get("attributes", []),
        }
    )
    return request.model_dump(mode="json")


def with_verdict(job: ClaimedJob, result: JudgeResult | None) -> list[dict[str, Any]]:
    """The verdicts with that on the newest picture; one that nobody gave has no score."""
    seq = stored(job)[-1]["seq"]
    given = result.model_dump(mode="json", exclude={"task"}) if result else {"score": None, "verdicts": []}
    return [*_verdicts(job.row), {"seq": seq, **given}]


def accepts(job: ClaimedJob, verdicts: Sequence[dict[str, Any]]) -> bool:
    """The newest picture is good enough, could not be judged, or is the last that may be drawn."""
    asked = job.row["inputs"]["judge"]
    score, cap = verdicts[-1]["score"], asked.get("max_cost_usd_micros")
    if score is None or score >= asked.get("pass_score", PASS_SCORE):
        return True
    another = job.row["cost_usd_micros"] + job.row["estimated_usd_micros"]
    return len(verdicts) > asked.get("repairs", REPAIRS) or (cap is not None and another > cap)


def best(job: ClaimedJob, verdicts: Sequence[dict[str, Any]]) -> list[Picture]:
    """The pictures with the highest score, of equal ones the first; a picture without one comes last."""
    seqs = list(dict.fromkeys(picture["seq"] for picture in stored(job)))
    scores = {each["seq"]: each["score"] for each in verdicts if each["score"] is not None}
    return of_call(job, max(seqs, key=lambda seq: scores.get(seq, -1.0)))


def next_seed(row: Row) -> int:
    return int((row["seed"] + SEED_STEP) % SEED_LIMIT)


def _verdicts(row: Row) -> list[dict[str, Any]]:
    return list(row["state"].get("verdicts", []))


def of_call(job: ClaimedJob, seq: int) -> list[Picture]:
    return [picture for picture in stored(job) if picture["seq"] == seq]


def _source(file: Row) -> dict[str, str]:
    return {"url": f"{file.get('bucket', DESIGNS)}/{file['key']}", "sha256": file["sha256"]}
