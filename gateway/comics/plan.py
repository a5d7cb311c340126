"""The plan of a panel: that of a picture, with words that say who is who, and with everybody looked at.

``inputs`` of its row tell it, beside what every picture is told:

    panel_id, project_id
    cast        everybody in it, in order (``prompts.Member``)
    raw         the prompt goes to the model byte for byte
    judge       how to tell whether the cast stayed the same, and how long to try (``consistency``)
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from psycopg.types.json import Jsonb

from gateway.comics import consistency, statements
from gateway.comics.prompts import framed
from gateway.jobs import judging
from gateway.jobs.image_plan import ImagePlan
from gateway.jobs.lifecycle import ClaimedJob
from gateway.jobs.plans import Changes, Complete, Next, Outcome, Picture, Row, Statement
from gateway.storage import DESIGNS
from modal_app.contract import JudgeRequest, JudgeResult

PANEL = "comic_panel"
"""Name of the plan."""

POLL_AFTER_MS = 3000
"""How often a frontend should ask after a panel."""


class PanelPlan(ImagePlan):
    """``enhance?`` → ``image`` → ``judge?`` → ready, or back to ``image`` up the ladder of repairs."""

    poll_after_ms = POLL_AFTER_MS

    def final_prompt(self, row: Row, prompt: str) -> str:
        return super().final_prompt(row, framed(prompt, row["references"], row["inputs"]["cast"]))

    def image_request(self, job: ClaimedJob) -> dict[str, Any]:
        request = super().image_request(job)
        return _limited(job, request | {"num_inference_steps": consistency.steps_of(job.row)})

    def judge_request(self, job: ClaimedJob) -> dict[str, Any]:
        subjects = [
            {"references": [_source(file) for file in member["references"]][:10]}
            | {"attributes": member["attributes"][:20]}
            for member in job.row["inputs"]["cast"]
        ]
        newest = judging.newest(job)[0]
        asked = {"model": job.row["inputs"]["judge"]["model"], "image": _source(newest), "subjects": subjects}
        return _limited(job, JudgeRequest.model_validate(asked).model_dump(mode="json"))

    def judged(self, job: ClaimedJob, result: JudgeResult | None) -> Outcome:
        if result is not None and len(result.subjects) != len(job.row["inputs"]["cast"]):
            result = None  # an older GPU service, which knows no subjects
        verdicts = judging.with_verdict(job, result)
        tried = consistency.attempt(job, result, verdicts[-1]["seq"])
        attempts = [*consistency.attempts_of(job.row), tried]
        known = {"verdicts": verdicts, "attempts": attempts}
        if consistency.is_last(job, attempts):
            return _accepted(job, known)
        changes = consistency.repaired(job, attempts)
        return Next(replace(changes, state=changes.state | known))

    def accepted(self, job: ClaimedJob, verdicts: list[dict[str, Any]]) -> Complete:
        return _accepted(job, {"verdicts": verdicts, "attempts": consistency.attempts_of(job.row)})

    def ended(self, job: Row, pictures: Sequence[Picture]) -> Sequence[Statement]:
        """The panel shows what came of its own job; what another has drawn for it goes."""
        tried = [each for each in consistency.attempts_of(job) if each.get("accepted")]
        told = consistency.told(job, tried[0], len(consistency.attempts_of(job))) if tried else None
        values = {
            **{"id": job["inputs"]["panel_id"], "job_id": job["id"], "retry_of": job["retry_of"]},
            **{"image_id": pictures[0]["id"] if pictures else None},
            **{"enhanced_prompt": job["prompt_enhanced"], "consistency": Jsonb(told) if told else None},
            "attempts": told["attempts"] if told else len(pictures),
        }
        discarded = [Statement(statements.DISCARD_PICTURE, values)] if pictures else []
        return [Statement(statements.KEEP_PANEL, values), *discarded, *_announced(job, told)]


def _accepted(job: ClaimedJob, known: dict[str, Any]) -> Complete:
    """The best picture, and in the row what drew it."""
    best = consistency.best(known["attempts"])
    attempts = [{**each, "accepted": each["seq"] == best["seq"]} for each in known["attempts"]]
    changes = Changes(
        state={**known, "attempts": attempts, "steps": best["steps"]},
        seed=best["seed"],
        prompt_final=best["prompt"],
        references=consistency.uses_of(job.row, best),
    )
    return Complete(judging.of_call(job, best["seq"]), changes)


def _limited(job: ClaimedJob, request: dict[str, Any]) -> dict[str, Any]:
    seconds = consistency.limit_gpu_seconds(job.row)
    return request if seconds is None else request | {"limit_gpu_seconds": seconds}


def _source(file: Row) -> dict[str, str]:
    return {"url": f"{file.get('bucket', DESIGNS)}/{file['key']}", "sha256": file["sha256"]}


def _announced(job: Row, told: Mapping[str, Any] | None) -> list[Statement]:
    kinds = ["panel.ready" if job["status"] == "completed" else "panel.failed"]
    named = {name: job["inputs"][name] for name in ("panel_id", "project_id")}
    if told and told["score"] is not None and told["score"] < told["threshold"]:
        kinds.append("panel.low_consistency")
        named |= {name: told[name] for name in ("score", "threshold")}
    announced = {"job_id": job["id"], "user_id": job["user_id"], "payload": Jsonb(named)}
    return [Statement(statements.ANNOUNCE, announced | {"kind": kind}) for kind in kinds]
