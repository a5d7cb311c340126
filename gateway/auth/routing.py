"""Routes that know their caller, and the scopes they ask for."""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Depends, Request
from fastapi.routing import APIRoute
from sse_starlette import EventSourceResponse
from starlette.responses import Response

from gateway.auth.principal import Principal
from gateway.auth.sessions import COOKIE
from gateway.errors import Forbidden, Unauthenticated, UnsupportedMedia

if TYPE_CHECKING:
    from gateway.auth.authenticator import Authenticator
    from gateway.rates import Rates


SECURITY_SCHEMES: dict[str, dict[str, str]] = {
    "HTTPBearer": {
        "type": "http",
        "description": "An API key `tk_…`, or the access token of a user of the Supabase project.",
        "scheme": "bearer",
    },
    "APIKeyCookie": {
        "type": "apiKey",
        "description": "The login of a browser, made by `POST /v1/session`.",
        "in": "cookie",
        "name": COOKIE,
    },
}
"""Of the OpenAPI document.  As dependencies, FastAPI would solve them for every request."""


class AuthenticatedRoute(APIRoute):
    """Checks the caller before the body is read: a stranger learns nothing about what is valid."""

    def __init__(self, *place: Any, openapi_extra: dict[str, Any] | None = None, **declared: Any) -> None:
        either: dict[str, Any] = {"security": [{name: []} for name in SECURITY_SCHEMES]}
        super().__init__(*place, openapi_extra=(openapi_extra or {}) | either, **declared)

    def get_route_handler(self) -> Callable[[Request], Any]:
        handle = super().get_route_handler()

        async def authenticated(request: Request) -> Response:
            authenticator: Authenticator = request.app.state.authenticator
            rates: Rates = request.app.state.rates
            try:
                caller = await authenticator.caller(request)
            except Unauthenticated:
                rates.count_failure(request)
                raise
            request.state.principal = caller
            if not self._is_stream:
                request.state.rate = rates.take(caller.credential, request.method)
            if self.body_field is not None and _has_body(request) and not _is_json(request):
                raise UnsupportedMedia("The body must be application/json.")
            response: Response = await handle(request)
            return response

        return authenticated

    @property
    def _is_stream(self) -> bool:
        """One request for hours of answers: a client that comes back to it is not to be kept out."""
        kind = self.response_class
        return isinstance(kind, type) and issubclass(kind, EventSourceResponse)


def _has_body(request: Request) -> bool:
    """Where a body is optional, ``curl -X POST`` sends none and names no type."""
    return "transfer-encoding" in request.headers or request.headers.get("content-length", "0") != "0"


def _is_json(request: Request) -> bool:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    return kind == "application/json" or kind.endswith("+json")


async def _caller(request: Request) -> Principal:
    principal: Principal = request.state.principal
    return principal


Caller = Annotated[Principal, Depends(_caller)]
"""Anybody with a valid credential, whatever its scopes."""


def _with_scope(scope: str) -> Callable[..., Awaitable[Principal]]:
    async def check(request: Request) -> Principal:
        principal = await _caller(request)  # no dependency of this one: each is solved for every request
        if scope not in principal.scopes:
            raise Forbidden(f"This credential lacks the scope `{scope}`.")
        return principal

    return check


Reader = Annotated[Principal, Depends(_with_scope("read"))]
Generator = Annotated[Principal, Depends(_with_scope("generate"))]
Admin = Annotated[Principal, Depends(_with_scope("admin"))]
