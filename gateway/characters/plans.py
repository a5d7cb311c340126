"""How a character comes to be, one job for each step, so that each can fail and be run again alone.

    profile ──▶ portrait ──▶ front, side, back ──▶ ready

A character that a LoRA was trained on needs no portrait: its views are drawn with the LoRA.  The
parent draws nothing.  ``inputs`` of its row tell it all:

    character, given    what the owner said: name, age …; color_palette, do_not_change, attributes, opening
    profile             columns of the profile's row, where the step ``profile`` is not to be run
    steps               by name, the columns of the jobs that are to be run
    photo, portrait     files to draw from; ``portrait`` where the step of this name is not to be run
    judge               the model that looks at finished pictures
"""

from collections.abc import Mapping, Sequence
from typing import Any

from psycopg.types.json import Jsonb

import styles
from gateway.characters import statements
from gateway.characters.profiles import observed, profile_of
from gateway.characters.prompts import VIEWS, Profile, character_prompt, described_prompt, view_prompt
from gateway.jobs.image_plan import ImagePlan
from gateway.jobs.language_plan import LanguagePlan
from gateway.jobs.lifecycle import TERMINAL, ClaimedJob, Fail
from gateway.jobs.plans import (
    CallSpec,
    Changes,
    Child,
    Complete,
    FanOut,
    Outcome,
    Picture,
    Plan,
    Row,
    Statement,
    WaitForChildren,
)
from modal_app.contract import ImageResult, LanguageResult, ProfileResult

CHARACTER, PROFILE, PICTURE, PICTURE_SET = (
    "character",
    "character_profile",
    "character_picture",
    "character_set",
)
"""Names of the plans."""

POLL_AFTER_MS = 5000
PHASES: tuple[tuple[str, ...], ...] = (("profile",), ("portrait",), VIEWS)
STEPS = tuple(step for phase in PHASES for step in phase)

PORTRAIT_GONE = Fail("reference_deleted", "The portrait was deleted before the views.", retryable=True)


class _Parent(Plan):
    """A job whose children draw."""

    poll_after_ms = POLL_AFTER_MS

    def settle(
        self, job: ClaimedJob, result: ImageResult | LanguageResult, pictures: Sequence[Picture]
    ) -> Outcome:
        return Fail("bad_answer", "This job makes no calls.", retryable=False)


class CharacterPlan(_Parent):
    """The steps of ``inputs["steps"]`` in their order; one that fails lets those beside it end first."""

    def next(self, job: ClaimedJob, children: Sequence[Row]) -> CallSpec | Outcome:
        made = {str(child["slot"]): child for child in children}
        for phase in PHASES:
            wanted = [step for step in phase if step in job.row["inputs"]["steps"]]
            missing = [step for step in wanted if step not in made]
            if missing:
                return _started(job, missing, made)
            if any(made[step]["status"] not in TERMINAL for step in wanted):
                return WaitForChildren()
            failed = [made[step] for step in wanted if made[step]["status"] != "completed"]
            if failed:
                return _failure(failed[0])
        return Complete()

    def ended(self, job: Row, pictures: Sequence[Picture]) -> Sequence[Statement]:
        kind = "character.ready" if job["status"] == "completed" else "character.failed"
        return [announcement(job, kind, {"character_id": job["inputs"]["character_id"]})]


class CharacterProfile(LanguagePlan):
    """What a photo shows; the profile's row is written with the end of the job."""

    poll_after_ms = POLL_AFTER_MS

    def ended(self, job: Row, pictures: Sequence[Picture]) -> Sequence[Statement]:
        if job["status"] != "completed":
            return ()
        seen = ProfileResult.model_validate(job["state"]["result"])
        columns = observed(job["inputs"]["given"], seen)
        values = {**columns, "attributes": Jsonb(columns["attributes"])}
        return [Statement(statements.KEEP_PROFILE, values | {"id": job["inputs"]["character_id"]})]


class CharacterPicture(ImagePlan):
    """One picture, or several, of a character; its rows are written with the end of the job.

    Of several master references the first is one, and the others are variants of it.
    ``inputs["replaces"]``: with it, everything that was there before goes.
    """

    poll_after_ms = POLL_AFTER_MS

    def ended(self, job: Row, pictures: Sequence[Picture]) -> Sequence[Statement]:
        if job["status"] != "completed":
            return ()
        inputs = job["inputs"]
        values = {
            **{"id": inputs["character_id"], "ids": [picture["id"] for picture in pictures]},
            **{"view": inputs.get("view"), "angle": inputs.get("angle")},
            **{"job_id": job["id"], "prompt": job["prompt_final"], "user_id": job["user_id"]},
            "metrics": Jsonb(_metrics(job)),
        }
        kept = [
            Statement(statements.KEEP_PICTURES, {**values, "ids": [picture["id"]], "kind": kind})
            for picture, kind in zip(pictures, _kinds(job, len(pictures)), strict=True)
        ]
        discarded = Statement(statements.DISCARD_PICTURES, values)
        replaced = [Statement(statements.REPLACE_PICTURES, values)] if inputs.get("replaces") else []
        return [*kept, *replaced, discarded]


