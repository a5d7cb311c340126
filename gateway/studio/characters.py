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
VIEWS = (None, "front", "side", "back")
FAVORITE = "favorite"
LEAST_ANGLES = 3
"""With fewer nothing turns."""
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
async def character(page: OnPage, character_id: str, show: str = "") -> Response:
    """One of them; the gallery with pictures of one kind, or the favorite, where ``show`` says so."""
    path = f"/v1/characters/{segment(character_id)}"
    found, images = await page.api.all(page.api.get(path), page.api.get(f"{path}/images", limit=100))
    drawn = [image for image in images["data"] if image["media"]]
    there = {image["kind"] for image in drawn}
    return await page.show(
        "character.html",
        character=found,
        images=[image for image in drawn if _shown(image, show)],
        show=show,
        filters={"": "All", FAVORITE: "Favorite"} | {k: name for k, name in KINDS.items() if k in there},
        around=_around(drawn),
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
        references=_picked_from(all_kinds["data"]),
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


def _shown(image: Json, show: str) -> bool:
    return bool(image["is_selected"]) if show == FAVORITE else show in ("", image["kind"])


def _around(images: list[Json]) -> list[Json]:
    """The newest set of angles, from the front on; empty where none has enough of them to be turned."""
    sets: dict[int, list[Json]] = {}
    for image in images:
        if image["angle"] is not None:
            sets.setdefault(image["media"]["seed"], []).append(image)  # a set is drawn with one
    turned = (sorted(each, key=lambda image: int(image["angle"])) for each in sets.values())
    return next((each for each in turned if len(each) >= LEAST_ANGLES), [])


def _picked_from(images: list[Json]) -> list[Json]:
    """What a portfolio may be drawn from, the most likely first."""
    there = [image for image in images if image["kind"] in PICKABLE and image["media"]]
    return sorted(there, key=lambda image: (PICKABLE.index(image["kind"]), VIEWS.index(image["view"])))


def _slots(character: Json) -> list[tuple[str, Json | None]]:
    """(name, picture or None): front, side and back, and the master reference where it is all there is."""
    by_view = {image["view"]: image for image in character["reference_images"]}
    slots = [(str(view).capitalize(), by_view.get(view)) for view in VIEWS[1:]]
    return [("Reference", by_view[None]), *slots] if None in by_view else slots


def _traits(character: Json) -> dict[str, str]:
    """The rows of the profile that have no field of their own."""
    named = ("color_palette", "do_not_change", "source")
    profile = character["profile"] or {}
    return {name: value for name, value in profile.items() if name not in named}
