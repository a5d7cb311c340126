"""Stylesheet, scripts and icon, under an address that changes with them: browsers keep them for ever."""

import gzip
import hashlib
from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter, Request, Response

from gateway.errors import NotFound

FOLDER = Path(__file__).parent / "static"
TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
FOREVER = "public, max-age=31536000, immutable"

router = APIRouter(include_in_schema=False)


@dataclass(frozen=True)
class Asset:
    content: bytes
    compressed: bytes
    content_type: str


def _load() -> dict[str, Asset]:
    found = {path.name: path.read_bytes() for path in sorted(FOLDER.iterdir())}
    return {
        name: Asset(content, gzip.compress(content, mtime=0), TYPES[Path(name).suffix])
        for name, content in found.items()
    }


ASSETS = _load()
FINGERPRINT = hashlib.sha256(b"".join(asset.content for asset in ASSETS.values())).hexdigest()[:12]
"""Of all together: a script names the next one beside it, and both are of one age."""


def address(name: str) -> str:
    """Where a page finds an asset; KeyError when there is none."""
    assert ASSETS[name]
    return f"/studio/{FINGERPRINT}/{name}"


@router.get("/studio/{fingerprint}/{name}", response_class=Response)
async def asset(fingerprint: str, name: str, request: Request) -> Response:
    """One file. A page of another release beside this one gets what there is, for now only."""
    found = ASSETS.get(name)
    if found is None:
        raise NotFound(f"There is no file {name}.")
    caching = FOREVER if fingerprint == FINGERPRINT else "no-cache"
    headers = {"Cache-Control": caching, "X-Content-Type-Options": "nosniff", "Vary": "Accept-Encoding"}
    if accepts_gzip(request):
        headers["Content-Encoding"] = "gzip"
        return Response(found.compressed, media_type=found.content_type, headers=headers)
    return Response(found.content, media_type=found.content_type, headers=headers)


def accepts_gzip(request: Request) -> bool:
    return "gzip" in request.headers.get("accept-encoding", "")
