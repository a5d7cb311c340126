"""The pictures that a job draws from: what a body names, as files in our own buckets.

The GPU service never sees an address that a user has given: what stands there is fetched and drawn anew when
the job is made, and kept as an upload.
"""

import asyncio
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import UUID

from psycopg.rows import DictRow

from gateway.auth import Principal
from gateway.errors import ApiError, NotFound
from gateway.jobs.repository import Jobs
from gateway.jobs.schemas import JobCreate, PictureUse
from gateway.uploads.service import Uploads

File = dict[str, str]
"""``bucket``, ``key`` and ``sha256``."""


class References:
    """Finds pictures of the caller's own, by whichever of their names."""

    def __init__(self, jobs: Jobs, uploads: Uploads) -> None:
        self._jobs = jobs
        self._uploads = uploads

    async def find(self, caller: Principal, body: JobCreate) -> list[dict[str, Any]]:
        """Each as it was named, with its role and its file; the mask last.

        NotFound for one of others, Conflict for an upload that is not ready.  Nothing is fetched before all
        the rest is found, and nothing that was fetched stays if one address is refused.
        """
        drawn = await self._drawn(caller, [use.image_id for use in body.pictures if use.image_id])
        sent = await self._uploads.pictures(caller, [use.upload_id for use in body.pictures if use.upload_id])
        fetched = await self._fetched(caller, body)

        def entry(use: PictureUse) -> dict[str, Any]:
            role = {"role": getattr(use, "role", "mask")}
            if use.image_id:
                return {"image_id": str(use.image_id), **role, **drawn[use.image_id]}
            if use.upload_id:
                return {"upload_id": str(use.upload_id), **role, **_file(vars(sent[use.upload_id]))}
            row = fetched[use.url or ""]
            return {"url": _shown(use.url or ""), "kept_as": str(row["id"]), **role, **_file(row)}

        return [entry(use) for use in body.pictures]

    async def keep(self, references: list[dict[str, Any]]) -> None:
        """The job is made: what was fetched for it stays."""
        await self._uploads.keep([UUID(use["kept_as"]) for use in references if "kept_as" in use])

    async def _drawn(self, caller: Principal, ids: list[UUID]) -> dict[UUID, File]:
        found = await self._jobs.pictures(caller, ids)
        for image_id in ids:
            if image_id not in found:
                raise NotFound(f"There is no picture {image_id}.", param="references")
        return found

    async def _fetched(self, caller: Principal, body: JobCreate) -> dict[str, DictRow]:
        """Uploads by address; one that is named twice is fetched once."""
        places = {use.url: place for place, use in reversed(_places(body)) if use.url}
        answers = await asyncio.gather(
            *(self._uploads.fetch(caller, url) for url in places), return_exceptions=True
        )
        rows = dict(zip(places, answers, strict=True))
        refused = next(((url, row) for url, row in rows.items() if isinstance(row, BaseException)), None)
        if refused is not None:
            await self._forget(caller, rows.values())
            url, error = refused
            if isinstance(error, ApiError):
                error.param = places[url]
            raise error
        return {url: row for url, row in rows.items() if not isinstance(row, BaseException)}

    async def _forget(self, caller: Principal, answers: Iterable[DictRow | BaseException]) -> None:
        for row in answers:
            if not isinstance(row, BaseException):
                await self._uploads.delete(caller, row["id"])


def _places(body: JobCreate) -> list[tuple[str, PictureUse]]:
    """Where in the body each picture is named."""
    places: list[tuple[str, PictureUse]] = [
        (f"references.{n}.url", use) for n, use in enumerate(body.references)
    ]
    return [*places, ("mask.url", body.mask)] if body.mask else places


def _file(facts: Any) -> File:
    return {name: facts[name] for name in ("bucket", "key", "sha256")}


def _shown(url: str) -> str:
    """Without query and fragment, which may hold secrets."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc, parts.path, "", ""))
