"""Pictures for clients of OpenAI's API: each request is a job, held until it has ended."""

import datetime
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import replace

from fastapi.exceptions import RequestValidationError
from psycopg.rows import DictRow

from gateway.auth import Principal
from gateway.errors import ApiError, TimedOut, Unavailable
from gateway.images.service import Images
from gateway.jobs.lifecycle import TERMINAL
from gateway.jobs.rendering import Renderer
from gateway.jobs.schemas import Image, JobCreate
from gateway.jobs.service import Created, JobService, Replay
from gateway.jobs.submission import Submission
from gateway.openai import answers
from gateway.openai.edits import Taken
from gateway.openai.forms import Form
from gateway.openai.partial import PartialImages
from gateway.openai.schemas import CompletedImage, ImageEdit, ImageGeneration, ImagesResponse, PartialImage
from gateway.openai.translation import job_of
from gateway.uploads.service import Uploads

EXPIRY_GRACE_SECONDS = 30.0
"""A request is held as long as its job may live, for a client that hangs up finds the job again.  A worker
ends what has expired within this time; only where no worker runs does the wait end first."""

_SENT_AS = {"references": "image", "num_images": "n"}


class OpenAIImages:
    """Starts jobs as OpenAI's API asks for them, and answers as it would."""

    def __init__(self, jobs: JobService, images: Images, uploads: Uploads, renderer: Renderer) -> None:
        self._jobs = jobs
        self._images = images
        self._uploads = uploads
        self._renderer = renderer

    async def generate(self, caller: Principal, asked: ImageGeneration, submission: Submission) -> Created:
        """The job, made once."""
        body = job_of(asked, submission.request_id)
        with _named_as_sent():
            return _row_of(await self._jobs.create(caller, body, submission))

    async def edit(self, caller: Principal, asked: ImageEdit, form: Form, submission: Submission) -> Created:
        """The job of pictures that came along, which are kept as uploads; once, as above."""
        job_of(asked, submission.request_id)  # what is wrong with the words is said before a file is kept
        taken = Taken(self._uploads, caller)

        async def body() -> JobCreate:
            return job_of(asked, submission.request_id, await taken.fields(asked, form))

        try:
            with _named_as_sent():
                created = _row_of(await self._jobs.create_from(caller, body, submission))
        except (ApiError, RequestValidationError):
            await taken.forget()
            raise
        await (taken.forget() if created.replayed or created.cached else taken.keep())
        return created

    async def answer(self, caller: Principal, asked: ImageGeneration, created: Created) -> ImagesResponse:
        """The pictures, once the job has ended; the error of one that has none."""
        row = await self._ended(caller, created.row)
        by_url = asked.response_format == "url"
        contents = [] if by_url else await self._contents(row)
        return answers.images_response(replace(created, row=row), asked, await self._shown(row), contents)

    async def events(
        self, caller: Principal, asked: ImageGeneration, created: Created, kind: str
    ) -> AsyncIterator[PartialImage | CompletedImage]:
        """``kind``.partial_image as the job goes on, then ``kind``.completed for each picture."""
        left = PartialImages(asked, kind)
        async with aclosing(self._jobs.stream(caller, created.row["id"], None)) as moves:
            async for _, move, now in moves:
                partial = await left.shown(now) if move == "preview" else None
                if partial is not None:
                    yield partial
        row = await self._ended(caller, created.row)
        shown, contents = await self._shown(row), await self._contents(row)
        for event in answers.completed_events(replace(created, row=row), asked, kind, shown, contents):
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


def _row_of(created: Created | Replay) -> Created:
    assert isinstance(created, Created), "no answer is kept of these requests: the row gives it again"
    return created


@contextmanager
def _named_as_sent() -> Iterator[None]:
    """An error names the field by the word that OpenAI has for it."""
    try:
        yield
    except ApiError as error:
        name = (error.param or "").partition(".")[0]
        error.param = _SENT_AS.get(name, error.param)
        raise


def _unended(row: DictRow) -> TimedOut | Unavailable:
    """Past its deadline, or this gateway is being stopped: then the same request finds the job elsewhere."""
    where = f"The job {row['id']} goes on; `GET /v1/jobs/{row['id']}` tells how."
    headers = {"Location": f"/v1/jobs/{row['id']}"}
    if row["expires_at"] < datetime.datetime.now(datetime.UTC):
        return TimedOut(
            f"No worker has ended the job {row['id']} in time.", headers=headers | answers.FOR_GOOD
        )
    return Unavailable(where, code="gateway_stopping", headers=headers | {"Retry-After": "1"})
