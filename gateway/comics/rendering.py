"""Comics as the API shows them."""

import time
import zlib
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from gateway.comics import schemas
from gateway.comics.plan import POLL_AFTER_MS
from gateway.comics.repository import ComicRows
from gateway.jobs.rendering import SIGNED_SECONDS, Renderer
from gateway.jobs.schemas import Image

Row = Mapping[str, Any]


class ComicRenderer:
    """The pictures of a whole comic are read in one statement and signed in one call."""

    def __init__(self, rows: ComicRows, images: Renderer, public_url: str) -> None:
        self._rows = rows
        self._images = images
        self._public_url = public_url

    async def comic(self, tree: Row) -> schemas.ComicWithChapters:
        chapters = tree["chapters"]
        shown = await self._pictures([panel for chapter in chapters for panel in chapter["panels"]])
        told = {"chapter_count": len(chapters), "chapters": [_chapter(each, shown) for each in chapters]}
        return schemas.ComicWithChapters.model_validate({**tree, **told})

    async def panel(self, row: Row) -> schemas.Panel:
        return schemas.Panel(**_panel(row, await self._pictures([row])))

    async def event(self, row: Row, job: Mapping[str, Any]) -> schemas.PanelEvent:
        """``job``: stage, step and steps."""
        return schemas.PanelEvent(**_panel(row, await self._pictures([row])), **job)

    async def urls(self, references: Sequence[Row]) -> dict[str, str]:
        """Where pictures that a job was drawn from are, by their ids; those that are gone are left out."""
        assets = await self._rows.assets([UUID(use["image_id"]) for use in references])
        return {str(image.id): image.url for image in await self._images.images(list(assets.values()))}

    async def _pictures(self, panels: Sequence[Row]) -> dict[str, Image]:
        """By the id of the panel."""
        ids = {str(panel["image_id"]): panel for panel in panels if panel["image_id"]}
        assets = list((await self._rows.assets([UUID(key) for key in ids])).values())
        images = await self._images.images(assets)
        return {str(ids[str(image.id)]["id"]): self._of_panel(image, ids[str(image.id)]) for image in images}

    def _of_panel(self, image: Image, panel: Row) -> Image:
        """Its thumbnail at an address that every member of the project may ask for."""
        page = f"{self._public_url}/v1/comics/panels/{panel['id']}/thumbnail"
        return image.model_copy(update={"thumbnail_url": page})


def etag(row: Row) -> str:
    """Changes with everything a client can see of a panel, and in time for its picture's signed address."""
    period = int(time.time() // (SIGNED_SECONDS / 2)) if row["image_id"] else 0
    seen = f"{row['updated_at']}{row['status']}{row['image_id']}{row['position']}"
    return f'W/"{zlib.crc32(seen.encode()):x}-{period:x}"'


def _chapter(chapter: Row, shown: Mapping[str, Image]) -> dict[str, Any]:
    return {**chapter, "panels": [_panel(panel, shown) for panel in chapter["panels"]]}


def _panel(row: Row, shown: Mapping[str, Image]) -> dict[str, Any]:
    error = {"code": row["error_code"], "message": row["error_message"] or ""}
    return {
        **row,
        "image": shown.get(str(row["id"])),
        "error": error if row["error_code"] else None,
        "poll_after_ms": POLL_AFTER_MS,
    }
