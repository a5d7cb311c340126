"""Pages of comics: the list, and one of them, a chapter at a time."""

from fastapi import APIRouter
from fastapi.responses import RedirectResponse
from starlette.responses import Response

from gateway.studio.api import Api, Json, segment
from gateway.studio.drift import Drift, drift
from gateway.studio.shell import OnPage, PageRoute

A_PAGE = 48

router = APIRouter(include_in_schema=False, route_class=PageRoute)
old_addresses = APIRouter(include_in_schema=False)
"""Those of other products' documents."""


@old_addresses.get("/comics/project/{comic_id}")
async def comic_by_another_name(comic_id: str) -> Response:
    return RedirectResponse(f"/comics/{segment(comic_id)}", 308)


@old_addresses.get("/comics/project/{comic_id}/character")
async def cast_by_another_name(comic_id: str) -> Response:
    return RedirectResponse(f"/characters?comic={segment(comic_id)}", 308)


@router.get("/comics")
async def comics(page: OnPage, after: str = "") -> Response:
    api = page.api
    found, styles = await api.all(api.get("/v1/comics", limit=A_PAGE, after=after), api.get("/v1/styles"))
    return await page.show("comics.html", comics=found, styles=styles["data"])


@router.get("/comics/{comic_id}")
async def comic(page: OnPage, comic_id: str, chapter: str = "", debug: bool = False) -> Response:
    """One comic. The chapter is the first where the address names none."""
    api, path = page.api, f"/v1/comics/{segment(comic_id)}"
    found, members, characters, styles = await api.all(
        api.get(path),
        api.get(f"{path}/members"),
        api.get("/v1/characters", limit=100),
        api.get("/v1/styles"),
    )
    active = _active(found["chapters"], chapter)
    return await page.show(
        "comic.html",
        comic=found,
        members=members["data"],
        chapter=active,
        characters=[each for each in characters["data"] if each["status"] == "ready"],
        styles=styles["data"],
        debug=debug,
        finished=any(_finished(each) for each in found["chapters"]),
        drift=await _drift(api, active),
    )


@router.get("/ui/panels/{panel_id}/debug")
async def panel_debug(page: OnPage, panel_id: str) -> Response:
    """How a panel came to be, for the dialog that shows it."""
    told = await page.api.get(f"/v1/comics/panels/{segment(panel_id)}/debug")
    return page.part("part_debug.html", told=told)


async def _drift(api: Api, chapter: Json | None) -> Drift | None:
    if chapter is None:
        return None
    return drift(await api.get(f"/v1/comics/chapters/{chapter['id']}/consistency"))


def _active(chapters: list[Json], wanted: str) -> Json | None:
    named = [chapter for chapter in chapters if chapter["id"] == wanted]
    return next(iter([*named, *chapters]), None)


def _finished(chapter: Json) -> bool:
    """Whether it can be exported: it has panels, and each is ready."""
    panels = chapter["panels"]
    return bool(panels) and all(panel["status"] == "ready" for panel in panels)
