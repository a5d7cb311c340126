"""Whether everybody in a panel stayed the same, and what the next try does otherwise: pure functions.

``inputs["judge"]`` of a panel's job says how long to try:

    model                   who looks at the pictures
    pass_score              from which a character counts as the same, where that model answers
    fallback_pass_score     the same, where rules do
    repairs                 how many further pictures may be drawn
    max_cost_usd_micros     what all calls of the job may cost; None: whatever the repairs cost
    usd_micros_per_second   what a second of the GPU was expected to cost

``state["attempts"]`` has a line for each judged picture, as the debug view shows it, with what it has cost.
A repair keeps what the repairs before it did: another seed, then the view first that was the most like the
picture, then stronger words, then more steps.
"""

import math
from collections.abc import Sequence
from typing import Any

from gateway.comics.prompts import Member, Use, as_use, numbers_of
from gateway.jobs import judging
from gateway.jobs.lifecycle import ClaimedJob
from gateway.jobs.plans import Changes, Row
from gateway.usage import usd_micros
from modal_app import catalog
from modal_app.contract import JudgeResult

LADDER = ("seed", "view", "wording", "steps")
MORE_STEPS = 1.5
COST_MARGIN = 1.25
"""What another picture may cost beyond the dearest one before it."""
LIMIT_SHARE = 0.9
"""Of what is left, as GPU seconds, a call is stopped: the rest is for the step in progress."""

Attempt = dict[str, Any]


def attempt(job: ClaimedJob, result: JudgeResult | None, seq: int) -> Attempt:
    """The picture of call ``seq``, which the row describes, and what was said of it."""
    row = job.row
    return {
        **{"seq": seq, "repair": row["state"].get("repair"), "seed": row["seed"], "steps": steps_of(row)},
        **{"prompt": row["prompt_final"], "references": [use["sha256"] for use in row["references"]]},
        "score": result.score if result else None,
        "per_character": _per_character(row["inputs"]["cast"], result),
        "judged_by": result.answered_by if result else None,
        "likeness": [subject.likeness for subject in result.subjects] if result else [],
        "usd_micros": spent(job) - sum(each["usd_micros"] for each in attempts_of(row)),
    }


def attempts_of(row: Row) -> list[Attempt]:
    return list(row["state"].get("attempts", []))


def steps_of(row: Row) -> int:
    steps: int = row["state"].get("steps") or row["params"]["num_inference_steps"]
    return steps


def spent(job: ClaimedJob) -> int:
    """What the calls of the job have cost, with the one that has just ended."""
    newest = usd_micros(job.call.gpu, job.call.timing.gpu_seconds) if job.call else 0
    return int(job.row["cost_usd_micros"]) + newest


def threshold_of(row: Row, tried: Attempt) -> float:
    asked = row["inputs"]["judge"]
    return float(asked["pass_score" if tried["judged_by"] == "vlm" else "fallback_pass_score"])


def is_last(job: ClaimedJob, attempts: Sequence[Attempt]) -> bool:
    """The newest picture is good enough, could not be judged, or no other may be drawn."""
    asked, newest = job.row["inputs"]["judge"], attempts[-1]
    if newest["score"] is None or newest["score"] >= threshold_of(job.row, newest):
        return True
    return len(attempts) > asked["repairs"] or not _affordable(job, attempts)


def best(attempts: Sequence[Attempt]) -> Attempt:
    """The highest score, of equal ones the first; one without a score comes last."""
    return max(attempts, key=lambda each: -1.0 if each["score"] is None else each["score"])


def limit_gpu_seconds(row: Row) -> float | None:
    """After how long the next call of the job is stopped; None where its cost has no cap."""
    asked = row["inputs"].get("judge", {})
    cap: int | None = asked.get("max_cost_usd_micros")
    rate = asked.get("usd_micros_per_second")
    if cap is None or not rate:
        return None
    return max(0.001, LIMIT_SHARE * (cap - int(row["cost_usd_micros"])) / float(rate))


