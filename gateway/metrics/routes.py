"""``GET /metrics``."""

import secrets
from collections.abc import Iterator
from typing import cast

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from gateway.auth import Authenticator
from gateway.auth.origin import is_local
from gateway.config import Settings
from gateway.db import Database
from gateway.errors import Forbidden
from gateway.metrics import process
from gateway.metrics.database import DatabaseMetrics

router = APIRouter(tags=["operations"])


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string", "title": "MetricsText"}}}}},
)
async def get_metrics(request: Request) -> Response:
    """Numbers for Prometheus, in its text format.

    Takes `METRICS_TOKEN` as a bearer token, or a credential with the scope `admin`. A gateway that only its
    own machine reaches answers requests from there without either.
    """
    await _admit(request)
    collected = cast(DatabaseMetrics, request.app.state.metrics)
    families = [*await collected.collect(), _pools(request.app.state.db)]
    text = generate_latest(process.REGISTRY) + generate_latest(_registry(families))
    return Response(text, media_type=CONTENT_TYPE_LATEST, headers={"Cache-Control": "no-store"})


async def _admit(request: Request) -> None:
    settings: Settings = request.app.state.settings
    token = settings.metrics_token.get_secret_value()
    shown = request.headers.get("authorization", "")
    if token and secrets.compare_digest(shown.encode(), f"Bearer {token}".encode()):
        return
    if not shown and is_local(request, settings):
        return
    authenticator: Authenticator = request.app.state.authenticator
    caller = await authenticator.caller(request)
    if "admin" not in caller.scopes:
        raise Forbidden("This credential lacks the scope `admin`.")


def _pools(db: Database) -> GaugeMetricFamily:
    family = GaugeMetricFamily(
        "tenkaigen_database_connections",
        "Connections to the database by pool: in_use, idle, and requests that wait for one. Of this process.",
        labels=["pool", "state"],
    )
    for pool, states in db.connections().items():
        for state, number in states.items():
            family.add_metric([pool, state], number)
    return family


def _registry(families: list[Metric]) -> CollectorRegistry:
    class Collected:
        def collect(self) -> Iterator[Metric]:
            return iter(families)

    registry = CollectorRegistry()
    registry.register(Collected())
    return registry
