"""``/docs``: the reference as a page, rendered here, with one stylesheet and nothing from anywhere else."""

import gzip
from pathlib import Path

from fastapi import APIRouter, Request, Response
from fastapi.responses import FileResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from gateway.reference.reading import Reading, breakable, prose

FOLDER = Path(__file__).parent / "page"
HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Vary": "Accept-Encoding",
}

router = APIRouter(include_in_schema=False)


@router.get("/docs")
async def docs(request: Request) -> Response:
    """The page; the same for everybody, and put together once."""
    state = request.app.state
    if not hasattr(state, "reference_page"):
        state.reference_page = gzip.compress(_rendered(request).encode(), mtime=0)
    page: bytes = state.reference_page
    if "gzip" in request.headers.get("accept-encoding", ""):
        return Response(page, media_type="text/html", headers={**HEADERS, "Content-Encoding": "gzip"})
    return Response(gzip.decompress(page), media_type="text/html", headers=HEADERS)


@router.get("/docs/style.css")
async def style() -> FileResponse:
    return FileResponse(FOLDER / "style.css", media_type="text/css", headers=HEADERS)


@router.get("/docs/icon.svg")
async def icon() -> FileResponse:
    return FileResponse(FOLDER / "icon.svg", media_type="image/svg+xml", headers=HEADERS)


def _rendered(request: Request) -> str:
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"prose": prose, "breakable": breakable}
    document = request.app.openapi()
    template = environment.get_template("page.html")
    return template.render(info=document["info"], reading=Reading(document), origin=_origin(request))


def _origin(request: Request) -> str:
    public_url: str = request.app.state.settings.public_url
    return public_url
