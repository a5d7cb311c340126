"""``/v1/session``: the login of a browser, and where the link of a mail leads."""

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Annotated, Literal
from urllib.parse import urlencode
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import RedirectResponse
from pydantic import BaseModel, ConfigDict, Field, SecretStr

from gateway.auth import AuthenticatedRoute, Authenticator, Caller, Principal
from gateway.auth.origin import is_local, refuse_cross_site
from gateway.auth.sessions import COOKIE, LIFETIME_SECONDS
from gateway.auth.tokens import TokenPair
from gateway.config import Settings
from gateway.errors import ApiError, BadRequest, Forbidden, Malformed, Unauthenticated
from gateway.rates import Rates

if TYPE_CHECKING:
    from gateway.auth.supabase import SupabaseAuth

CALLBACK = "/auth/callback"
LINK_COOKIE = "tenkaigen_link"
LINK_SECONDS = 3600
"""How long Supabase's links work unless the project says otherwise."""
EMAIL = r"^[^@\s\x00]+@[^@\s\x00]+$"

Mode = Literal["local", "supabase"]


async def _own_pages_only(request: Request) -> None:
    refuse_cross_site(request, request.app.state.settings)


async def _few_guesses(request: Request) -> AsyncIterator[None]:
    """An address that has failed too often is not let try another password."""
    rates: Rates = request.app.state.rates
    rates.refuse_guesser(request)
    try:
        yield
    except Unauthenticated:
        rates.count_failure(request)
        raise


async def _few_mails(request: Request) -> None:
    """Every mail asked for counts like a wrong password: it reaches somebody who may not have asked."""
    rates: Rates = request.app.state.rates
    rates.count_failure(request)


router = APIRouter(tags=["session"], dependencies=[Depends(_own_pages_only)])
authenticated_router = APIRouter(tags=["session"], route_class=AuthenticatedRoute)


class Session(BaseModel):
    """Who is signed in."""

    object: Literal["session"] = "session"
    user_id: UUID
    email: str | None = Field(description="Unknown to an API key.")
    scopes: list[str]
    mode: Mode


class SignInMethods(BaseModel):
    mode: Mode
    methods: list[Literal["local", "password", "link"]] = Field(
        description="`local`: an empty `POST /v1/session` from a browser on the gateway's own machine."
    )


class SignIn(BaseModel):
    model_config = ConfigDict(extra="forbid")

    email: str | None = Field(default=None, max_length=320, pattern=EMAIL)
    password: SecretStr | None = Field(default=None, min_length=1, max_length=1000)


class LinkRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    email: str = Field(max_length=320, pattern=EMAIL)


class LinkSent(BaseModel):
    object: Literal["sign_in_link"] = "sign_in_link"
    status: Literal["sent"] = "sent"


class Link(BaseModel):
    """What the address in a mail carries: a hash, a code, or why Supabase gave neither."""

    token_hash: str = Field(default="", max_length=500)
    type: Literal["email", "magiclink", "signup", "invite"] = "email"
    code: str = Field(default="", max_length=500)
    error_code: str = Field(default="", max_length=100)
    next: str = Field(default="/", max_length=1000, description="A path of this gateway to go on to.")


@authenticated_router.get("/v1/session")
async def get_session(request: Request, caller: Caller) -> Session:
    """Who am I, by whatever credential."""
    return _told(caller, request.app.state.settings)


@router.get("/v1/session/methods")
async def sign_in_methods(request: Request) -> SignInMethods:
    """How this gateway lets browsers sign in."""
    settings: Settings = request.app.state.settings
    if settings.supabase_url:
        return SignInMethods(mode="supabase", methods=["password", "link"] if settings.auth_key else [])
    local = bool(settings.local_user_id) and is_local(request, settings)
    return SignInMethods(mode="local", methods=["local"] if local else [])


@router.post("/v1/session", dependencies=[Depends(_few_guesses)])
async def sign_in(request: Request, response: Response, body: SignIn | None = None) -> Session:
    """Sign in by e-mail and password; without a Supabase project, as the local user, by an empty body."""
    body = body or SignIn()
    if request.app.state.settings.supabase_url:
        return await _begin(request, response, await _by_password(request, body))
    return await _begin_local(request, response, body)


