"""What is examined: the gateway of this environment, the folder of ``tenkaigen up``, or an address."""

import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psycopg
from psycopg.rows import DictRow, dict_row
from pydantic import SecretStr, ValidationError

from gateway import up
from gateway.config import ConfigurationError, Settings, login_as
from gateway.postgres import PostgresServer

PATIENCE_SECONDS = 300.0
"""For the smoke job: the first start of a GPU takes minutes."""
HTTP_SECONDS = 15.0
CONNECT_SECONDS = 8


@dataclass
class Subject:
    """What is known of it; an empty field is not known, and what needs it is skipped."""

    name: str
    url: str = ""
    """Where a gateway answers."""
    settings: Settings | None = None
    """The gateway's own; None where it is only asked over HTTP."""
    key: str = ""
    folder: Path | None = None
    """Of ``tenkaigen up``, where that is looked at."""
    draws: bool = True
    """Whether a smoke job may be drawn."""
    patience_seconds: float = PATIENCE_SECONDS
    smoke: dict[str, Any] | None = None
    """The smoke job as it ended; the checks behind it look at what it left."""

    @property
    def database_url(self) -> str:
        """Of the login ``gateway``."""
        return self.settings.database_url.get_secret_value() if self.settings else ""

    @contextlib.asynccontextmanager
    async def database(
        self, role: str = "gateway_service"
    ) -> AsyncIterator[psycopg.AsyncConnection[DictRow]]:
        """A connection of one of the two logins; every statement is a transaction of its own."""
        async with await psycopg.AsyncConnection.connect(
            login_as(self.database_url, role) if role != "gateway" else self.database_url,
            autocommit=True,
            prepare_threshold=None,
            row_factory=dict_row,
            connect_timeout=CONNECT_SECONDS,
        ) as connection:
            yield connection

    async def rows(self, statement: str, **values: object) -> list[DictRow]:
        """What ``gateway_service`` sees."""
        async with self.database() as connection:
            return await (await connection.execute(statement.encode(), values)).fetchall()

    def http(self, *, signed_in: bool = True) -> httpx.AsyncClient:
        """A client of the gateway's API."""
        headers = {"Authorization": f"Bearer {self.key}"} if self.key and signed_in else {}
        return httpx.AsyncClient(
            base_url=self.url, headers=headers, timeout=HTTP_SECONDS, follow_redirects=False
        )


def is_configured() -> bool:
    """Whether the environment names a database or a GPU service, as a hosted gateway's does."""
    settings = _environment()
    return bool(settings.database_url.get_secret_value() or settings.modal_generate_endpoint)


def environment(key: str) -> Subject:
    """The gateway whose settings are in the environment or in ``.env``; ConfigurationError for odd values."""
    settings = _environment()
    return Subject("the gateway of this environment", settings.public_url, settings, key)


def address(url: str, key: str) -> Subject:
    """A running gateway, asked over HTTP only."""
    return Subject(url, url.rstrip("/"), key=key)


@contextlib.contextmanager
def folder(data: Path, key: str) -> Iterator[Subject]:
    """The folder of ``tenkaigen up``, running or not; its database is started for the time if need be."""
    name = f"the data folder {data}"
    if not (data / "postgres").exists():
        yield Subject(name, folder=data)
        return
    running = up.running(data)
    if not key:
        with contextlib.suppress(ConfigurationError):
            key = up.dev_key(data)
    with PostgresServer(data / "postgres") as postgres:
        settings = _settings(data, running, login_as(postgres.url, "gateway"))
        yield Subject(name, running.url if running else "", settings, key, data)


def _environment() -> Settings:
    try:
        return Settings()
    except ValidationError as error:
        odd = ", ".join(str(found["loc"][0]).upper() for found in error.errors())
        raise ConfigurationError(f"{odd}: not a value that it can have; see .env.example.") from None


def _settings(data: Path, running: up.Running | None, database_url: str) -> Settings:
    """Those that ``tenkaigen up`` gives its gateway."""
    return Settings(
        data=data,
        database_url=SecretStr(database_url),
        modal_generate_endpoint=running.gpu_url if running else "",
        **{name.lower(): SecretStr(value) for name, value in up.shared_secrets(data).items()},  # type: ignore[arg-type]
    )
