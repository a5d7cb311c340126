"""The composition root: settings in, an ASGI application out.

Run it with ``uvicorn --factory gateway.app:create_app``, or with everything around it by ``tenkaigen up``.
"""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from gateway import errors, logs, studio
from gateway.accounts import api_keys, sessions
from gateway.auth import Authenticator, SupabaseAuth
from gateway.config import Settings
from gateway.db import Database
from gateway.events import EventHub
from gateway.gpu import GpuClient
from gateway.http import Intake
from gateway.images import routes as images_routes
from gateway.images.repository import ImageRows
from gateway.images.service import Images
from gateway.jobs import routes as jobs_routes
from gateway.jobs.callbacks import Callbacks
from gateway.jobs.image_plan import ImagePlan
from gateway.jobs.language_plan import TASKS as LANGUAGE_TASKS
from gateway.jobs.language_plan import LanguagePlan
from gateway.jobs.lifecycle import ClaimedJob
from gateway.jobs.plans import Plan
from gateway.jobs.references import References
from gateway.jobs.rendering import Renderer
from gateway.jobs.repository import Jobs
from gateway.jobs.service import JobService
from gateway.jobs.steps import Steps
from gateway.jobs.telling import Subjects
from gateway.openai import routes as openai_routes
from gateway.openai.models import Models
from gateway.openai.service import OpenAIImages
from gateway.outside import Outside
from gateway.pictures import Pictures
from gateway.prompts import language, styles, templates
from gateway.storage import routes as storage_routes
from gateway.storage.buckets import open_buckets
from gateway.storage.deletions import Deletions, Keeper
from gateway.storage.sweep import Sweep
from gateway.uploads import routes as uploads_routes
from gateway.uploads.keeping import UploadObjects
from gateway.uploads.repository import UploadRows
from gateway.uploads.service import Uploads
from gateway.usage import routes as usage_routes
from gateway.usage.budgets import Budgets
from gateway.usage.estimator import Estimator
from gateway.usage.forecasts import Forecasts
from gateway.usage.history import History
from gateway.usage.repository import UsageRows
from gateway.usage.service import UsageService
from gateway.webhooks import routes as webhook_routes
from gateway.webhooks.sender import Sender
from gateway.webhooks.service import Webhooks
from gateway.worker import Chore, Worker, new_name

log = structlog.get_logger()

DELETIONS_SECONDS = 2.0
UPLOADS_SECONDS = 600.0
SWEEP_SECONDS = 6 * 3600.0
FIRST_SWEEP_SECONDS = 600.0
"""A gateway that starts again and again does not list the buckets each time."""


