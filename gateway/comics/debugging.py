"""How a panel came to be, from the row of its job: pure."""

from collections.abc import Mapping, Sequence
from typing import Any

from gateway.comics import schemas
from gateway.comics.consistency import attempts_of, steps_of
from gateway.jobs.schemas import Job, JobCall

Row = Mapping[str, Any]


def debugged(
    panel: schemas.Panel,
    job: Row | None,
    workflow: Job | None,
    calls: Sequence[Row],
    urls: Mapping[str, str],
) -> schemas.PanelDebug:
    """``urls`` of pictures by their ids, as far as they are still there."""
    asked = job["inputs"].get("judge", {}) if job else {}
    return schemas.PanelDebug(
        panel=panel,
        prompt=workflow.prompt if workflow else None,
        model=_model(job, calls) if job else None,
        workflow=workflow,
        calls=[JobCall.model_validate(call) for call in calls],
        references=[_reference(use, urls) for use in job["references"]] if job else [],
        attempts=[schemas.PanelAttempt(**each) for each in _attempts(job, calls)] if job else [],
        max_attempts=asked["repairs"] + 1 if asked else None,
        max_cost_usd_micros=asked.get("max_cost_usd_micros"),
    )


def _model(job: Row, calls: Sequence[Row]) -> schemas.PanelModel:
    """The revision is the one that the engine told it had loaded."""
    told = [call["fingerprint"] for call in calls if call["task"] == "image" and call["fingerprint"]]
    return schemas.PanelModel(id=job["model"], revision=told[-1].get("revision") if told else None)


def _attempts(job: Row, calls: Sequence[Row]) -> list[dict[str, Any]]:
    """Those that were judged; of a picture that nobody looked at, what the row knows."""
    found = attempts_of(job)
    if found or not job["images"]:
        return [{"accepted": False, **each} for each in found]
    alone: dict[str, Any] = {
        **{"seq": [call["seq"] for call in calls if call["task"] == "image"][-1], "repair": None},
        **{"seed": job["seed"], "steps": steps_of(job), "prompt": job["prompt_final"]},
        "references": [use["sha256"] for use in job["references"]],
        **{"score": None, "per_character": [], "judged_by": None},
        **{"usd_micros": job["cost_usd_micros"], "accepted": True},
    }
    return [alone]


def _reference(use: Row, urls: Mapping[str, str]) -> schemas.PanelReference:
    named = {name: use[name] for name in ("character_id", "view", "sha256")}
    return schemas.PanelReference(**named, url=urls.get(use["image_id"]))
