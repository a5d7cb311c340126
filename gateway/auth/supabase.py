"""Signing in at Supabase, through its own client.

Its answers, as the caller hears them:

    wrong password, spent or unknown link   401  invalid_credentials, link_expired
    address not confirmed, user banned      403  email_not_confirmed, user_banned
    too many tries                          429  rate_limited
    no answer, or an odd one                503  auth_unavailable
    anything else that it refuses           400  sign_in_refused
"""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import structlog
from pydantic import ValidationError
from supabase_auth import AsyncGoTrueClient, AsyncMemoryStorage
from supabase_auth.constants import STORAGE_KEY
from supabase_auth.errors import AuthApiError, AuthError
from supabase_auth.types import AuthResponse

from gateway.auth.tokens import TokenPair
from gateway.config import Settings
from gateway.errors import ApiError, BadRequest, Forbidden, TooManyRequests, Unauthenticated, Unavailable

log = structlog.get_logger()

TIMEOUT = httpx.Timeout(10.0, connect=5.0)
RETRY_AFTER = {"Retry-After": "60"}
"""Supabase does not say how long its limits last; a mail may be asked for once a minute."""
SPENT = (Unauthenticated, "link_expired", "This link was used before, or is too old. Ask for another.")
REFUSALS: dict[str, tuple[type[ApiError], str, str]] = {
    "invalid_credentials": (
        Unauthenticated,
        "invalid_credentials",
        "The e-mail address or the password is wrong.",
    ),
    "email_not_confirmed": (
        Forbidden,
        "email_not_confirmed",
        "Confirm your e-mail address first; Supabase has sent a mail.",
    ),
    "user_banned": (Forbidden, "user_banned", "This user may not sign in."),
    "otp_expired": SPENT,
    "flow_state_not_found": SPENT,
    "flow_state_expired": SPENT,
    "bad_code_verifier": SPENT,
}
"""By Supabase's code: our error, its code and words."""


class SupabaseAuth:
    """One HTTP pool to the auth service. ``async with SupabaseAuth(settings) as auth: ...``"""

    def __init__(self, settings: Settings) -> None:
        self._url = settings.auth_url
        self._key = settings.auth_key
        self._http = httpx.AsyncClient(timeout=TIMEOUT, follow_redirects=False)

    async def __aenter__(self) -> "SupabaseAuth":
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._http.aclose()

    async def with_password(self, email: str, password: str) -> TokenPair:
        async with self._client() as client:
            return _pair(await client.sign_in_with_password({"email": email, "password": password}))

    async def send_link(self, email: str, callback: str) -> str:
        """Have a link sent to a user; returns the verifier, without which the link's code is worth nothing.

        An unknown address is no error: the answer tells nobody who has an account.
        """
        storage = AsyncMemoryStorage()
        async with self._client(storage) as client:
            try:
                options = {"email_redirect_to": callback, "should_create_user": False}
                await client.sign_in_with_otp({"email": email, "options": options})  # type: ignore[typeddict-item]
            except AuthApiError as error:
                if error.code != "otp_disabled":  # "Signups not allowed for otp"
                    raise
            return await storage.get_item(f"{STORAGE_KEY}-code-verifier") or ""

    async def with_code(self, code: str, verifier: str) -> TokenPair:
        """The sign-in of a link that led here by way of Supabase."""
        async with self._client() as client:
            exchange = {"auth_code": code, "code_verifier": verifier, "redirect_to": ""}
            return _pair(await client.exchange_code_for_session(exchange))  # type: ignore[arg-type]

    async def with_token_hash(self, token_hash: str, kind: str) -> TokenPair:
        """The sign-in of a link that led straight here, as a mail template of one's own may."""
        async with self._client() as client:
            answer = await client.verify_otp({"token_hash": token_hash, "type": kind})  # type: ignore[typeddict-item, misc]
            return _pair(answer)

    async def refreshed(self, refresh_token: str) -> TokenPair:
        """The next pair; Unauthenticated when the session is over."""
        async with self._client() as client:
            try:
                return _pair(await client.refresh_session(refresh_token))
            except AuthApiError as error:
                if error.status in (400, 401, 403, 404, 422):
                    raise Unauthenticated() from None
                raise

    async def sign_out(self, access_token: str) -> None:
        """End the session of this token, and no other of its user."""
        async with self._client() as client:
            await client.admin.sign_out(access_token, "local")

    @asynccontextmanager
    async def _client(self, storage: AsyncMemoryStorage | None = None) -> AsyncIterator[AsyncGoTrueClient]:
        """A client for one sign-in: it remembers whose session it has, so no two may share it."""
        if not self._key:
            raise BadRequest(
                "Signing in by e-mail needs SUPABASE_PUBLISHABLE_KEY, which is not configured.",
                code="sign_in_unavailable",
            )
        try:
            yield AsyncGoTrueClient(
                url=self._url,
                headers={"apiKey": self._key},
                http_client=self._http,
                storage=storage or AsyncMemoryStorage(),
                auto_refresh_token=False,
                flow_type="pkce",
            )
        except AuthError as error:
            raise _as_problem(error) from error
        except ValidationError as error:
            raise _unavailable("an answer that is not its own") from error


def _pair(answer: AuthResponse) -> TokenPair:
    session = answer.session
    if session is None:
        raise _unavailable("no session")
    expires_at = session.expires_at or int(time.time()) + session.expires_in
    return TokenPair(session.access_token, session.refresh_token, expires_at)


def _as_problem(error: AuthError) -> ApiError:
    if not isinstance(error, AuthApiError) or error.status >= 500:
        return _unavailable(str(error))
    if error.status == 429:
        return TooManyRequests("Too many tries; wait a minute.", code="rate_limited", headers=RETRY_AFTER)
    if error.code in REFUSALS:
        kind, code, detail = REFUSALS[error.code]
        return kind(detail, code=code)
    return BadRequest(f"Supabase refuses this sign-in: {error.message}", code="sign_in_refused")


def _unavailable(reason: str) -> Unavailable:
    log.warning("supabase_auth_unavailable", reason=reason)
    return Unavailable(
        "Supabase does not answer; try again.", code="auth_unavailable", headers={"Retry-After": "5"}
    )
