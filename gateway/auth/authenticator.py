"""From a request to its caller."""

from typing import TYPE_CHECKING

from fastapi import Request

from gateway.auth.api_keys import KEY_PREFIX, ApiKeys
from gateway.auth.origin import refuse_cross_site
from gateway.auth.principal import Principal
from gateway.auth.sessions import COOKIE, Sessions
from gateway.auth.tokens import Tokens
from gateway.config import Settings
from gateway.errors import Unauthenticated

if TYPE_CHECKING:
    from gateway.auth.supabase import SupabaseAuth
    from gateway.db import Database


class Authenticator:
    """Knows every kind of credential; ``supabase`` is None where there is no project."""

    def __init__(self, db: "Database", settings: Settings, supabase: "SupabaseAuth | None") -> None:
        self._settings = settings
        self._tokens = Tokens(settings) if supabase else None
        self.api_keys = ApiKeys(db)
        self.sessions = Sessions(db, settings, self._tokens, supabase)

    async def caller(self, request: Request) -> Principal:
        """Whoever sent this request; Unauthenticated when the credential is missing or not valid.

        An ``Authorization`` header is the caller's word: a cookie beside it is not looked at.
        """
        authorization, cookie = request.headers.get("authorization"), request.cookies.get(COOKIE)
        if authorization is None and cookie:
            refuse_cross_site(request, self._settings)
            return await self.sessions.principal(cookie)
        scheme, _, credential = (authorization or "").partition(" ")
        if scheme.lower() != "bearer":
            raise Unauthenticated()
        return await self._bearer(credential.strip())

    async def _bearer(self, credential: str) -> Principal:
        if credential.startswith(KEY_PREFIX):
            return await self.api_keys.principal(credential)
        if self._tokens is None:
            raise Unauthenticated()
        return await self._tokens.principal(credential)
