"""Pages of characters: the list, a new one, one of them, and the workspace of its pictures."""

from urllib.parse import urlencode

from fastapi import APIRouter
from fastapi.responses import RedirectResponse
from starlette.responses import Response

from gateway.studio.api import Api, Json, Refused, segment
from gateway.studio.shell import OnPage, PageRoute

A_PAGE = 48
KINDS = {
    "reference": "Reference",
    "view": "View",
    "portfolioItem": "Portfolio",
    "scene": "Scene",
    "variant": "Variant",
    "panel": "Panel",
}
PICKABLE = ("reference", "view", "variant")
"""What a portfolio may be drawn from."""
BASICS = ("name", "gender", "age", "ethnicity")

router = APIRouter(include_in_schema=False, route_class=PageRoute)
old_addresses = APIRouter(include_in_schema=False)
"""Those of other products' documents."""


@router.get("/characters")
async def characters(page: OnPage, after: str = "", comic: str = "") -> Response:
    """All of them; with ``comic``, those that were made for it."""
    api = page.api
    found = await api.get("/v1/characters", limit=100 if comic else A_PAGE, after=after)
    of_comic = await api.get(f"/v1/comics/{segment(comic)}") if comic else None
    if of_comic:
        found["data"] = [each for each in found["data"] if each["project_id"] == of_comic["id"]]
    return await page.show("characters.html", characters=found, comic=of_comic)


@router.get("/characters/new")
async def new_character(page: OnPage, comic: str = "") -> Response:
    styles, loras = await page.api.all(page.api.get("/v1/styles"), page.api.get("/v1/loras", limit=100))
    storybook = [style for style in styles["data"] if style["set"] == "storybook"]
    ready = [lora for lora in loras["data"] if lora["status"] == "ready"]
    return await page.show("new_character.html", styles=storybook, loras=ready, comic=comic)


@router.get("/characters/{character_id}")
async def character(page: OnPage, character_id: str) -> Response:
    path = f"/v1/characters/{segment(character_id)}"
    found, images = await page.api.all(page.api.get(path), page.api.get(f"{path}/images", limit=100))
    return await page.show(
        "character.html",
        character=found,
        images=[image for image in images["data"] if image["media"]],
        slots=_slots(found),
        traits=_traits(found),
        basics=BASICS,
        kinds=KINDS,
    )


@router.get("/characters/{character_id}/images")
async def images(page: OnPage, character_id: str, kind: str = "", after: str = "") -> Response:
    """The workspace: what its form begins with is read from stored data, and costs nothing."""
    path, api = f"/v1/characters/{segment(character_id)}", page.api
    found, shown, all_kinds, suggestion = await api.all(
        api.get(path),
        api.get(f"{path}/images", kind=kind, after=after, limit=A_PAGE),
        api.get(f"{path}/images", limit=100),
        _suggestion(api, path),
    )
    return await page.show(
        "character_images.html",
        character=found,
        images=shown,
        kind=kind,
        kinds=KINDS,
        suggestion=suggestion,
        references=[each for each in all_kinds["data"] if each["kind"] in PICKABLE and each["media"]],
    )


@old_addresses.get("/screenplay/characters/{character_id}/images")
async def images_by_another_name(character_id: str) -> Response:
    return RedirectResponse(f"/characters/{segment(character_id)}/images", 308)


@old_addresses.get("/admin/characters")
@old_addresses.get("/admin/characters/{rest:path}")
async def characters_by_another_name(rest: str = "", after: str = "") -> Response:
    parts = [segment(part) for part in rest.split("/") if part]
    query = f"?{urlencode({'after': after})}" if after else ""
    return RedirectResponse("/".join(["/characters", *parts]) + query, 308)


async def _suggestion(api: Api, path: str) -> str:
    """The prompt for a master reference; empty while nothing is known of the character."""
    try:
        return str((await api.get(f"{path}/initial-image-prompt"))["prompt"])
    except Refused as refused:
        if refused.status != 400:
            raise
        return ""


def _slots(character: Json) -> list[tuple[str, Json | None]]:
    """(name, picture or None): front, side and back, and the master reference where it is all there is."""
    by_view = {image["view"]: image for image in character["reference_images"]}
    slots = [(view.capitalize(), by_view.get(view)) for view in ("front", "side", "back")]
    return [("Reference", by_view[None]), *slots] if None in by_view else slots


def _traits(character: Json) -> dict[str, str]:
    """The rows of the profile that have no field of their own."""
    named = ("color_palette", "do_not_change", "source")
    profile = character["profile"] or {}
    return {name: value for name, value in profile.items() if name not in named}
