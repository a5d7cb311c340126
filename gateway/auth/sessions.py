"""Browsers that are signed in, each by a cookie.

The cookie is 256 random bits.  What they stand for is a row of ``private.sessions``: the user, and in a
Supabase project the tokens, sealed (docs/decisions/0004-sessions.md says why they are not in the cookie).
"""

import asyncio
import base64
import hashlib
import hmac
import json
import secrets
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any
from uuid import UUID
from weakref import WeakValueDictionary

import structlog
from cryptography.fernet import Fernet, InvalidToken
from psycopg.rows import DictRow

from gateway.auth.principal import LOCAL_USER, SCOPES, Principal
from gateway.auth.tokens import TokenPair, Tokens, as_principal
from gateway.config import Settings
from gateway.errors import ApiError, Unauthenticated, Unavailable

if TYPE_CHECKING:
    from gateway.auth.supabase import SupabaseAuth
    from gateway.db import Database

log = structlog.get_logger()

COOKIE = "tenkaigen_session"
COOKIE_CHARACTERS = 43
LIFETIME_SECONDS = 30 * 86400
REFRESH_SECONDS = 60
"""Tokens are renewed this long before they end, so that a slow answer of Supabase delays nobody."""

BEGIN = """
with ended as (delete from private.sessions where expires_at < now())
insert into private.sessions (user_id, cookie_sha256, sealed_tokens, expires_at)
values (%(user_id)s, %(cookie_sha256)s, %(sealed)s, now() + make_interval(secs => %(lifetime)s))
returning id
"""
FIND = """
select id, user_id, sealed_tokens from private.sessions
where cookie_sha256 = %(cookie_sha256)s and expires_at > now()
"""
KEEP = "update private.sessions set sealed_tokens = %(sealed)s where id = %(id)s"
END = "delete from private.sessions where cookie_sha256 = %(cookie_sha256)s returning sealed_tokens"


