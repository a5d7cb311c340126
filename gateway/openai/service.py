"""Pictures for clients of OpenAI's API: each request is a job, held until it has ended."""

import datetime
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any

from psycopg.rows import DictRow

from gateway.auth import Principal
from gateway.errors import TimedOut, Unavailable
from gateway.images.service import Images
from gateway.jobs.lifecycle import TERMINAL
from gateway.jobs.rendering import Renderer
from gateway.jobs.schemas import Image
from gateway.jobs.service import Created, JobService
from gateway.jobs.submission import Submission
from gateway.openai import answers
from gateway.openai.partial import PartialImages
from gateway.openai.schemas import CompletedImage, ImageGeneration, ImagesResponse, PartialImage
from gateway.openai.translation import job_of

EXPIRY_GRACE_SECONDS = 30.0
"""A request is held as long as its job may live, for a client that hangs up finds the job again.  A worker
ends what has expired within this time; only where no worker runs does the wait end first."""


class OpenAIImages:
    """Starts jobs as OpenAI's API asks for them, and answers as it would."""

    def __init__(self, jobs: JobService, images: Images, renderer: Renderer) -> None:
        self._jobs = jobs
        self._images = images
        self._renderer = renderer

    async def start(
        self,
        caller: Principal,
        asked: ImageGeneration,
        submission: Submission,
        pictures: Mapping[str, Any] | None = None,
    ) -> Created:
        """The job, made once; ``pictures`` are the fields of a job that uploaded files gave."""
        body = job_of(asked, submission.request_id, pictures)
        created = await self._jobs.create(caller, body, submission)
        assert isinstance(created, Created), (
            "no answer is kept of these requests: the job's row gives it again"
        )
        return created

    async def answer(self, caller: Principal, asked: ImageGeneration, row: DictRow) -> ImagesResponse:
        """The pictures, once the job has ended; the error of one that has none."""
        row = await self._ended(caller, row)
        by_url = asked.response_format == "url"
        contents = [] if by_url else await self._contents(row)
        return answers.images_response(row, asked, await self._shown(row), contents)

    async def events(
        self, caller: Principal, asked: ImageGeneration, row: DictRow, kind: str
    ) -> AsyncIterator[PartialImage | CompletedImage]:
        """``kind``.partial_image as the job goes on, then ``kind``.completed for each picture."""
        left = PartialImages(asked, kind)
        async with aclosing(self._jobs.stream(caller, row["id"], None)) as moves:
            async for _, move, now in moves:
                partial = await left.shown(now) if move == "preview" else None
                if partial is not None:
                    yield partial
        row = await self._ended(caller, row)
        for event in answers.completed_events(
            row, asked, kind, await self._shown(row), await self._contents(row)
        ):
            yield event

    async def _ended(self, caller: Principal, row: DictRow) -> DictRow:
        """The completed job; the error of one that failed, was canceled, or does not end."""
        left = (row["expires_at"] - datetime.datetime.now(datetime.UTC)).total_seconds()
        patience = max(0.0, left) + EXPIRY_GRACE_SECONDS
        row = await self._jobs.wait(caller, row["id"], patience)
        if row["status"] not in TERMINAL:
            raise _unended(row)
        if row["status"] != "completed":
            raise answers.failure(row)
        return row

    async def _contents(self, row: DictRow) -> list[bytes]:
        return [await self._images.content(asset) for asset in row["images"]]

    async def _shown(self, row: DictRow) -> list[Image]:
        return await self._renderer.images(row["images"])


def _unended(row: DictRow) -> TimedOut | Unavailable:
    """Past its deadline, or this gateway is being stopped: then the same request finds the job elsewhere."""
    where = f"The job {row['id']} goes on; `GET /v1/jobs/{row['id']}` tells how."
    headers = {"Location": f"/v1/jobs/{row['id']}"}
    if row["expires_at"] < datetime.datetime.now(datetime.UTC):
        return TimedOut(
            f"No worker has ended the job {row['id']} in time.", headers=headers | answers.FOR_GOOD
        )
    return Unavailable(where, code="gateway_stopping", headers=headers | {"Retry-After": "1"})
