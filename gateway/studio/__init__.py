"""The page at ``/``: a client of the public API that runs in the browser and nowhere else.

It is three files, served as they are.  What it shows it asks the API for, with the key that the address it
was opened with carries behind ``#``, a part that browsers never send.
"""

from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles

FOLDER = Path(__file__).parent / "files"
HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' blob: data:; frame-ancestors 'none'; base-uri 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

router = APIRouter(include_in_schema=False)
files = StaticFiles(directory=FOLDER)
"""Script, stylesheet and icon, under ``/studio``."""


@router.get("/")
async def page() -> FileResponse:
    """The page itself; it holds nothing of anybody's, so it needs no credential."""
    return FileResponse(FOLDER / "index.html", headers=HEADERS)
