"""The plan of task ``upscale``: one call, which draws a picture over at a larger size, tile by tile."""

from collections.abc import Sequence
from typing import Any

from gateway.jobs.image_plan import UNUSABLE, image_request
from gateway.jobs.lifecycle import ClaimedJob
from gateway.jobs.plans import CallSpec, Complete, Outcome, Picture, Plan, Row
from modal_app.contract import ImageResult, LanguageResult, UpscaleRequest


class UpscalePlan(Plan):
    """The row's one reference, with the role ``init``, is the picture; its size is the one that is wanted."""

    def next(self, job: ClaimedJob, children: Sequence[Row]) -> CallSpec | Outcome:
        return CallSpec("upscale", upscale_request(job.row))

    def settle(
        self, job: ClaimedJob, result: ImageResult | LanguageResult, pictures: Sequence[Picture]
    ) -> Outcome:
        return Complete(pictures) if isinstance(result, ImageResult) else self.give_up(job, UNUSABLE)


def upscale_request(row: Row) -> dict[str, Any]:
    """The request of task ``upscale`` that a job's row describes; its files are named ``bucket/key``."""
    request = UpscaleRequest.model_validate(image_request(row))
    return request.model_dump(mode="json", exclude_none=True)
