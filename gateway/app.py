"""The composition root: settings in, an ASGI application out.

Run it with ``uvicorn --factory gateway.app:create_app``, or with everything around it by ``tenkaigen up``.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from gateway import errors, health, logs, services, studio
from gateway.accounts import api_keys, sessions
from gateway.batches import routes as batches_routes
from gateway.characters import routes as characters_routes
from gateway.comics import panel_routes
from gateway.comics import routes as comics_routes
from gateway.comics.export import routes as export_routes
from gateway.config import Settings
from gateway.http import Intake
from gateway.images import routes as images_routes
from gateway.jobs import routes as jobs_routes
from gateway.loras import routes as loras_routes
from gateway.metrics import routes as metrics_routes
from gateway.openai import routes as openai_routes
from gateway.prompts import language, styles, templates
from gateway.reference import document
from gateway.reference import routes as reference_routes
from gateway.replay import routes as replay_routes
from gateway.storage import routes as storage_routes
from gateway.uploads import routes as uploads_routes
from gateway.usage import routes as usage_routes
from gateway.webhooks import routes as webhook_routes


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
        generate_unique_id_function=lambda route: route.name,
    )
    app.state.settings = settings
    errors.install(app)
    document.install(app)
    app.add_middleware(Intake)
    app.include_router(jobs_routes.router)
    app.include_router(jobs_routes.callback_router)
    app.include_router(batches_routes.router)
    app.include_router(styles.router)
    app.include_router(styles.open_router)
    app.include_router(language.router)
    app.include_router(templates.router)
    app.include_router(characters_routes.router)
    app.include_router(openai_routes.router)
    app.include_router(uploads_routes.router)
    app.include_router(loras_routes.router)
    app.include_router(images_routes.router)
    app.include_router(images_routes.open_router)
    app.include_router(replay_routes.router)
    app.include_router(panel_routes.router)
    app.include_router(comics_routes.router)
    app.include_router(export_routes.router)
    app.include_router(storage_routes.router)
    app.include_router(sessions.router)
    app.include_router(sessions.authenticated_router)
    app.include_router(api_keys.router)
    app.include_router(usage_routes.router)
    app.include_router(webhook_routes.router)
    app.include_router(health.router)
    app.include_router(metrics_routes.router)
    app.include_router(reference_routes.router)
    app.include_router(studio.router)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with services.running(app.state.settings) as running:
        for name, service in vars(running).items():
            setattr(app.state, name, service)
        yield