class CharacterSet(_Parent):
    """Many pictures, each a job of its own; those that fail leave a row that says why.

    A set of which nothing came fails as its first picture did, and leaves no rows.
    """

    def next(self, job: ClaimedJob, children: Sequence[Row]) -> CallSpec | Outcome:
        pictures: Mapping[str, dict[str, Any]] = job.row["inputs"]["pictures"]
        if not children:
            return FanOut([Child(slot, columns) for slot, columns in pictures.items()])
        if any(child["status"] not in TERMINAL for child in children):
            return WaitForChildren()
        failed = [child for child in children if child["status"] != "completed"]
        if len(failed) == len(children):
            return _failure(failed[0])
        return Complete(changes=Changes(state={"failed": [_failed_item(child) for child in failed]}))

    def ended(self, job: Row, pictures: Sequence[Picture]) -> Sequence[Statement]:
        values = {"id": job["inputs"]["character_id"], "user_id": job["user_id"], "kind": job["image_kind"]}
        return [
            Statement(statements.KEEP_FAILURE, {**values, **item}) for item in job["state"].get("failed", [])
        ]


PLANS: dict[str, Plan] = {
    CHARACTER: CharacterPlan(),
    PROFILE: CharacterProfile(),
    PICTURE: CharacterPicture(),
    PICTURE_SET: CharacterSet(),
}


def announcement(job: Row, kind: str, payload: dict[str, Any]) -> Statement:
    """A row of the outbox, once for each job and kind."""
    told = {"job_id": job["id"], "user_id": job["user_id"], "kind": kind, "payload": Jsonb(payload)}
    return Statement(statements.ANNOUNCE, told)


def _started(job: ClaimedJob, steps: Sequence[str], made: Mapping[str, Row]) -> Outcome:
    portrait, wanted = _portrait(job, made), job.row["inputs"]["steps"]
    if portrait is None and any(step in VIEWS and not wanted[step]["loras"] for step in steps):
        return PORTRAIT_GONE
    profile = _profile(job, made)
    return FanOut([Child(step, _columns(job, step, profile, portrait)) for step in steps])


def _columns(job: ClaimedJob, step: str, profile: Profile, portrait: dict[str, Any] | None) -> dict[str, Any]:
    """Those the step was made with, and what is known only now: its prompt and what it is drawn from."""
    inputs = job.row["inputs"]
    columns = inputs["steps"][step]
    if step == "profile":
        return dict(columns)
    source = portrait if step in VIEWS else inputs["photo"]
    prompt = _view_prompt(job, profile, step) if step in VIEWS else _portrait_prompt(job, profile)
    asked = {"model": inputs["judge"], "attributes": list(profile.do_not_change)}
    judged = {"judge": asked} if inputs["judge"] and profile.do_not_change else {}
    return {
        **columns,
        **{"prompt_input": prompt, "prompt_final": prompt},
        "references": [{**source, "role": "reference"}] if source else [],
        "inputs": columns["inputs"] | judged,
    }


def _view_prompt(job: ClaimedJob, profile: Profile, view: str) -> str:
    by_words = bool(job.row["inputs"]["steps"][view]["loras"])
    return view_prompt(profile, view, _style(job), from_reference=not by_words)


def _portrait_prompt(job: ClaimedJob, profile: Profile) -> str:
    inputs = job.row["inputs"]
    style, opening = _style(job), inputs["given"]["opening"]
    if inputs["photo"] is None:
        return described_prompt(profile, style, opening)
    return character_prompt(profile, style, opening)


def _style(job: ClaimedJob) -> styles.Style | None:
    return styles.STYLES.get(job.row["style"] or "")


def _profile(job: ClaimedJob, made: Mapping[str, Row]) -> Profile:
    inputs = job.row["inputs"]
    row = inputs.get("profile")
    if "profile" in made:
        seen = made["profile"]["state"].get("result")
        row = observed(inputs["given"], ProfileResult.model_validate(seen)) if seen else None
    return profile_of(inputs["character"], row)


def _portrait(job: ClaimedJob, made: Mapping[str, Row]) -> dict[str, Any] | None:
    """The file that the views are drawn from; None where it does not exist."""
    if "portrait" not in made:
        found: dict[str, Any] | None = job.row["inputs"]["portrait"]
        return found
    return next((file_of(image) for image in made["portrait"]["images"]), None)


def file_of(image: Row) -> dict[str, Any]:
    """A picture as what other jobs draw from."""
    return {"image_id": str(image["id"]), **{name: image[name] for name in ("bucket", "key", "sha256")}}


def _failure(child: Row) -> Fail:
    """Why a child failed, as its parent's own reason."""
    code = child["error_code"] or str(child["status"])
    message = child["error_message"] or "It was canceled."
    return Fail(code, f"{child['slot']}: {message}", retryable=True)


def _failed_item(child: Row) -> dict[str, Any]:
    return {
        **{"job_id": str(child["id"]), "prompt": child["prompt_final"]},
        "angle": child["inputs"]["angle"],
        "error": child["error_message"] or "It was canceled.",
    }


def _kinds(job: Row, count: int) -> list[str]:
    others = "variant" if job["image_kind"] == "reference" else job["image_kind"]
    return [job["image_kind"], *[others] * count][:count]


def _metrics(job: Row) -> dict[str, Any]:
    verdicts = [each["score"] for each in job["state"].get("verdicts", []) if each["score"] is not None]
    return {"durationMs": job["processing_time_ms"], **({"score": max(verdicts)} if verdicts else {})}
