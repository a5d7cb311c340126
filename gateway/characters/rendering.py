"""Characters and their pictures as the API shows them; every address is signed for this answer."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from psycopg.rows import DictRow

from gateway.characters import schemas
from gateway.characters.plans import POLL_AFTER_MS
from gateway.characters.prompts import VIEWS
from gateway.characters.repository import CharacterRows
from gateway.jobs.rendering import Renderer
from gateway.jobs.schemas import Image


class CharacterRenderer:
    """The files of a whole answer are looked up, and signed, together."""

    def __init__(self, rows: CharacterRows, renderer: Renderer) -> None:
        self._rows = rows
        self._renderer = renderer

    async def character(self, row: DictRow) -> schemas.Character:
        return (await self.characters([row]))[0]

    async def characters(self, rows: Sequence[DictRow]) -> list[schemas.Character]:
        media = await self._media([UUID(each["asset_id"]) for row in rows for each in _shown(row)])
        return [_character(row, media) for row in rows]

    async def image(self, row: DictRow) -> schemas.CharacterImage:
        return (await self.images([row]))[0]

    async def images(self, rows: Sequence[DictRow]) -> list[schemas.CharacterImage]:
        media = await self._media([row["asset_id"] for row in rows if row["asset_id"]])
        return [_image(row, media.get(row["asset_id"])) for row in rows]

    async def _media(self, ids: list[UUID]) -> dict[UUID, Image]:
        """The pictures that still have their file."""
        assets = await self._rows.assets(ids)
        kept = [asset for asset in assets.values() if asset["deleted_at"] is None]
        return {image.id: image for image in await self._renderer.images(kept)}


def etag(rows: Sequence[DictRow]) -> str:
    """Changes with everything that is told, its addresses aside."""
    told = json.dumps(rows, default=str, sort_keys=True)
    return f'W/"{hashlib.sha256(told.encode()).hexdigest()[:32]}"'


def _shown(row: DictRow) -> list[dict[str, Any]]:
    """The views, front first; where there are none, the master reference."""
    views = {each["view"]: each for each in row["pictures"] if each["kind"] == "view"}
    ordered = [views[view] for view in VIEWS if view in views]
    shown = ordered or [each for each in row["pictures"] if each["kind"] == "reference"][-1:]
    return [each for each in shown if each["asset_id"]]


def _character(row: DictRow, media: dict[UUID, Image]) -> schemas.Character:
    references = [
        schemas.ReferenceImage(
            **image.model_dump(include={"url", "thumbnail_url", "width", "height"}), view=each["view"]
        )
        for each in _shown(row)
        if (image := media.get(UUID(each["asset_id"])))
    ]
    same = [
        name for name in schemas.Character.model_fields if name in row and name not in ("profile", "status")
    ]
    failed = row["state"] == "failed"
    return schemas.Character(
        **{name: row[name] for name in same},
        status=row["state"],
        profile=_profile(row["profile"]),
        reference_images=references,
        generatedReferenceImages=references,
        referenceImageWorkflowIds=row["reference_image_workflow_ids"],
        error=schemas.CharacterError(code=row["error_code"], message=row["error_message"] or "")
        if failed
        else None,
        poll_after_ms=POLL_AFTER_MS,
    )


def _profile(row: dict[str, Any] | None) -> schemas.Profile | None:
    if row is None:
        return None
    named = ("color_palette", "do_not_change", "source")
    return schemas.Profile.model_validate({**row["attributes"], **{name: row[name] for name in named}})


def _image(row: DictRow, media: Image | None) -> schemas.CharacterImage:
    shown = media.model_dump(include=set(schemas.Media.model_fields)) if media else None
    fields = {name: row[name] for name in schemas.CharacterImage.model_fields if name in row}
    return schemas.CharacterImage.model_validate({**fields, "media": shown})
