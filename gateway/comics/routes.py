"""``/v1/comics``: comics, their members and their chapters.  Panels have ``panel_routes``."""

from typing import Annotated, cast
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request, Response
from sse_starlette import EventSourceResponse

from gateway.auth import AuthenticatedRoute, Generator, Reader
from gateway.comics import schemas
from gateway.comics.rendering import ComicRenderer
from gateway.comics.service import Comics
from gateway.comics.watching import ComicEvents
from gateway.jobs.streams import LastEventId, documented, event_id, event_stream, told

router = APIRouter(route_class=AuthenticatedRoute, tags=["comics"])


async def _comics(request: Request) -> Comics:
    return cast(Comics, request.app.state.comics)


async def _renderer(request: Request) -> ComicRenderer:
    return cast(ComicRenderer, request.app.state.comic_renderer)


Service = Annotated[Comics, Depends(_comics)]
Render = Annotated[ComicRenderer, Depends(_renderer)]


@router.post("/v1/comics", status_code=201)
async def create_comic(
    body: schemas.ComicCreate, caller: Generator, service: Service, render: Render
) -> schemas.ComicWithChapters:
    """A new comic with an empty "Chapter 1"."""
    return await render.comic(await service.create(caller, body))


@router.get("/v1/comics")
async def list_comics(
    caller: Reader,
    service: Service,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    after: UUID | None = None,
) -> schemas.ComicList:
    """The comics that the caller takes part in, newest first, with how many panels each has."""
    rows = await service.page(caller, after, limit + 1)
    data = [schemas.Comic(**row) for row in rows[:limit]]
    first, last = (data[0].id, data[-1].id) if data else (None, None)
    return schemas.ComicList(data=data, has_more=len(rows) > limit, first_id=first, last_id=last)


@router.get("/v1/comics/{project_id}", response_model=schemas.ComicWithChapters)
async def get_comic(project_id: UUID, caller: Reader, service: Service, render: Render) -> Response:
    """A comic with its chapters and their panels, in order."""
    comic = await render.comic(await service.get(caller, project_id))
    return Response(comic.model_dump_json(), media_type="application/json")


@router.patch("/v1/comics/{project_id}")
async def change_comic(
    project_id: UUID, body: schemas.ComicChange, caller: Generator, service: Service
) -> schemas.Comic:
    """Change what is given."""
    return schemas.Comic(**await service.change(caller, project_id, body))


@router.delete("/v1/comics/{project_id}", status_code=204)
async def delete_comic(project_id: UUID, caller: Generator, service: Service) -> None:
    """Delete a comic with everything in it; only its owner may, and nothing brings it back."""
    await service.delete(caller, project_id)


@router.get(
    "/v1/comics/{project_id}/events",
    response_class=EventSourceResponse,
    responses=documented("PanelEvents"),
)
async def stream_comic_events(
    project_id: UUID,
    request: Request,
    caller: Reader,
    render: Render,
    last_event_id: LastEventId = None,
) -> EventSourceResponse:
    """What becomes of a comic's panels, as server-sent events from now on, for every member.

    `status`, `progress`, `ready` and `failed`, each with the panel and the stage of its job. `Last-Event-ID`
    resumes without loss.
    """
    watching = cast(ComicEvents, request.app.state.comic_events)
    after = await watching.start(caller, project_id, event_id(last_event_id))
    return event_stream(told(watching.stream(caller, project_id, after), render.event))


@router.get("/v1/comics/{project_id}/members")
async def list_members(project_id: UUID, caller: Reader, service: Service) -> schemas.MemberList:
    """Who takes part, the owner first."""
    rows = await service.members(caller, project_id)
    return schemas.MemberList(data=[schemas.Member(**row) for row in rows])


@router.post("/v1/comics/{project_id}/members", status_code=201)
async def add_member(
    project_id: UUID, body: schemas.MemberAdd, caller: Generator, service: Service
) -> schemas.Member:
    """Let somebody read or edit a comic, or change what they may; for its owner."""
    return schemas.Member(**await service.add_member(caller, project_id, body))


@router.delete("/v1/comics/{project_id}/members/{user_id}", status_code=204)
async def remove_member(project_id: UUID, user_id: UUID, caller: Generator, service: Service) -> None:
    """Dismiss a member, as the owner; or leave, as oneself."""
    await service.remove_member(caller, project_id, user_id)


@router.post("/v1/comics/{project_id}/chapters", status_code=201)
async def create_chapter(
    project_id: UUID, body: schemas.ChapterCreate, caller: Generator, service: Service
) -> schemas.Chapter:
    """A new chapter at the end."""
    return schemas.Chapter(**await service.create_chapter(caller, project_id, body))


@router.put("/v1/comics/{project_id}/chapters/order")
async def order_chapters(
    project_id: UUID, body: schemas.Order, caller: Generator, service: Service, render: Render
) -> schemas.ComicWithChapters:
    """Put all chapters in this order, at once or not at all."""
    return await render.comic(await service.order_chapters(caller, project_id, body.ids))


@router.patch("/v1/comics/chapters/{chapter_id}")
async def change_chapter(
    chapter_id: UUID, body: schemas.ChapterChange, caller: Generator, service: Service
) -> schemas.Chapter:
    """Give a chapter another name."""
    return schemas.Chapter(**await service.change_chapter(caller, chapter_id, body))


@router.delete("/v1/comics/chapters/{chapter_id}", status_code=204)
async def delete_chapter(chapter_id: UUID, caller: Generator, service: Service) -> None:
    """Delete a chapter with its panels; nothing brings it back. Those behind it move up."""
    await service.delete_chapter(caller, chapter_id)


@router.get("/v1/comics/chapters/{chapter_id}/consistency")
async def chapter_consistency(
    chapter_id: UUID, caller: Reader, service: Service
) -> schemas.ChapterConsistency:
    """How like themselves the characters stay: the score of each in every panel of a chapter, in order."""
    return await service.drift(caller, chapter_id)


@router.put("/v1/comics/chapters/{chapter_id}/panels/order")
async def order_panels(
    chapter_id: UUID, body: schemas.Order, caller: Generator, service: Service, render: Render
) -> schemas.ComicWithChapters:
    """Put all panels of a chapter in this order, at once or not at all."""
    return await render.comic(await service.order_panels(caller, chapter_id, body.ids))
