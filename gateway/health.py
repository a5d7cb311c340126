"""Whether the gateway lives, and whether what it needs does."""

from typing import Any, Literal

import structlog
from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel

log = structlog.get_logger()

router = APIRouter(tags=["operations"])


class Health(BaseModel):
    status: Literal["ok"] = "ok"


class Readiness(BaseModel):
    """What works, and what does not and why."""

    status: Literal["ok", "unavailable"]
    checks: dict[str, str]


@router.get("/healthz")
async def healthz() -> Health:
    """The process answers."""
    return Health()


@router.get("/readyz", response_model=Readiness, responses={503: {"model": Readiness}})
async def readyz(request: Request) -> JSONResponse:
    """Whether database, bucket and GPU service answer, each by name."""
    checks = {"database": _database, "bucket": _bucket, "gpu_service": _gpu_service}
    found = {name: await _tried(check, request.app) for name, check in checks.items()}
    ready = all(state == "ok" for state in found.values())
    told = Readiness(status="ok" if ready else "unavailable", checks=found)
    return JSONResponse(told.model_dump(), 200 if ready else 503)


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
