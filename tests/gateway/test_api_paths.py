"""The paths that frontends and SDKs rely on: every one is there, under its method and its exact name.

The list is written out, so that a route that is renamed or forgotten is named here and not by a user.
"""

import re

import pytest
from fastapi import FastAPI
from starlette.routing import Match

from scripts.snapshot_openapi import application

CONVENTIONS = ("GET /openapi.json",)
JOBS = (
    *("POST /v1/jobs", "GET /v1/jobs", "POST /v1/jobs/estimate"),
    *("GET /v1/jobs/{id}", "GET /v1/jobs/{id}/calls", "GET /v1/jobs/{id}/events", "GET /v1/events"),
    *("PATCH /v1/jobs/{id}", "POST /v1/jobs/{id}/cancel", "POST /v1/jobs/{id}/retry"),
    *("POST /v1/batches", "POST /v1/batches/estimate", "GET /v1/batches", "GET /v1/batches/{id}"),
    *("GET /v1/batches/{id}/results", "POST /v1/batches/{id}/cancel"),
)
COMPATIBILITY = (
    *("POST /api/generate", "GET /api/generate/status/{id}", "POST /api/generate/webhook"),
    *("POST /v1/callbacks/gpu", "POST /api/parse-prompt", "POST /api/upload"),
)
OPENAI = (
    *("POST /v1/images/generations", "POST /v1/images/edits"),
    *("GET /v1/models", "GET /v1/models/{id}"),
)
IMAGES = (
    *("GET /v1/images", "GET /v1/images/{id}", "DELETE /v1/images/{id}", "POST /v1/images/{id}/restore"),
    *("GET /v1/images/{id}/content", "HEAD /v1/images/{id}/content", "GET /v1/images/{id}/thumbnail"),
    *("GET /v1/images/{id}/recipe", "POST /v1/images/{id}/variations", "POST /v1/images/{id}/upscale"),
    *("POST /v1/recipes", "POST /v1/replay", "POST /v1/uploads", "POST /v1/uploads/{id}/complete"),
)
PROMPTS = (
    *("GET /v1/styles", "GET /v1/styles/{set}/{name}"),
    *("POST /v1/prompts/enhance", "POST /v1/prompts/parse"),
    *("POST /v1/prompt-templates", "GET /v1/prompt-templates", "GET /v1/prompt-templates/{id}"),
    *("PATCH /v1/prompt-templates/{id}", "DELETE /v1/prompt-templates/{id}"),
    "POST /v1/prompt-templates/{id}/render",
    *("POST /v1/loras", "GET /v1/loras", "GET /v1/loras/{id}", "DELETE /v1/loras/{id}"),
)
CHARACTERS = (
    *("POST /v1/characters", "GET /v1/characters", "GET /v1/characters/{id}", "PATCH /v1/characters/{id}"),
    *("DELETE /v1/characters/{id}", "POST /v1/characters/{id}/retry"),
    *("GET /v1/characters/{id}/initial-image-prompt", "POST /v1/characters/{id}/generate-initial-image"),
    *("POST /v1/characters/{id}/generate-360-set", "POST /v1/characters/{id}/generate-scene-image"),
    *("GET /v1/characters/{id}/images", "DELETE /v1/characters/{id}/images/{image_id}"),
    "POST /v1/characters/{id}/images/{image_id}/select",
)
COMICS = (
    *("POST /v1/comics", "GET /v1/comics", "GET /v1/comics/{id}", "PATCH /v1/comics/{id}"),
    *("DELETE /v1/comics/{id}", "POST /v1/comics/{id}/chapters", "PUT /v1/comics/{id}/chapters/order"),
    *("PATCH /v1/comics/chapters/{id}", "DELETE /v1/comics/chapters/{id}"),
    "GET /v1/comics/chapters/{id}/consistency",
    *("PUT /v1/comics/chapters/{id}/panels/order", "POST /v1/comics/chapters/{id}/panels"),
    *("GET /v1/comics/panels/{id}", "PATCH /v1/comics/panels/{id}", "DELETE /v1/comics/panels/{id}"),
    *("POST /v1/comics/panels/{id}/regenerate", "GET /v1/comics/panels/{id}/debug"),
    *("GET /v1/comics/{id}/events", "GET /v1/comics/{id}/export"),
)
OPERATIONS = (
    *("GET /v1/usage", "GET /v1/usage/forecast", "GET /v1/budget", "PUT /v1/budget"),
    *("GET /v1/admin/budgets/{user_id}", "PUT /v1/admin/budgets/{user_id}", "GET /v1/admin/stats"),
    *("POST /v1/webhook-endpoints", "GET /v1/webhook-endpoints", "GET /v1/webhook-endpoints/{id}"),
    *("PATCH /v1/webhook-endpoints/{id}", "DELETE /v1/webhook-endpoints/{id}"),
    *("GET /v1/webhook-endpoints/{id}/deliveries", "POST /v1/webhook-endpoints/{id}/test"),
    "POST /v1/webhook-deliveries/{id}/redeliver",
    *("GET /healthz", "GET /readyz", "GET /metrics"),
)
PATHS = (
    *(*CONVENTIONS, *JOBS, *COMPATIBILITY, *OPENAI, *IMAGES),
    *(*PROMPTS, *CHARACTERS, *COMICS, *OPERATIONS),
)
ID = "7d0c1f5e-2f6b-4f0e-9a57-0d2f8f1f6a11"


@pytest.fixture(scope="module")
def app() -> FastAPI:
    return application()


def served(app: FastAPI, operation: str) -> bool:
    method, _, template = operation.partition(" ")
    path = re.sub(r"{\w+}", ID, template)
    scope = {"type": "http", "method": method, "path": path, "root_path": "", "headers": []}
    return any(route.matches(scope)[0] == Match.FULL for route in app.routes)


@pytest.mark.parametrize("operation", PATHS)
def test_a_documented_path_is_served(app: FastAPI, operation: str) -> None:
    assert served(app, operation)


@pytest.mark.parametrize("operation", ["GET /v1/nothing", "PUT /v1/jobs", "GET /v1/jobs/{id}/nothing"])
def test_what_nobody_serves_is_told_apart(app: FastAPI, operation: str) -> None:
    assert not served(app, operation)
