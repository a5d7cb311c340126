"""The plan of task ``image``: a better prompt, where one was asked for, the pictures, a look at them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from gateway.jobs import judging, recipes
from gateway.jobs.lifecycle import ClaimedJob, Fail
from gateway.jobs.plans import CallSpec, Changes, Complete, Next, Outcome, Picture, Plan, Row, stored
from gateway.storage import DESIGNS
from modal_app.contract import (
    EnhanceRequest,
    EnhanceResult,
    ImageRequest,
    ImageResult,
    JudgeResult,
    LanguageResult,
)

LANGUAGE_POLLS = 10
"""Two minutes at a patience of 5 s.  A model that takes longer to load holds up its picture as well."""

UNUSABLE = Fail("bad_answer", "The GPU service answered something else than was asked.", retryable=True)


class ImagePlan(Plan):
    """``enhance?`` → ``image`` → ``judge?`` → done, or back to ``image`` (see ``judging``).

    Only the first picture can fail the job.  An enhancement that does leaves the prompt that the job began
    with; a judge that does, or a repair, leaves the pictures that are there.
    """

    def next(self, job: ClaimedJob, children: Sequence[Row]) -> CallSpec | Outcome:
        if _is_enhancing(job):
            return CallSpec("enhance", enhance_request(job.row), LANGUAGE_POLLS)
        if judging.waits_for_verdict(job):
            return CallSpec("judge", self.judge_request(job), LANGUAGE_POLLS)
        return CallSpec("image", self.image_request(job))

    def settle(
        self, job: ClaimedJob, result: ImageResult | LanguageResult, pictures: Sequence[Picture]
    ) -> Outcome:
        match result:
            case EnhanceResult():
                return Next(self._enhanced(job.row, result))
            case ImageResult():
                return Next() if judging.wanted(job) else Complete(pictures)
            case JudgeResult():
                return self.judged(job, result)
        return self.give_up(job, UNUSABLE)

    def give_up(self, job: ClaimedJob, why: Fail) -> Outcome:
        if _is_enhancing(job):
            return Next(Changes(state={"enhance": {"status": "fallback", "error": why.code}}))
        if judging.waits_for_verdict(job):
            return self.judged(job, None)
        if stored(job):
            return self.accepted(job, job.row["state"]["verdicts"])
        return why

    def final_prompt(self, row: Row, prompt: str) -> str:
        """What the model is given of an enhanced prompt."""
        return recipes.final_prompt(prompt, row["style"], row["references"])

    def image_request(self, job: ClaimedJob) -> dict[str, Any]:
        return image_request(job.row)

    def judge_request(self, job: ClaimedJob) -> dict[str, Any]:
        return judging.judge_request(job)

    def accepted(self, job: ClaimedJob, verdicts: list[dict[str, Any]]) -> Complete:
        """The best pictures, and in the row the seed that drew them."""
        pictures = judging.best(job, verdicts)
        return Complete(pictures, Changes(state={"verdicts": verdicts}, seed=pictures[0]["seed"]))

    def repaired(self, job: ClaimedJob) -> Changes:
        """What the next picture does otherwise than the one that was not accepted."""
        return Changes(seed=judging.next_seed(job.row))

    def judged(self, job: ClaimedJob, result: JudgeResult | None) -> Outcome:
        """The newest picture was looked at, or nobody could."""
        verdicts = judging.with_verdict(job, result)
        if judging.accepts(job, verdicts):
            return self.accepted(job, verdicts)
        changes = self.repaired(job)
        return Next(replace(changes, state=changes.state | {"verdicts": verdicts}))

    def _enhanced(self, row: Row, result: EnhanceResult) -> Changes:
        if result.answered_by == "fallback":
            return Changes(state={"enhance": {"status": "fallback"}})
        return Changes(
            state={"enhance": {"status": "done"}},
            prompt_enhanced=result.prompt,
            prompt_final=self.final_prompt(row, result.prompt),
            enhance_status="done",
        )


def _is_enhancing(job: ClaimedJob) -> bool:
    """A retry takes over what the first job was given, and asks again for what it was not."""
    asked, done = "enhance" in job.row["inputs"], job.row["prompt_enhanced"] is not None
    return asked and not done and "enhance" not in job.row["state"]


def enhance_request(row: Row) -> dict[str, Any]:
    """The request of task ``enhance``; ``inputs["enhance"]`` has all but the prompt."""
    asked = {"model": row["model"], "prompt": row["prompt_input"], **row["inputs"]["enhance"]}
    return EnhanceRequest.model_validate(asked).model_dump(mode="json")


def image_request(row: Row) -> dict[str, Any]:
    """The request of task ``image`` that a job's row describes; its files are named ``bucket/key``."""
    named = ("model", "width", "height", "num_images", "seed")
    uses = [{**use, "url": f"{use.get('bucket', DESIGNS)}/{use['key']}"} for use in row["references"]]
    request = ImageRequest.model_validate(
        {
            **{name: row[name] for name in named},
            **row["params"],
            "prompt": row["prompt_final"],
            "negative_prompt": row["prompt_negative"],
            "references": [use for use in uses if use["role"] != "mask"],
            "mask": next((use for use in uses if use["role"] == "mask"), None),
            "loras": [{**use, "url": f"{use['bucket']}/{use['key']}"} for use in row["loras"]],
        }
    )
    return request.model_dump(mode="json", exclude_none=True)
