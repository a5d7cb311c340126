"""``/v1/comics/{id}/export``: a comic as a file."""

import re
import unicodedata
from typing import Annotated, cast
from urllib.parse import quote
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import StreamingResponse

from gateway.auth import AuthenticatedRoute, Reader
from gateway.comics.export import cbz, pdf
from gateway.comics.export.layouts import LAYOUTS
from gateway.comics.export.pages import Direction
from gateway.comics.export.service import Export, Exports, Format, Wanted

router = APIRouter(route_class=AuthenticatedRoute, tags=["comics"])

_FILE = {"schema": {"type": "string", "format": "binary"}}


async def _exports(request: Request) -> Exports:
    return cast(Exports, request.app.state.exports)


Service = Annotated[Exports, Depends(_exports)]
LayoutName = Annotated[
    str, Query(description=f"How pages are laid out: {', '.join(LAYOUTS)}.", max_length=50)
]
Reading = Annotated[Direction, Query(description="How panels are read: as manga from right to left.")]
OneChapter = Annotated[UUID | None, Query(description="This chapter alone.")]


@router.get(
    "/v1/comics/{project_id}/export",
    response_class=Response,
    responses={200: {"description": "The file.", "content": {cbz.MEDIA_TYPE: _FILE, pdf.MEDIA_TYPE: _FILE}}},
)
async def export_comic(
    project_id: UUID,
    request: Request,
    caller: Reader,
    service: Service,
    format: Format = "pdf",
    layout: LayoutName = "four",
    direction: Reading = "ltr",
    chapter_id: OneChapter = None,
) -> Response:
    """The finished chapters of a comic, as CBZ or PDF. One is finished when each of its panels is ready."""
    export = await service.prepare(caller, project_id, Wanted(format, layout, direction, chapter_id))
    headers = {"ETag": f'W/"{export.tag}"', "Cache-Control": "private, no-cache"}
    if request.headers.get("if-none-match") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    await service.require_pictures(export)
    headers |= {"Content-Disposition": _attachment(export), "X-Content-Type-Options": "nosniff"}
    return StreamingResponse(service.write(export), headers=headers, media_type=export.media_type)


def _attachment(export: Export) -> str:
    """Its name in Unicode, and in ASCII for clients that know no better (RFC 6266)."""
    name = re.sub(r'[\x00-\x1f\x7f"*/:<>?\\|]+', "_", export.name)
    ascii_name = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    return f"attachment; filename=\"{ascii_name}\"; filename*=UTF-8''{quote(name, safe='')}"
