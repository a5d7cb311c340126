"""The plan of a replay: one call with the recipe's own request, and what came of it beside what was."""

from collections.abc import Sequence
from dataclasses import asdict

from gateway.jobs.image_plan import UNUSABLE
from gateway.jobs.lifecycle import ClaimedJob
from gateway.jobs.plans import CallSpec, Changes, Complete, Outcome, Picture, Plan, Row
from gateway.replay.recipes import differences
from modal_app.contract import ImageResult, LanguageResult

REPLAY = "replay"


class ReplayPlan(Plan):
    """``inputs["request"]`` is the call's, ``inputs["replay"]`` has the recipe's hash and fingerprint."""

    def next(self, job: ClaimedJob, children: Sequence[Row]) -> CallSpec | Outcome:
        return CallSpec(job.task, job.row["inputs"]["request"])

    def settle(
        self, job: ClaimedJob, result: ImageResult | LanguageResult, pictures: Sequence[Picture]
    ) -> Outcome:
        if not isinstance(result, ImageResult):
            return self.give_up(job, UNUSABLE)
        expected, drawn = job.row["inputs"]["replay"], result.images[0].pixels_sha256
        fingerprint = job.call.fingerprint if job.call else {}
        found = {
            "equal": drawn == expected["pixels_sha256"] if drawn else None,
            "pixels_sha256": drawn,
            "fingerprint_differences": [
                asdict(each) for each in differences(expected["fingerprint"], fingerprint)
            ],
        }
        return Complete(pictures, Changes(state={"replay": found}))