@router.post("/v1/session/link", status_code=202, dependencies=[Depends(_few_mails)])
async def send_link(request: Request, response: Response, body: LinkRequest) -> LinkSent:
    """Have a sign-in link mailed to a user. It works in the browser that asked for it.

    The answer is the same for an address that nobody has.
    """
    settings: Settings = request.app.state.settings
    verifier = await _supabase(request).send_link(body.email, settings.public_url + CALLBACK)
    _set_cookie(response, LINK_COOKIE, verifier, LINK_SECONDS, CALLBACK, settings)
    return LinkSent()


@router.get(CALLBACK, status_code=303, response_class=RedirectResponse)
async def follow_link(request: Request, link: Annotated[Link, Query()]) -> Response:
    """Where a sign-in link leads: on to the page, signed in, or with `sign_in_error=<code>`."""
    response = RedirectResponse(_own_path(link.next), 303, {"Referrer-Policy": "no-referrer"})
    try:
        await _begin(request, response, await _by_link(request, link))
    except ApiError as error:
        return RedirectResponse(f"/?{urlencode({'sign_in_error': error.code})}", 303)
    response.delete_cookie(LINK_COOKIE, path=CALLBACK)
    return response


@router.delete("/v1/session", status_code=204)
async def sign_out(request: Request) -> Response:
    """Sign out, here and at Supabase. Whoever is not signed in stays so."""
    if cookie := request.cookies.get(COOKIE):
        await _authenticator(request).sessions.end(cookie)
    response = Response(status_code=204)
    response.delete_cookie(COOKIE, path="/")
    return response


async def _by_password(request: Request, body: SignIn) -> TokenPair:
    if not body.email or not body.password:
        raise Malformed("Both email and password are needed.", param="password" if body.email else "email")
    return await _supabase(request).with_password(body.email, body.password.get_secret_value())


async def _by_link(request: Request, link: Link) -> TokenPair:
    if link.token_hash:
        return await _supabase(request).with_token_hash(link.token_hash, link.type)
    verifier = request.cookies.get(LINK_COOKIE)
    if link.error_code or not link.code:
        raise Unauthenticated(code="link_expired" if link.error_code else "link_incomplete")
    if not verifier:
        raise Unauthenticated("This link works in the browser that asked for it.", code="other_browser")
    return await _supabase(request).with_code(link.code, verifier)


async def _begin(request: Request, response: Response, pair: TokenPair) -> Session:
    cookie, caller = await _authenticator(request).sessions.begin(pair)
    return await _signed_in(request, response, cookie, caller)


async def _begin_local(request: Request, response: Response, body: SignIn) -> Session:
    settings: Settings = request.app.state.settings
    if body.email or body.password or not settings.local_user_id:
        raise BadRequest(
            "This gateway has no Supabase project to sign in at; use an API key.", code="sign_in_unavailable"
        )
    if not is_local(request, settings):
        raise Forbidden(
            "The local user signs in on the gateway's own machine, at a loopback address.",
            code="not_local",
        )
    cookie, caller = await _authenticator(request).sessions.begin_local(UUID(settings.local_user_id))
    return await _signed_in(request, response, cookie, caller)


async def _signed_in(request: Request, response: Response, cookie: str, caller: Principal) -> Session:
    settings: Settings = request.app.state.settings
    if before := request.cookies.get(COOKIE):
        await _authenticator(request).sessions.end(before)
    _set_cookie(response, COOKIE, cookie, LIFETIME_SECONDS, "/", settings)
    response.headers["Cache-Control"] = "no-store"
    return _told(caller, settings)


def _set_cookie(
    response: Response, name: str, value: str, seconds: int, path: str, settings: Settings
) -> None:
    secure = settings.public_url.startswith("https://")
    response.set_cookie(name, value, max_age=seconds, path=path, httponly=True, samesite="lax", secure=secure)


def _told(caller: Principal, settings: Settings) -> Session:
    mode: Mode = "supabase" if settings.supabase_url else "local"
    return Session(user_id=caller.user_id, email=caller.email, scopes=sorted(caller.scopes), mode=mode)


def _own_path(path: str) -> str:
    """``path`` if it stays on this site: browsers take ``//host`` and ``/\\host`` for another one."""
    plain = path.isascii() and path.isprintable() and "\\" not in path
    return path if plain and path.startswith("/") and not path.startswith("//") else "/"


def _authenticator(request: Request) -> Authenticator:
    authenticator: Authenticator = request.app.state.authenticator
    return authenticator


def _supabase(request: Request) -> "SupabaseAuth":
    supabase: SupabaseAuth | None = request.app.state.supabase_auth
    if supabase is None:
        raise BadRequest(
            "This gateway has no Supabase project to sign in at; use an API key.", code="sign_in_unavailable"
        )
    return supabase
