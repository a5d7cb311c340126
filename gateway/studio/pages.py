"""The pages.  Each asks the API for what it shows, all at once, and is a plain GET."""

import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import RedirectResponse
from starlette.responses import Response

from gateway.studio import assets, characters, charts, comics, recall
from gateway.studio.api import Json, segment
from gateway.studio.shell import OnPage, PageRoute, today

RECENT = 24
JOBS_A_PAGE = 30
FORM = (
    *("prompt", "style", "size", "model", "seed", "num_images", "num_inference_steps"),
    *("enhance", "references", "mask", "loras"),
)


router = APIRouter(include_in_schema=False)
pages = APIRouter(include_in_schema=False, route_class=PageRoute)


@pages.get("/")
async def first(request: Request, page: OnPage) -> Response:
    """On to the generate page; the gate shows here, where a mailed link that fails leads."""
    await page.api.get("/v1/session")
    return RedirectResponse("/generate", 303)


@pages.get("/generate")
async def generate(
    page: OnPage,
    job: str = "",
    origin: Annotated[str, Query(alias="from")] = "",
    what: Literal["all", "prompt"] = "all",
) -> Response:
    """Draw. ``job`` is on the stage; ``from`` fills the form with another job's request."""
    api = page.api
    styles, models, templates, loras, recent = await api.all(
        api.get("/v1/styles"),
        api.get("/v1/models"),
        api.some("/v1/prompt-templates", limit=100),
        api.some("/v1/loras", limit=100),
        api.get("/v1/jobs", task="image", status="completed", limit=RECENT),
    )
    source = await api.get(f"/v1/jobs/{segment(origin)}") if origin else None
    on_stage = await api.get(f"/v1/jobs/{segment(job)}") if job else None
    return await page.show(
        "generate.html",
        styles=_by_set(styles["data"]),
        models=[model for model in models["data"] if model["available"]],
        templates=templates["data"],
        loras=None if loras.get("missing") else loras["data"],
        recent=recent["data"],
        job=on_stage,
        request=_reused(source or on_stage, what),
        recalled=source is not None,
        sizes=recall.SIZES,
    )


@pages.get("/jobs")
async def jobs(
    page: OnPage, status: str = "", style: str = "", model: str = "", task: str = "", after: str = ""
) -> Response:
    filters = {"status": status, "style": style, "model": model, "task": task}
    api = page.api
    found, styles, models = await api.all(
        api.get("/v1/jobs", **filters, limit=JOBS_A_PAGE, after=after),
        api.get("/v1/styles"),
        api.get("/v1/models"),
    )
    return await page.show(
        "jobs.html",
        jobs=found,
        filters=filters,
        after=after,
        styles=styles["data"],
        models=[model for model in models["data"] if model["available"]],
    )


@pages.get("/jobs/{job_id}")
async def job(page: OnPage, job_id: str) -> Response:
    path = f"/v1/jobs/{segment(job_id)}"
    found, calls = await page.api.all(page.api.get(path), page.api.get(f"{path}/calls"))
    return await page.show(
        "job.html", job=found, calls=calls["data"], happened=_happened(found, calls["data"])
    )


@pages.get("/ui/meter")
async def meter(page: OnPage) -> Response:
    """What is spent today, and how much is at work."""
    return page.part("part_meter.html", **await page.at_work())


@pages.get("/ui/jobs/{job_id}/{part}")
async def job_part(page: OnPage, job_id: str, part: Literal["row", "card", "result"]) -> Response:
    """A job as a row of the list, a card of the strip, or on the stage."""
    found = await page.api.get(f"/v1/jobs/{segment(job_id)}")
    return page.part(f"part_{part}.html", job=found)


@pages.get("/costs")
async def costs(
    page: OnPage,
    by: Literal["day", "model", "style", "user", "task", "character"] = "day",
    days: Annotated[int, Query(ge=7, le=90)] = 30,
) -> Response:
    api, start = page.api, today() - datetime.timedelta(days=days - 1)
    report, month, budget = await api.all(
        api.get("/v1/usage", **{"from": start.isoformat()}, group_by=by),
        api.get("/v1/usage", **{"from": today().replace(day=1).isoformat()}),
        api.get("/v1/budget"),
    )
    return await page.show(
        "costs.html",
        by=by,
        days=days,
        start=start.isoformat(),
        report=report,
        chart=charts.per_day(report, days) if by == "day" else None,
        rows=charts.shares(report),
        month=month["total"],
        budget=budget,
    )


@pages.get("/settings")
async def settings(page: OnPage) -> Response:
    api = page.api
    keys, endpoints, models, health = await api.all(
        api.get("/v1/api-keys", limit=100),
        api.get("/v1/webhook-endpoints", limit=100),
        api.get("/v1/models"),
        api.state("/readyz"),
    )
    models = sorted(models["data"], key=lambda model: not model["available"])
    return await page.show(
        "settings.html", keys=keys["data"], endpoints=endpoints["data"], models=models, health=health
    )


@pages.get("/settings/webhooks/{endpoint_id}")
async def webhook(page: OnPage, endpoint_id: str, status: str = "", after: str = "") -> Response:
    path = f"/v1/webhook-endpoints/{segment(endpoint_id)}"
    endpoint, log = await page.api.all(
        page.api.get(path), page.api.get(f"{path}/deliveries", status=status, after=after, limit=50)
    )
    return await page.show("webhook.html", endpoint=endpoint, log=log, status=status)


router.include_router(assets.router)
router.include_router(pages)
router.include_router(characters.router)
router.include_router(characters.old_addresses)
router.include_router(comics.router)
router.include_router(comics.old_addresses)


def _by_set(styles: list[Json]) -> dict[str, list[Json]]:
    sets: dict[str, list[Json]] = {}
    for style in styles:
        sets.setdefault(style["set"], []).append(style)
    return sets


def _reused(job: Json | None, what: str) -> Json:
    """What the form begins with: nothing, all of a job's request, or its prompt alone."""
    empty = dict.fromkeys(FORM)
    if job is None:
        return empty
    request = recall.request_of(job)
    return empty | ({"prompt": request["prompt"]} if what == "prompt" else request)


def _happened(job: Json, calls: list[Json]) -> list[tuple[str, str]]:
    """(time, what) of a job's life, in order, from what its row and its calls say."""
    told = [(job["created_at"], "Created"), (job["started_at"], "Started")]
    for call in calls:
        name = f"Call {call['seq']} ({call['task']}, attempt {call['attempt']})"
        told += [
            (call["dispatched_at"], f"{name} sent to the GPU service"),
            (call["webhook_at"], f"{name}: the GPU service told of its end"),
            (call["finished_at"], f"{name} {call['status']}"),
        ]
    told.append((job["finished_at"], f"Job {job['status']}"))
    return sorted((time, what) for time, what in told if time)
