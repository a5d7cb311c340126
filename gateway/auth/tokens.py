"""Supabase's user tokens (JWT), checked here: Supabase is asked for its public keys and for nothing else.

A token is signed by a key of the project's key set (ES256 or RS256, found by ``kid``), or by the project's
legacy secret (HS256).  The key decides the algorithm and is used with that one alone, so a public key can
never be taken for a secret.
"""

import asyncio
import http.client
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import jwt
import structlog

from gateway.auth.principal import Principal
from gateway.config import Settings
from gateway.errors import Unauthenticated, Unavailable

log = structlog.get_logger()

AUDIENCE = "authenticated"
LEEWAY_SECONDS = 10
REQUIRED = ["exp", "sub", "aud", "iss"]
KEYS_FRESH_SECONDS = 600
"""A key that Supabase has withdrawn is accepted no longer than this."""
ASK_AGAIN_SECONDS = 30
"""Between two fetches, whatever ids the tokens name: strangers cannot make us flood Supabase."""
RETRY_SECONDS = 5
"""The same after a fetch that failed."""
TRUSTED_SECONDS = 60
"""How long known keys are used without another try after one: they do not wait for a Supabase that hangs."""
FETCH_TIMEOUT_SECONDS = 5
ALGORITHM_OF: dict[tuple[Any, Any], str] = {("EC", "P-256"): "ES256", ("RSA", None): "RS256"}
"""By key type and curve; a key set's other kinds are left alone, shared secrets above all."""


@dataclass(frozen=True)
class TokenPair:
    """What Supabase gives for a sign-in; ``expires_at`` is in seconds since 1970."""

    access: str
    refresh: str
    expires_at: int


class Tokens:
    """Checks the tokens of one Supabase project."""

    def __init__(self, settings: Settings) -> None:
        self._issuer = settings.auth_url
        self._secret = settings.supabase_jwt_secret.get_secret_value()
        self._keys = SigningKeys(f"{settings.auth_url}/.well-known/jwks.json")

    async def principal(self, token: str) -> Principal:
        """The user whose token this is; Unauthenticated for anything else."""
        claims = await self.claims(token)
        return as_principal(claims, f"user:{claims['sub']}")

    async def claims(self, token: str) -> dict[str, Any]:
        """What a valid token says; Unauthenticated for any other, Unavailable when its key cannot be had."""
        try:
            header = jwt.get_unverified_header(token)
            key, algorithm = await self._key(header)
            claims = jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                audience=AUDIENCE,
                issuer=self._issuer,
                leeway=LEEWAY_SECONDS,
                options={"require": REQUIRED},
            )
        except (jwt.PyJWTError, ValueError):
            raise Unauthenticated() from None
        if claims.get("role") != AUDIENCE or not _is_uuid(claims["sub"]):
            raise Unauthenticated()
        return claims

    async def _key(self, header: Mapping[str, Any]) -> tuple[Any, str]:
        if header.get("alg") == "HS256" and self._secret:
            return self._secret, "HS256"
        found = await self._keys.find(str(header.get("kid", "")))
        if found is None:
            raise Unauthenticated()
        return found.key, found.algorithm_name


class SigningKeys:
    """The public keys of a project by id, fetched in a thread when they are needed and seldom enough."""

    def __init__(self, url: str) -> None:
        self._client = jwt.PyJWKClient(url, cache_jwk_set=False, timeout=FETCH_TIMEOUT_SECONDS)
        self._keys: dict[str, jwt.PyJWK] = {}
        self._fresh_until = 0.0
        self._quiet_until = 0.0
        self._failed = False
        self._asking = asyncio.Lock()

    async def find(self, kid: str) -> jwt.PyJWK | None:
        """The key, or None where the project has none of this id.

        While Supabase does not answer, the keys known from before stay good; others raise Unavailable.
        """
        if self._worth_asking(kid):
            async with self._asking:
                if self._worth_asking(kid):
                    await self._ask()
        if kid not in self._keys and self._failed:
            raise Unavailable(
                "Supabase does not tell its signing keys; try again.",
                code="auth_unavailable",
                headers={"Retry-After": str(RETRY_SECONDS)},
            )
        return self._keys.get(kid)

    def _worth_asking(self, kid: str) -> bool:
        now = time.monotonic()
        return now >= self._quiet_until and (kid not in self._keys or now >= self._fresh_until)

    async def _ask(self) -> None:
        try:
            self._keys = _usable(await asyncio.to_thread(self._client.fetch_data))
            self._failed = False
        except (jwt.PyJWTError, OSError, ValueError, http.client.HTTPException) as error:
            self._failed = True
            log.warning("signing_keys_unavailable", error=str(error))
        now = time.monotonic()
        self._fresh_until = now + (TRUSTED_SECONDS if self._failed else KEYS_FRESH_SECONDS)
        self._quiet_until = now + (RETRY_SECONDS if self._failed else ASK_AGAIN_SECONDS)


def as_principal(claims: Mapping[str, Any], credential: str) -> Principal:
    """The user of verified claims. Rights come from ``app_metadata``, which users cannot write."""
    app_metadata = claims.get("app_metadata")
    admin = isinstance(app_metadata, dict) and app_metadata.get("role") == "admin"
    scopes = {"generate", "read", *(["admin"] if admin else [])}
    return Principal(UUID(claims["sub"]), credential, frozenset(scopes), claims)


def _usable(key_set: Mapping[str, Any]) -> dict[str, jwt.PyJWK]:
    """Keys that sign, by id; ValueError when this is no key set.  A project on the legacy secret has none."""
    keys = key_set.get("keys")
    if not isinstance(keys, list):
        raise ValueError("not a JSON Web Key Set")
    found = {}
    for key in keys:
        algorithm = ALGORITHM_OF.get((key.get("kty"), key.get("crv"))) if isinstance(key, dict) else None
        if algorithm and key.get("kid") and key.get("use", "sig") == "sig":
            with suppress(jwt.PyJWTError):  # one that is damaged spoils no other
                found[str(key["kid"])] = jwt.PyJWK(key, algorithm)
    return found


def _is_uuid(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True
