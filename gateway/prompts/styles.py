"""``/v1/styles``: the house styles, as their files say them."""

import hashlib
from typing import Annotated, Literal

from fastapi import APIRouter, Header, Request, Response
from pydantic import BaseModel

import styles
from gateway.auth import AuthenticatedRoute, Reader
from gateway.errors import NotFound
from gateway.storage.serving import BYTES

router = APIRouter(route_class=AuthenticatedRoute, tags=["styles"])
open_router = APIRouter(tags=["styles"])


class Style(BaseModel):
    """A house style; ``keywords`` follow the prompt of every picture in it."""

    object: Literal["style"] = "style"
    id: str
    set: str
    label: str
    keywords: str
    version: int
    preview_url: str | None


class StyleList(BaseModel):
    object: Literal["list"] = "list"
    data: list[Style]
    has_more: bool = False
    first_id: str
    last_id: str


@router.get("/v1/styles")
async def list_styles(request: Request, caller: Reader, set: str | None = None) -> StyleList:
    """Every house style, or those of one set."""
    data = [_shown(request, style) for style in styles.STYLES.values() if set in (None, style.set)]
    if not data:
        raise NotFound(f"There is no set of styles called `{set}`.", param="set")
    return StyleList(data=data, first_id=data[0].id, last_id=data[-1].id)


@router.get("/v1/styles/{set}/{name}")
async def get_style(set: str, name: str, request: Request, caller: Reader) -> Style:
    """One house style."""
    return _shown(request, _named(set, name))


@open_router.get("/styles/{set}/{name}.webp", response_class=Response, responses=BYTES)
async def style_preview(
    set: str, name: str, if_none_match: Annotated[str | None, Header()] = None
) -> Response:
    """A small picture of the style, for everybody."""
    preview = _named(set, name).preview
    if preview is None:
        raise NotFound("Nobody has drawn this style yet.")
    content = preview.read_bytes()
    tag = f'"{hashlib.sha256(content).hexdigest()}"'
    headers = {"ETag": tag, "Cache-Control": "public, max-age=86400"}
    if if_none_match == tag:
        return Response(status_code=304, headers=headers)
    return Response(content, media_type="image/webp", headers=headers)


def _named(set: str, name: str) -> styles.Style:
    style = styles.STYLES.get(f"{set}/{name}")
    if style is None:
        raise NotFound("There is no such style.")
    return style


def _shown(request: Request, style: styles.Style) -> Style:
    public_url = request.app.state.settings.public_url
    preview_url = f"{public_url}/styles/{style.id}.webp" if style.preview else None
    facts = ("id", "set", "label", "keywords", "version")
    return Style(**{name: getattr(style, name) for name in facts}, preview_url=preview_url)
