"""The pictures of an edit on their way into a job."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from gateway.auth import Principal
from gateway.errors import ApiError, Malformed
from gateway.openai.forms import Brought, Form
from gateway.openai.schemas import ImageEdit
from gateway.uploads.service import Uploads
from modal_app import catalog

LONGEST_SIDE = 1536
"""Of a picture whose size is `auto`: OpenAI's own, and what the models still draw well."""


class Taken:
    """Keeps the pictures of one request as the caller's uploads; ``forget`` when no job is made of them."""

    def __init__(self, uploads: Uploads, caller: Principal) -> None:
        self._uploads = uploads
        self._caller = caller
        self._new: list[UUID] = []
        self._fetched: list[UUID] = []

    async def fields(self, asked: ImageEdit, form: Form) -> dict[str, Any]:
        """``references``, ``mask`` and, where it is not given, the size, as fields of a job."""
        if not form.pictures and not asked.names_pictures:
            raise Malformed("There is no picture to edit.", code="missing_image", param="image")
        rows = [await self._kept(picture) for picture in form.pictures]
        uses = zip(rows, _roles(asked, form), strict=True)
        fields: dict[str, Any] = {
            "references": [{"upload_id": str(row["id"]), "role": role} for row, role in uses]
        }
        if form.mask:
            fields["mask"] = {"upload_id": str((await self._kept(form.mask))["id"])}
        if rows and asked.size in (None, "auto"):
            width, height = like(rows[0]["width"], rows[0]["height"])
            fields["size"] = f"{width}x{height}"
        return fields

    async def keep(self) -> None:
        """The job is made: what was fetched for it stays."""
        await self._uploads.keep(self._fetched)

    async def forget(self) -> None:
        for upload_id in [*self._new, *self._fetched]:
            await self._uploads.delete(self._caller, upload_id)
        self._new, self._fetched = [], []

    async def _kept(self, picture: Brought) -> dict[str, Any]:
        """The row of the upload that a picture is, or becomes; its error names the field."""
        try:
            return await self._row(picture)
        except ApiError as error:
            error.param = picture.field
            raise

    async def _row(self, picture: Brought) -> dict[str, Any]:
        if picture.upload_id is not None:
            found = await self._uploads.picture(self._caller, picture.upload_id)
            return {**vars(found), "id": picture.upload_id}
        if picture.url is not None:
            row = await self._uploads.fetch(self._caller, picture.url)
            self._fetched.append(row["id"])
        else:
            row = await self._uploads.take(self._caller, picture.content or b"", picture.filename)
            self._new.append(row["id"])
        return row


def like(width: int, height: int) -> tuple[int, int]:
    """(width, height) that a model draws, nearest to those of a picture: never larger, in the same shape."""
    scale = min(1.0, LONGEST_SIDE / max(width, height))
    wide, high = _side(width * scale), _side(height * scale)
    least = _side(max(wide, high) / catalog.ASPECT_MAX, up=True)
    return max(wide, least), max(high, least)


def _side(pixels: float, *, up: bool = False) -> int:
    step = catalog.SIZE_MULTIPLE
    whole = -(-pixels // step) if up else round(pixels / step)
    return max(catalog.SIZE_MIN, int(whole) * step)


def _roles(asked: ImageEdit, form: Form) -> Sequence[str]:
    """What each picture is for: as told; else a ``strength`` without a mask draws over the first."""
    if asked.roles is not None:
        if len(asked.roles) != len(form.pictures):
            raise Malformed("`roles` has one entry for each picture.", param="roles")
        return asked.roles
    over = (asked.model_extra or {}).get("strength") is not None and form.mask is None
    return ["init" if over and n == 0 else "reference" for n in range(len(form.pictures))]