def repaired(job: ClaimedJob, attempts: Sequence[Attempt]) -> Changes:
    """What the next picture does otherwise."""
    row, rung = job.row, rung_of(job, attempts)
    changes = Changes(seed=judging.next_seed(row), state={"repair": rung})
    match rung:
        case "view":
            return Changes(**{**vars(changes), "references": _better_view(row, attempts[-1])})
        case "wording":
            return Changes(**{**vars(changes), "prompt_final": _stronger(row, attempts[-1])})
        case "steps":
            return Changes(**{**vars(changes), "state": {**changes.state, "steps": more_steps(row)}})
    return changes


def rung_of(job: ClaimedJob, attempts: Sequence[Attempt]) -> str:
    """The next one of the ladder that this panel has; another seed where they are used up."""
    member = job.row["inputs"]["cast"][_worst(attempts[-1])]
    has = {
        "seed": True,
        "view": len(member["references"]) > 1 and bool(job.row["references"]),
        "wording": not job.row["inputs"]["raw"],
        "steps": more_steps(job.row) > steps_of(job.row),
    }
    rungs = [rung for rung in LADDER if has[rung] or any(each["repair"] == rung for each in attempts)]
    return rungs[len(attempts) - 1] if len(attempts) <= len(rungs) else "seed"


def more_steps(row: Row) -> int:
    model = catalog.find(row["model"])
    most = model.max_inference_steps if model else steps_of(row)
    return min(most, math.ceil(MORE_STEPS * steps_of(row)))


def uses_of(row: Row, tried: Attempt) -> list[Use]:
    """The references of an attempt, as the row's column has them."""
    known = {
        file["sha256"]: (member, file) for member in row["inputs"]["cast"] for file in member["references"]
    }
    return [as_use(*known[sha256]) for sha256 in tried["references"] if sha256 in known]


def told(row: Row, tried: Attempt, count: int) -> dict[str, Any]:
    """What a panel keeps of the attempt that it shows."""
    named = {name: tried[name] for name in ("score", "per_character", "judged_by")}
    return {**named, "threshold": threshold_of(row, tried), "attempts": count}


def _affordable(job: ClaimedJob, attempts: Sequence[Attempt]) -> bool:
    cap = job.row["inputs"]["judge"]["max_cost_usd_micros"]
    if cap is None:
        return True
    longer = more_steps(job.row) / steps_of(job.row) if rung_of(job, attempts) == "steps" else 1.0
    another = COST_MARGIN * longer * max(int(each["usd_micros"]) for each in attempts)
    return spent(job) + another <= float(cap)


def _per_character(cast: Sequence[Member], result: JudgeResult | None) -> list[dict[str, Any]]:
    if result is None:
        return []
    return [
        {
            **{"character_id": member["character_id"], "score": subject.score},
            "kept": [verdict.attribute for verdict in subject.verdicts if verdict.kept],
            "lost": [verdict.attribute for verdict in subject.verdicts if not verdict.kept],
        }
        for member, subject in zip(cast, result.subjects, strict=True)
    ]


def _worst(tried: Attempt) -> int:
    """Where in the cast stands who came out worst."""
    scores = [each["score"] for each in tried["per_character"]]
    return scores.index(min(scores))


def _better_view(row: Row, tried: Attempt) -> list[Use]:
    """Of whoever came out worst, the view first that the picture is most like, or the next one like it."""
    cast, worst = row["inputs"]["cast"], _worst(tried)
    member, alike = cast[worst], tried["likeness"][worst]
    order = sorted(range(len(alike)), key=lambda n: -alike[n])
    uses = list(row["references"])
    places = [n - 1 for n in numbers_of(uses, member)]
    files = [member["references"][n] for n in order]
    if files[0]["sha256"] == uses[places[0]]["sha256"]:
        files = [files[1], files[0], *files[2:]]
    for place, file in zip(places, files, strict=False):
        uses[place] = as_use(member, file)
    return uses


def _stronger(row: Row, tried: Attempt) -> str:
    """The prompt, and once more who has to stay how."""
    worst = _worst(tried)
    member, said = row["inputs"]["cast"][worst], tried["per_character"][worst]
    numbers = numbers_of(row["references"], member)
    where = f" exactly as in {' and '.join(f'Picture {n}' for n in numbers)}" if numbers else ""
    traits = ", ".join(said["lost"] or member["attributes"])
    return f"{row['prompt_final']}. Keep {member['name']}{where}{f': {traits}' if traits else ''}."
