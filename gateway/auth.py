"""Who is calling: API keys of the form ``tk_…``, stored as a hash."""

import hashlib
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

from fastapi import Depends, Request
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from starlette.responses import Response

from gateway.errors import Forbidden, Unauthenticated, UnsupportedMedia

if TYPE_CHECKING:
    from gateway.db import Database

SCOPES = ("generate", "read", "admin")
KEY_PREFIX = "tk_"
REMEMBER_SECONDS = 10
"""A key is looked up again after this time, so a revoked one works no longer than that."""
REMEMBER_KEYS = 10_000

FIND_KEY = """
select user_id, id, scopes from public.api_keys where sha256 = %(sha256)s and revoked_at is null
"""


@dataclass(frozen=True)
class Principal:
    """A caller whose credential was checked."""

    user_id: UUID
    credential: str
    scopes: frozenset[str]

    @property
    def claims(self) -> dict[str, Any]:
        """What row-level security reads, in the shape of a Supabase token."""
        return {"sub": str(self.user_id), "role": "authenticated"}


def new_key() -> str:
    return KEY_PREFIX + secrets.token_urlsafe(32)


def key_sha256(key: str) -> str:
    """A key has 256 random bits: a plain hash cannot be guessed back, and one lookup finds the row."""
    return hashlib.sha256(key.encode()).hexdigest()


class Authenticator:
    """Turns a bearer credential into a principal, remembering good keys for a few seconds."""

    def __init__(self, db: "Database") -> None:
        self._db = db
        self._known: dict[str, tuple[float, Principal]] = {}

    async def principal(self, authorization: str | None) -> Principal:
        """The caller; Unauthenticated when the header is missing, odd, unknown or revoked."""
        scheme, _, key = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not key.startswith(KEY_PREFIX):
            raise Unauthenticated()
        sha256 = key_sha256(key.strip())
        return self._remembered(sha256) or await self._look_up(sha256)

    def _remembered(self, sha256: str) -> Principal | None:
        until, principal = self._known.get(sha256, (0.0, None))
        return principal if until > time.monotonic() else None

    async def _look_up(self, sha256: str) -> Principal:
        row = await self._db.one(FIND_KEY, {"sha256": sha256})
        if row is None:
            self._known.pop(sha256, None)
            raise Unauthenticated()
        principal = Principal(row["user_id"], f"key:{row['id']}", frozenset(row["scopes"]))
        if len(self._known) >= REMEMBER_KEYS:
            self._known.clear()
        self._known[sha256] = (time.monotonic() + REMEMBER_SECONDS, principal)
        return principal


class AuthenticatedRoute(APIRoute):
    """Checks the caller before the body is read: a stranger learns nothing about what is valid."""

    def get_route_handler(self) -> Callable[[Request], Any]:
        handle = super().get_route_handler()

        async def authenticated(request: Request) -> Response:
            authenticator: Authenticator = request.app.state.authenticator
            request.state.principal = await authenticator.principal(request.headers.get("authorization"))
            if self.body_field is not None and not _is_json(request.headers.get("content-type", "")):
                raise UnsupportedMedia("The body must be application/json.")
            response: Response = await handle(request)
            return response

        return authenticated


def _is_json(content_type: str) -> bool:
    kind = content_type.partition(";")[0].strip().lower()
    return kind == "application/json" or kind.endswith("+json")


_bearer = HTTPBearer(auto_error=False, description="An API key `tk_…`.")


def _with_scope(scope: str) -> Callable[..., Principal]:
    def check(request: Request, _: Annotated[Any, Depends(_bearer)]) -> Principal:
        principal: Principal = request.state.principal
        if scope not in principal.scopes:
            raise Forbidden(f"This key lacks the scope `{scope}`.")
        return principal

    return check


Reader = Annotated[Principal, Depends(_with_scope("read"))]
Generator = Annotated[Principal, Depends(_with_scope("generate"))]
