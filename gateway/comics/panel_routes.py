"""Panels: drawn by jobs, moved, deleted and brought back."""

import json
from typing import Annotated, cast
from uuid import UUID

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse
from psycopg.rows import DictRow

from gateway.auth import AuthenticatedRoute, Generator, Principal, Reader
from gateway.comics import schemas
from gateway.comics.debugging import debugged
from gateway.comics.panels import Panels
from gateway.comics.plan import POLL_AFTER_MS
from gateway.comics.rendering import ComicRenderer, etag
from gateway.errors import NotFound
from gateway.images.service import Images
from gateway.jobs.answers import Prefer, answer_again, wait_seconds
from gateway.jobs.rendering import Renderer
from gateway.jobs.service import Created, Replay
from gateway.jobs.submission import Submission, Submitted
from gateway.storage.serving import PRIVATE, Served, from_memory, serve

router = APIRouter(route_class=AuthenticatedRoute, tags=["comics"])


async def _panels(request: Request) -> Panels:
    return cast(Panels, request.app.state.panels)


async def _renderer(request: Request) -> ComicRenderer:
    return cast(ComicRenderer, request.app.state.comic_renderer)


Service = Annotated[Panels, Depends(_panels)]
Render = Annotated[ComicRenderer, Depends(_renderer)]


@router.post("/v1/comics/chapters/{chapter_id}/panels", status_code=202, response_model=schemas.Panel)
async def create_panel(
    chapter_id: UUID,
    body: schemas.PanelCreate,
    caller: Generator,
    service: Service,
    render: Render,
    submission: Submitted,
    prefer: Prefer = None,
) -> Response:
    """A new panel at the end of a chapter, drawn by a job. `enhance: false` sends the prompt as it is."""
    asking = submission.asking(body.model_dump(mode="json"))
    created = await service.create(caller, chapter_id, body, asking)
    return await _answered(caller, service, render, created, asking, prefer)


@router.get("/v1/comics/panels/{panel_id}", response_model=schemas.Panel)
async def get_panel(
    panel_id: UUID, request: Request, caller: Reader, service: Service, render: Render
) -> Response:
    """One panel. Supports `ETag` and `If-None-Match`."""
    request.app.state.usage.polling.note()
    row = await service.get(caller, panel_id)
    if request.headers.get("if-none-match") == etag(row):
        return Response(status_code=304, headers=_headers(row))
    return _shown(await render.panel(row), row)


@router.patch("/v1/comics/panels/{panel_id}")
async def change_panel(
    panel_id: UUID, body: schemas.PanelChange, caller: Generator, service: Service, render: Render
) -> schemas.Panel:
    """Change prompt or caption, or move the panel within its comic. The picture stays until `regenerate`."""
    return await render.panel(await service.change(caller, panel_id, body))


@router.delete("/v1/comics/panels/{panel_id}", status_code=204)
async def delete_panel(panel_id: UUID, caller: Generator, service: Service) -> None:
    """Delete a panel; those behind it move up. It can be restored for 7 days."""
    await service.delete(caller, panel_id)


@router.post("/v1/comics/panels/{panel_id}/restore")
async def restore_panel(panel_id: UUID, caller: Generator, service: Service, render: Render) -> schemas.Panel:
    """Bring a deleted panel back, with its picture, where it stood. Idempotent."""
    return await render.panel(await service.restore(caller, panel_id))


@router.post("/v1/comics/panels/{panel_id}/regenerate", status_code=202, response_model=schemas.Panel)
async def regenerate_panel(
    panel_id: UUID,
    caller: Generator,
    service: Service,
    render: Render,
    submission: Submitted,
    body: schemas.Regenerate | None = None,
    prefer: Prefer = None,
) -> Response:
    """Draw the panel again, from its prompt as it is now. Its picture is shown until there is another."""
    body = body or schemas.Regenerate()
    asking = submission.asking(body.model_dump(mode="json"))
    created = await service.regenerate(caller, panel_id, body, asking)
    return await _answered(caller, service, render, created, asking, prefer)


@router.get("/v1/comics/panels/{panel_id}/debug")
async def debug_panel(
    panel_id: UUID, request: Request, caller: Reader, service: Service, render: Render
) -> schemas.PanelDebug:
    """How a panel came to be: prompts, calls, references, every picture that was drawn and its score.

    Who has not started the panel's job sees the panel alone.
    """
    row = await service.get(caller, panel_id)
    job, calls = await service.job(caller, row)
    jobs = cast(Renderer, request.app.state.renderer)
    workflow = await jobs.job(job) if job else None
    urls = await render.urls(job["references"]) if job else {}
    return debugged(await render.panel(row), job, workflow, calls, urls)


@router.head("/v1/comics/panels/{panel_id}/thumbnail", include_in_schema=False)
@router.get("/v1/comics/panels/{panel_id}/thumbnail", response_class=Response)
async def panel_thumbnail(panel_id: UUID, request: Request, caller: Reader, service: Service) -> Response:
    """A small WebP of a panel's picture, for every member of the comic."""
    asset = await service.picture(await service.get(caller, panel_id))
    if asset is None:
        raise NotFound(f"The panel {panel_id} has no picture.")
    content = await cast(Images, request.app.state.images).thumbnail(asset)
    served = Served(len(content), "image/webp", f"{asset['sha256']}-thumbnail", PRIVATE)
    return await serve(request, served, from_memory(content))


async def _answered(
    caller: Principal,
    service: Panels,
    render: ComicRenderer,
    created: Created | Replay,
    submission: Submission,
    prefer: str | None,
) -> Response:
    """202, or 200 with the panel as its job has left it while the caller preferred to wait."""
    if isinstance(created, Replay):
        return answer_again(created)
    row = await service.wait(caller, created.row, wait_seconds(prefer))
    answer = _shown(await render.panel(row), row, 202 if row["status"] in _UNDER_WAY else 200)
    answer.headers["Location"] = f"/v1/comics/panels/{row['id']}"
    if created.replayed:
        answer.headers["Idempotent-Replayed"] = "true"
    await service.keep_answer(caller, submission, answer.status_code, json.loads(bytes(answer.body)))
    return answer


_UNDER_WAY = ("pending", "generating")


def _shown(panel: schemas.Panel, row: DictRow, status: int = 200) -> JSONResponse:
    return JSONResponse(panel.model_dump(mode="json"), status, _headers(row))


def _headers(row: DictRow) -> dict[str, str]:
    headers = {"ETag": etag(row), "Cache-Control": "private, no-cache"}
    if row["status"] in _UNDER_WAY:
        headers["Retry-After"] = str(POLL_AFTER_MS // 1000)
    return headers