def create_app(settings: Settings | None = None) -> FastAPI:
    """The gateway for these settings, or for those of the environment."""
    settings = (settings or Settings()).require()
    logs.configure(settings.log_level)
    app = FastAPI(
        title="Tenkaigen",
        version="0.1.0",
        lifespan=_lifespan,
        docs_url=None,  # FastAPI's page would load its script from elsewhere
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.settings = settings
    errors.install(app)
    app.add_middleware(Intake)
    app.include_router(jobs_routes.router)
    app.include_router(jobs_routes.callback_router)
    app.include_router(styles.router)
    app.include_router(styles.open_router)
    app.include_router(language.router)
    app.include_router(templates.router)
    app.include_router(openai_routes.router)
    app.include_router(uploads_routes.router)
    app.include_router(images_routes.router)
    app.include_router(images_routes.open_router)
    app.include_router(storage_routes.router)
    app.include_router(sessions.router)
    app.include_router(sessions.authenticated_router)
    app.include_router(api_keys.router)
    app.include_router(usage_routes.router)
    app.include_router(webhook_routes.router)
    app.add_api_route("/healthz", healthz, tags=["operations"])
    app.add_api_route("/readyz", readyz, tags=["operations"])
    app.include_router(studio.router)
    app.mount("/studio", studio.files)
    return app


def plans() -> dict[str, Plan]:
    """Who leads a job, by the name in its row."""
    return {"image": ImagePlan(), **dict.fromkeys(LANGUAGE_TASKS, LanguagePlan())}


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    settings: Settings = app.state.settings
    name = new_name()
    async with AsyncExitStack() as stack:
        db = await stack.enter_async_context(Database(settings))
        buckets = await stack.enter_async_context(open_buckets(settings))
        supabase_auth = (
            await stack.enter_async_context(SupabaseAuth(settings)) if settings.supabase_url else None
        )
        gpu = await stack.enter_async_context(GpuClient(settings))
        hub = await stack.enter_async_context(EventHub(db))
        led_by = plans()
        jobs = Jobs(db, led_by)
        steps = Steps(jobs, gpu, buckets, settings, name, led_by)
        outside = Outside(allow_private=settings.allow_private_urls)
        uploads = Uploads(UploadRows(db), buckets, Pictures(), outside)
        deletions, sweep = Deletions(db, buckets, keepers(db)), Sweep(db, buckets, keepers(db))
        chores = [
            Chore("uploads", uploads.sweep, every_seconds=UPLOADS_SECONDS),
            Chore("deletions", deletions.carry_out, every_seconds=DELETIONS_SECONDS),
            Chore("sweep", sweep.run, every_seconds=SWEEP_SECONDS, first_after_seconds=FIRST_SWEEP_SECONDS),
        ]
        worker = await stack.enter_async_context(Worker(name, jobs, steps, hub, settings, chores))

        async def on_callback(job: ClaimedJob | None) -> None:
            hub.hint()
            if job is not None:
                worker.settle(job)

        app.state.db, app.state.gpu, app.state.buckets = db, gpu, buckets
        app.state.outside, app.state.uploads = outside, uploads
        app.state.supabase_auth = supabase_auth
        app.state.authenticator = Authenticator(db, settings, supabase_auth)
        app.state.callbacks = Callbacks(jobs, settings, name)
        app.state.on_callback = on_callback
        estimator = Estimator(History(db), gpu)
        usage_rows = UsageRows(db)
        budgets = Budgets(usage_rows)
        app.state.usage, app.state.budgets = UsageService(usage_rows), budgets
        app.state.forecasts = Forecasts(estimator, settings)
        app.state.renderer = Renderer(settings.public_url, buckets, led_by, estimator)
        app.state.webhooks = Webhooks(db, outside)
        app.state.webhook_sender = sender = Sender(db, outside, Subjects(jobs, app.state.renderer).describe)
        if settings.worker:
            await stack.enter_async_context(sender)
        app.state.templates = templates.Templates(db)
        app.state.images = Images(ImageRows(db), buckets)
        app.state.jobs = JobService(
            *(jobs, gpu, hub, estimator, budgets, settings),
            References(jobs, uploads),
            on_created=worker.expect,
            on_canceled=worker.sweep,
        )
        app.state.openai_images = OpenAIImages(app.state.jobs, app.state.images, uploads, app.state.renderer)
        app.state.models = Models(db, gpu, settings.default_model)
        yield


def keepers(db: Database) -> list[Keeper]:
    """Every slice whose rows name objects."""
    return [ImageRows(db), UploadObjects(db)]


async def healthz() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


async def readyz(request: Request) -> JSONResponse:
    """Whether database, bucket and GPU service answer, each by name."""
    checks = {"database": _database, "bucket": _bucket, "gpu_service": _gpu_service}
    found = {name: await _tried(check, request.app) for name, check in checks.items()}
    ready = all(state == "ok" for state in found.values())
    return JSONResponse({"status": "ok" if ready else "unavailable", "checks": found}, 200 if ready else 503)


async def _tried(check: Any, app: FastAPI) -> str:
    try:
        await check(app)
    except Exception as error:
        log.warning("not_ready", check=check.__name__, error=str(error))
        return f"failed: {type(error).__name__}"
    return "ok"


async def _database(app: FastAPI) -> None:
    await app.state.db.one("select 1 as one", {})


async def _bucket(app: FastAPI) -> None:
    for bucket in app.state.buckets.values():
        await bucket.check()


async def _gpu_service(app: FastAPI) -> None:
    await app.state.gpu.healthy()