class Sessions:
    """``tokens`` and ``supabase`` are None where there is no Supabase project."""

    def __init__(
        self, db: "Database", settings: Settings, tokens: Tokens | None, supabase: "SupabaseAuth | None"
    ) -> None:
        self._db = db
        self._key = settings.url_signing_key.get_secret_value().encode()
        self._tokens = tokens
        self._supabase = supabase
        self._refreshing: WeakValueDictionary[UUID, asyncio.Lock] = WeakValueDictionary()

    async def begin_local(self, user_id: UUID) -> tuple[str, Principal]:
        """(cookie, caller): the local user is signed in."""
        cookie = secrets.token_urlsafe(32)
        session_id = await self._begin(cookie, user_id, None)
        return cookie, _local(session_id, user_id)

    async def begin(self, pair: TokenPair) -> tuple[str, Principal]:
        """(cookie, caller): the user of these tokens is signed in."""
        try:
            claims = await self._claims(pair)
        except Unauthenticated:
            log.error(
                "supabase_token_not_valid", hint="SUPABASE_URL or SUPABASE_JWT_SECRET is another project's"
            )
            raise Unavailable(
                "Supabase knows this user, but its token is not one that this gateway accepts.",
                code="token_not_accepted",
            ) from None
        cookie = secrets.token_urlsafe(32)
        session_id = await self._begin(cookie, UUID(claims["sub"]), self._sealed(cookie, pair))
        return cookie, as_principal(claims, _credential(session_id))

    async def principal(self, cookie: str) -> Principal:
        """Who is signed in by this cookie; Unauthenticated when nobody is, or no longer."""
        row = await self._find(cookie)
        if row["sealed_tokens"] is None:
            return _local(row["id"], row["user_id"])
        pair = self._opened(cookie, row["sealed_tokens"])
        if _ends_within(pair, REFRESH_SECONDS):
            pair = await self._refreshed(cookie, row["id"])
        return as_principal(await self._claims(pair), _credential(row["id"]))

    async def end(self, cookie: str) -> None:
        """Sign out, here at once and at Supabase if it answers."""
        row = await self._db.one(END, {"cookie_sha256": _sha256(cookie)})
        if row is None or row["sealed_tokens"] is None or self._supabase is None:
            return
        try:
            await self._supabase.sign_out(self._opened(cookie, row["sealed_tokens"]).access)
        except ApiError as error:
            log.warning("not_signed_out_at_supabase", code=error.code)

    async def _begin(self, cookie: str, user_id: UUID, sealed: str | None) -> UUID:
        values = {"user_id": user_id, "cookie_sha256": _sha256(cookie), "sealed": sealed}
        row = await self._db.one(BEGIN, {**values, "lifetime": LIFETIME_SECONDS})
        assert row is not None
        return UUID(str(row["id"]))

    async def _find(self, cookie: str) -> DictRow:
        """The row, unless it is from before a Supabase project was configured, or was no longer."""
        row = None
        if len(cookie) == COOKIE_CHARACTERS:
            row = await self._db.one(FIND, {"cookie_sha256": _sha256(cookie)})
        if row is None or (row["sealed_tokens"] is None) != (self._tokens is None):
            raise Unauthenticated()
        return row

    async def _refreshed(self, cookie: str, session_id: UUID) -> TokenPair:
        """The tokens, renewed by whichever request comes first: a refresh token is good for one use."""
        async with self._refreshing.setdefault(session_id, asyncio.Lock()):
            pair = self._opened(cookie, (await self._find(cookie))["sealed_tokens"])
            if not _ends_within(pair, REFRESH_SECONDS):
                return pair
            try:
                return await self._refresh(cookie, session_id, pair)
            except Unauthenticated:
                raise
            except ApiError:
                if _ends_within(pair, 0):
                    raise
                return pair  # good for some seconds more; the next request tries again

    async def _refresh(self, cookie: str, session_id: UUID, pair: TokenPair) -> TokenPair:
        assert self._supabase is not None
        try:
            fresh = await self._supabase.refreshed(pair.refresh)
        except Unauthenticated:
            now = self._opened(cookie, (await self._find(cookie))["sealed_tokens"])
            if now != pair:
                return now  # another gateway was faster
            await self._db.do(END, {"cookie_sha256": _sha256(cookie)})
            raise
        await self._db.do(KEEP, {"id": session_id, "sealed": self._sealed(cookie, fresh)})
        return fresh

    async def _claims(self, pair: TokenPair) -> dict[str, Any]:
        assert self._tokens is not None
        return await self._tokens.claims(pair.access)

    def _sealed(self, cookie: str, pair: TokenPair) -> str:
        return self._seal(cookie).encrypt(json.dumps(asdict(pair)).encode()).decode()

    def _opened(self, cookie: str, sealed: str) -> TokenPair:
        """Unauthenticated when the gateway's key has changed since."""
        try:
            return TokenPair(**json.loads(self._seal(cookie).decrypt(sealed)))
        except InvalidToken:
            raise Unauthenticated() from None

    def _seal(self, cookie: str) -> Fernet:
        """Opened by cookie and gateway together: the database alone, stolen, gives no token away."""
        key = hmac.digest(self._key, f"tenkaigen session {cookie}".encode(), hashlib.sha256)
        return Fernet(base64.urlsafe_b64encode(key))


def _local(session_id: UUID, user_id: UUID) -> Principal:
    return Principal(user_id, _credential(session_id), frozenset(SCOPES), {"email": LOCAL_USER})


def _credential(session_id: UUID) -> str:
    return f"session:{session_id}"


def _sha256(cookie: str) -> str:
    """As with API keys: nobody guesses 256 random bits from their hash."""
    return hashlib.sha256(cookie.encode()).hexdigest()


def _ends_within(pair: TokenPair, seconds: float) -> bool:
    return pair.expires_at - time.time() < seconds
