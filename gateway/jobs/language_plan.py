"""Language tasks as jobs of their own, and what stands in for an answer that does not come."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from gateway.jobs import recipes
from gateway.jobs.image_plan import UNUSABLE
from gateway.jobs.lifecycle import ClaimedJob
from gateway.jobs.plans import CallSpec, Changes, Complete, Outcome, Picture, Plan, Row
from modal_app.contract import (
    REQUESTS,
    EnhanceResult,
    ImageResult,
    LanguageResult,
    ParseResult,
    ProfileResult,
    Task,
)

TASKS: tuple[Task, ...] = ("enhance", "parse", "profile", "judge")

LanguageTask = Literal["enhance", "parse", "profile"]
"""Those that have a stand-in, so that somebody may wait for them."""
LanguageAnswer = EnhanceResult | ParseResult | ProfileResult
ANSWERS: dict[LanguageTask, type[LanguageAnswer]] = {
    "enhance": EnhanceResult,
    "parse": ParseResult,
    "profile": ProfileResult,
}


class LanguagePlan(Plan):
    """One call; its answer stays in ``state["result"]``."""

    def next(self, job: ClaimedJob, children: Sequence[Row]) -> CallSpec | Outcome:
        asked = {"model": job.model, **job.row["inputs"]["request"]}
        return CallSpec(job.task, REQUESTS[job.task].model_validate(asked).model_dump(mode="json"))

    def settle(
        self, job: ClaimedJob, result: ImageResult | LanguageResult, pictures: Sequence[Picture]
    ) -> Outcome:
        if result.task != job.task:
            return self.give_up(job, UNUSABLE)
        return Complete(changes=Changes(state={"result": result.model_dump(mode="json")}))


def fallback(task: LanguageTask, request: Mapping[str, Any]) -> LanguageAnswer:
    """The answer where no model gives one: what was asked, as it was asked."""
    match task:
        case "enhance":
            words = request.get("trained_words", []) if request.get("mode") == "lora" else []
            prompt = recipes.with_trained_words(request["prompt"], words)
            return EnhanceResult(prompt=prompt, answered_by="fallback")
        case "parse":
            return ParseResult(
                subject=request["prompt"],
                style=None,
                style_confidence=0.0,
                franchise=None,
                product=None,
                negative=None,
                answered_by="fallback",
            )
        case "profile":
            return ProfileResult(profile={}, color_palette=[], answered_by="fallback")
