"""A gateway beside a Supabase project: real Postgres, real tokens, a stand-in for the auth service."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
from fastapi import FastAPI
from psycopg.rows import dict_row

from gateway.app import create_app
from tests.support.auth_server import LEGACY_SECRET, PUBLISHABLE_KEY, AuthServer, AuthUser
from tests.support.stack import free_port, gateway_settings, serve

NO_GPU = "http://127.0.0.1:9"


class Project:
    """Who asks it for pictures waits for ever, unless ``project_of`` was given a GPU service and a worker."""

    def __init__(self, app: FastAPI, url: str, admin_url: str, auth: AuthServer) -> None:
        self.app, self.url, self.admin_url, self.auth = app, url, admin_url, auth
        self.user = self.new_user()

    def new_user(self, **facts: Any) -> AuthUser:
        """A user of the project, in the auth service and in the database."""
        user = AuthUser(**{"email": f"{len(self.auth.users)}@example.com", **facts})
        self.rows("insert into auth.users (id, email) values (%s, %s) returning id", user.id, user.email)
        return self.auth.add(user)

    def as_bearer(self, token: str) -> httpx.AsyncClient:
        headers = {"Authorization": f"Bearer {token}"}
        return httpx.AsyncClient(base_url=self.url, headers=headers, timeout=70)

    def browser(self) -> httpx.AsyncClient:
        """Keeps cookies; is nobody yet."""
        return httpx.AsyncClient(base_url=self.url, timeout=70)

    async def signed_in(self, user: AuthUser | None = None) -> httpx.AsyncClient:
        browser, user = self.browser(), user or self.user
        answer = await browser.post("/v1/session", json={"email": user.email, "password": user.password})
        assert answer.status_code == 200, answer.text
        return browser

    def rows(self, statement: str, *values: object) -> list[dict[str, Any]]:
        """What the database's owner sees."""
        with psycopg.connect(self.admin_url, row_factory=dict_row) as connection:
            return connection.execute(statement.encode(), values).fetchall()


@contextlib.asynccontextmanager
async def project_of(
    admin_url: str, folder: Path, *, port: int | None = None, gpu_url: str = NO_GPU, **overrides: Any
) -> AsyncIterator[Project]:
    """A gateway and its Supabase project; it works on jobs with ``worker=True``."""
    auth, port = AuthServer(), port or free_port()
    async with serve(auth.app) as auth.url:
        settings = {
            "supabase_url": auth.url,
            "supabase_publishable_key": PUBLISHABLE_KEY,
            "supabase_jwt_secret": LEGACY_SECRET,
            "worker": False,
            **overrides,
        }
        app = create_app(gateway_settings(admin_url, folder, port, gpu_url, **settings))
        async with serve(app, port) as url:
            yield Project(app, url, admin_url, auth)
