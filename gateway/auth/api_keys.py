"""API keys of the form ``tk_…``, stored as a hash."""

import hashlib
import secrets
import time
from typing import TYPE_CHECKING
from uuid import UUID

from gateway.auth.principal import Principal
from gateway.errors import Unauthenticated

if TYPE_CHECKING:
    from gateway.db import Database

KEY_PREFIX = "tk_"
REMEMBER_SECONDS = 10
"""A key is looked up again after this time, so another gateway's revocation bites no later than that."""
REMEMBER_KEYS = 10_000

FIND_KEY = """
select user_id, id, scopes from public.api_keys where sha256 = %(sha256)s and revoked_at is null
"""


def new_key() -> str:
    return KEY_PREFIX + secrets.token_urlsafe(32)


def key_sha256(key: str) -> str:
    """A key has 256 random bits: a plain hash cannot be guessed back, and one lookup finds the row."""
    return hashlib.sha256(key.encode()).hexdigest()


class ApiKeys:
    """Turns a key into its owner, remembering good keys for a few seconds."""

    def __init__(self, db: "Database") -> None:
        self._db = db
        self._known: dict[str, tuple[float, Principal]] = {}

    async def principal(self, key: str) -> Principal:
        """The key's owner; Unauthenticated when it is unknown or revoked."""
        sha256 = key_sha256(key)
        return self._remembered(sha256) or await self._look_up(sha256)

    def forget(self, key_id: UUID) -> None:
        """A key of this id is looked up at its next use: it was revoked here."""
        credential = _credential(key_id)
        self._known = {
            hash_: known for hash_, known in self._known.items() if known[1].credential != credential
        }

    def _remembered(self, sha256: str) -> Principal | None:
        until, principal = self._known.get(sha256, (0.0, None))
        return principal if until > time.monotonic() else None

    async def _look_up(self, sha256: str) -> Principal:
        row = await self._db.one(FIND_KEY, {"sha256": sha256})
        if row is None:
            self._known.pop(sha256, None)
            raise Unauthenticated()
        principal = Principal(row["user_id"], _credential(row["id"]), frozenset(row["scopes"]))
        if len(self._known) >= REMEMBER_KEYS:
            self._known.clear()
        self._known[sha256] = (time.monotonic() + REMEMBER_SECONDS, principal)
        return principal


def _credential(key_id: UUID) -> str:
    return f"key:{key_id}"
