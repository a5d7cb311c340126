"""The GPU service on one machine, without Modal: ``python -m modal_app.local``.

The same front door and the same engine as the deployed service; see ``Settings`` for its environment.
``python -m modal_app.local generate --prompt "A dragon"`` draws one picture instead, without a server.
"""

import contextlib
import ctypes
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import uvicorn
from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict
from starlette.applications import Starlette

from modal_app import catalog, commands, engine
from modal_app.callback import Callback
from modal_app.executor import LocalExecutor
from modal_app.service import Lifespan, create_app

__all__ = ["ConfigurationError", "LocalExecutor", "Settings", "main"]

SWITCH_SECONDS = 0.001
"""How long the engine's thread may keep the interpreter from a waiting request; Python's own is 5 ms."""
CONNECTIONS_END_SECONDS = 1
"""How long open connections may delay a stop."""
PR_SET_PDEATHSIG = 1
"""<sys/prctl.h>"""


class Settings(BaseSettings):
    """One environment variable each, of the same name in capitals."""

    model_config = SettingsConfigDict(env_file=".env", extra="ignore")

    gpu_host: str = "127.0.0.1"
    gpu_port: int = Field(default=8100, ge=1, le=65535)
    gpu_token: SecretStr = SecretStr("")
    """What callers show as ``Authorization: Bearer``; required."""
    tenkaigen_webhook_url: str = ""
    """Where events are posted; empty: nowhere, and the gateway has to ask."""
    tenkaigen_webhook_secret: SecretStr = SecretStr("")
    """Standard Webhooks secret, ``whsec_`` and base64; required with a URL."""
    gpu_data: Path = Path(".data/gpu")
    """Folder of the results that wait to be pulled, and of fetched files."""
    gpu_origins: str = ""
    """Origins that files may be fetched from, separated by commas; empty: the webhook's."""
    model_cache: Path = Path(".data/models")
    """Folder of fetched checkpoints."""
    accepted_licenses: str = ""
    """Models whose licence was read and accepted, of those that ask for it, separated by commas."""
    gpu_quant: str = ""
    """A kind of weights to insist on, such as bf16; empty: what the GPU runs best."""
    gpu_compile: bool = False
    """Compile the denoiser: minutes at the first picture, less for every one after it."""
    gpu_step_cache: float = Field(default=0.0, ge=0.0, le=1.0)
    """Skip most of a step that changes less than this, in runs of 20 steps and more; 0 never does."""
    gpu_caches: bool = True
    """Keep what comes again: words, encoded references, what was read of them.  No picture changes by it."""
    recipe_secret: SecretStr = SecretStr("")
    """Seals the recipe that every picture carries; the same as the gateway's.  Empty: pictures carry none."""
    gpu_models: str = ""
    """Models to serve, separated by commas; empty: all that this machine can."""
    gpu_preload: str = ""
    """Models to load at the start instead of at their first call, separated by commas."""
    gpu_queue_limit: int = Field(default=64, ge=1)
    """Calls that may wait; one more is refused with 503."""
    gpu_name: str = "cpu"
    """Row of ``catalog.PRICES`` that calls are charged at."""
    exit_with_parent: bool = False
    """End when the process that started this one ends, however it ends (Linux)."""


class ConfigurationError(Exception):
    """A setting is missing or wrong; the message names it."""


def main() -> None:
    """Serve until SIGTERM or Ctrl-C; exits with 1 and one line when a setting is wrong."""
    if sys.argv[1:2] == ["generate"]:
        commands.cli(sys.argv[2:], prog_name="python -m modal_app.local generate")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        settings = Settings()
        callback = _callback(settings)
        executor = _executor(settings, callback)
    except (ConfigurationError, ValidationError) as error:
        raise SystemExit(f"modal_app.local: {error}") from None
    if settings.exit_with_parent and sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    sys.setswitchinterval(SWITCH_SECONDS)
    uvicorn.run(
        create_app(executor, settings.gpu_token.get_secret_value(), lifespan=_running(executor, callback)),
        host=settings.gpu_host,
        port=settings.gpu_port,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=CONNECTIONS_END_SECONDS,
    )
    if executor.stuck:
        os._exit(0)  # the interpreter must not end under a thread in native code: that aborts


def _executor(settings: Settings, callback: Callback | None) -> LocalExecutor:
    """ConfigurationError when a setting is missing or wrong."""
    if not settings.gpu_token.get_secret_value():
        raise ConfigurationError("GPU_TOKEN is not set: the secret that the gateway shows")
    if settings.gpu_name not in {price.gpu for price in catalog.PRICES}:
        raise ConfigurationError(f"GPU_NAME {settings.gpu_name!r} has no price in the catalog")
    engine.options = engine.Options(
        model_cache=settings.model_cache,
        accepted_licenses=frozenset(_names(settings.accepted_licenses)),
        quant=settings.gpu_quant or None,
        compile=settings.gpu_compile,
        step_cache_threshold=settings.gpu_step_cache,
        caches=settings.gpu_caches,
    )
    models = _names(settings.gpu_models) or [row.id for row in catalog.CATALOG if engine.servable(row)]
    preload = _names(settings.gpu_preload)
    _refuse_unservable("GPU_MODELS", models)
    _refuse_unservable("GPU_PRELOAD", preload)
    try:
        return LocalExecutor(
            models=models,
            folder=settings.gpu_data,
            callback=callback,
            origins=_names(settings.gpu_origins or settings.tenkaigen_webhook_url),
            recipe_secret=settings.recipe_secret.get_secret_value(),
            gpu=settings.gpu_name,
            queue_limit=settings.gpu_queue_limit,
            preload=preload,
        )
    except OSError as error:
        raise ConfigurationError(f"GPU_DATA {settings.gpu_data} cannot be used: {error.strerror}") from error


def _names(listed: str) -> list[str]:
    return [name.strip() for name in listed.split(",") if name.strip()]


def _refuse_unservable(setting: str, names: list[str]) -> None:
    for name in names:
        model = catalog.find(name)
        if model is None or not engine.servable(model):
            raise ConfigurationError(f"{setting}: {name!r} is not in the catalog, or its weights are missing")


def _callback(settings: Settings) -> Callback | None:
    if not settings.tenkaigen_webhook_url:
        return None
    try:
        return Callback(settings.tenkaigen_webhook_url, settings.tenkaigen_webhook_secret.get_secret_value())
    except ValueError as error:
        raise ConfigurationError(f"TENKAIGEN_WEBHOOK_URL, TENKAIGEN_WEBHOOK_SECRET: {error}") from None


def _running(executor: LocalExecutor, callback: Callback | None) -> Lifespan:
    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with callback or contextlib.nullcontext(), executor:
            yield

    return lifespan


if __name__ == "__main__":
    main()
