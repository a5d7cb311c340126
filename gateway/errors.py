"""Errors a caller can act on, as application/problem+json (RFC 9457).

``ApiError`` and its kin carry a stable ``code``.  The same facts stand once more under ``error``,
where OpenAI's SDKs look for them.  Their docstrings are what the OpenAPI document says of them.
"""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import psycopg
import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from psycopg_pool import PoolTimeout
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Match

from gateway.storage import StorageError

log = structlog.get_logger()

PROBLEM_JSON = "application/problem+json"
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


class ApiError(Exception):
    """One problem: what happened, what the caller can do, and a code that never changes."""

    status = 500
    code = "internal_error"
    retryable = False

    def __init__(
        self,
        detail: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
        errors: list[dict[str, str]] | None = None,
        how_to_fix: str | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.code = code or self.code
        self.param = param
        self.headers = dict(headers or {})
        self.errors = errors
        self.how_to_fix = how_to_fix


class Unauthenticated(ApiError):
    """There is no credential, or it is not valid."""

    status, code = 401, "unauthenticated"

    def __init__(self, detail: str = "Authentication required", **kwargs: Any) -> None:
        super().__init__(detail, headers={"WWW-Authenticate": "Bearer"}, **kwargs)


class Forbidden(ApiError):
    """The credential is valid and lacks the right."""

    status, code = 403, "forbidden"


class NotFound(ApiError):
    """It does not exist, or it is somebody else's: the answer is the same."""

    status, code = 404, "not_found"


class BadRequest(ApiError):
    """The request is well-formed, and what it needs is not given; `code` says what."""

    status, code = 400, "invalid_request"


class OverBudget(ApiError):
    """It would cost more than the caller, or an administrator, lets them spend.

    ``set_by`` says whose limit it is: the ``user``'s own, or an ``admin``'s.
    """

    status, code = 402, "budget_exceeded"

    def __init__(self, detail: str, *, set_by: str = "user", **kwargs: Any) -> None:
        super().__init__(detail, **kwargs)
        self.set_by = set_by


class Conflict(ApiError):
    """It contradicts how things stand now."""

    status, code = 409, "conflict"


class PayloadTooLarge(ApiError):
    """The body is too large: 1 MB of JSON, 64 MB of a form."""

    status, code = 413, "payload_too_large"


class UnsupportedMedia(ApiError):
    """The body is of a type that is not taken here."""

    status, code = 415, "unsupported_media_type"


class RangeNotSatisfiable(ApiError):
    """The range begins behind the last byte."""

    status, code = 416, "range_not_satisfiable"


class Malformed(ApiError):
    """The input itself is wrong; `errors` names each field."""

    status, code = 422, "validation_failed"


class OverQuota(ApiError):
    """Used up for today."""

    status, code = 429, "quota_exceeded"


class JobFailed(ApiError):
    """The job behind the request has ended without pictures."""

    status, code = 500, "job_failed"

    def __init__(self, detail: str, *, retryable: bool = False, **kwargs: Any) -> None:
        super().__init__(detail, **kwargs)
        self.retryable = retryable


class TooManyRequests(ApiError):
    """Too many requests, or a quota is used up; `Retry-After` says for how long."""

    status, code, retryable = 429, "rate_limited", True


class Unavailable(ApiError):
    """Something that is needed does not answer; nothing was lost. Try again after `Retry-After`."""

    status, code, retryable = 503, "unavailable", True


class TimedOut(ApiError):
    """Nothing came of it in time; the job goes on or has expired."""

    status, code, retryable = 504, "timeout", True


_CODE_OF_STATUS = {
    400: "invalid_request",
    401: "unauthenticated",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    413: "payload_too_large",
    415: "unsupported_media_type",
}
_OPENAI_TYPE_OF_STATUS = {
    401: "authentication_error",
    402: "insufficient_quota",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    429: "rate_limit_error",
}


def openai_error(error: ApiError) -> dict[str, str | None]:
    """An error as OpenAI's SDKs read it."""
    fallback = "invalid_request_error" if error.status < 500 else "server_error"
    kind = _OPENAI_TYPE_OF_STATUS.get(error.status, fallback)
    return {"message": error.detail, "type": kind, "param": error.param, "code": error.code}


def problem(request: Request, error: ApiError) -> JSONResponse:
    """The answer to one error."""
    body = problem_body(error, request.url.path, getattr(request.state, "request_id", None))
    headers = {**error.headers, "x-request-id": body["request_id"] or ""}
    return JSONResponse(body, error.status, headers=headers, media_type=PROBLEM_JSON)


def problem_body(error: ApiError, instance: str, request_id: str | None) -> dict[str, Any]:
    """An error as RFC 9457 has it, and once more as OpenAI's SDKs read it."""
    body: dict[str, Any] = {
        "type": f"urn:tenkaigen:problem:{error.code}",
        "title": HTTPStatus(error.status).phrase,
        "status": error.status,
        "detail": error.detail,
        "instance": instance,
        "code": error.code,
        "request_id": request_id,
        "retryable": error.retryable,
        "error": openai_error(error),
    }
    if error.errors is not None:
        body["errors"] = error.errors
    if error.how_to_fix is not None:
        body["how_to_fix"] = error.how_to_fix
    return body


def install(app: FastAPI) -> None:
    """Every error of ``app`` leaves as a problem."""

    @app.exception_handler(ApiError)
    async def known(request: Request, error: ApiError) -> JSONResponse:
        return problem(request, error)

    @app.exception_handler(RequestValidationError)
    async def malformed(request: Request, error: RequestValidationError) -> JSONResponse:
        return problem(request, _from_validation(error))

    @app.exception_handler(psycopg.DataError)
    async def unstorable(request: Request, error: psycopg.DataError) -> JSONResponse:
        return problem(request, Malformed("A value cannot be stored; text must not contain NUL characters."))

    @app.exception_handler(psycopg.errors.ForeignKeyViolation)
    async def user_gone(request: Request, error: psycopg.errors.ForeignKeyViolation) -> JSONResponse:
        """A token outlives its user: by an hour, unless the project says otherwise."""
        if not (error.diag.constraint_name or "").endswith("_user_id_fkey"):
            raise error
        return problem(request, Unauthenticated())

    @app.exception_handler(psycopg.OperationalError)
    @app.exception_handler(PoolTimeout)
    async def database_down(request: Request, error: Exception) -> JSONResponse:
        log.warning("database_unavailable", error=str(error))
        gone = Unavailable(
            "The database does not answer; nothing was lost.",
            code="database_unavailable",
            headers={"Retry-After": "2"},
        )
        return problem(request, gone)

    @app.exception_handler(StorageError)
    async def bucket_down(request: Request, error: StorageError) -> JSONResponse:
        log.warning("storage_unavailable", error=str(error))
        gone = Unavailable(
            "The bucket does not answer; nothing was lost.",
            code="storage_unavailable",
            headers={"Retry-After": "5"},
        )
        return problem(request, gone)

    @app.exception_handler(HTTPException)
    async def raised_by_framework(request: Request, error: HTTPException) -> JSONResponse:
        if (
            error.detail == "There was an error parsing the body"
        ):  # FastAPI's words for bytes that are no text
            return problem(request, Malformed("The body is not valid JSON.", code="invalid_json"))
        headers = _allowed(request) if error.status_code == 405 else error.headers
        code = _CODE_OF_STATUS.get(error.status_code, "invalid_request")
        translated = ApiError(str(error.detail), code=code, headers=headers)
        translated.status = error.status_code
        return problem(request, translated)

    @app.exception_handler(Exception)
    async def unknown(request: Request, error: Exception) -> JSONResponse:
        log.error("unhandled_error", exc_info=error)
        return problem(request, ApiError("Something broke on our side; the request id finds it in the log."))


def _allowed(request: Request) -> dict[str, str]:
    """The methods of all routes at this address; the framework names those of the first one alone."""
    routes: list[BaseRoute] = request.app.router.routes
    scopes = {method: {**request.scope, "method": method} for method in METHODS}
    found = [m for m in METHODS if any(route.matches(scopes[m])[0] is Match.FULL for route in routes)]
    return {"Allow": ", ".join(found)}


def _from_validation(error: RequestValidationError) -> ApiError:
    found = [{"pointer": _pointer(e["loc"]), "detail": _printable(e["msg"])} for e in error.errors()]
    if any(e["type"] == "json_invalid" for e in error.errors()):
        return Malformed("The body is not valid JSON.", code="invalid_json", errors=found)
    first = found[0] if found else {"pointer": "", "detail": "The request is malformed."}
    param = first["pointer"].removeprefix("/").replace("/", ".") or None
    where = f"{param}: " if param else ""
    return Malformed(where + first["detail"], param=param, errors=found)


def _pointer(location: tuple[int | str, ...]) -> str:
    """JSON pointer of a validation error, without the 'body' that FastAPI puts in front."""
    parts = location[1:] if location and location[0] in ("body", "query", "path", "header") else location
    return _printable("".join(f"/{part}" for part in parts))


def _printable(text: str) -> str:
    """A caller's own field name may hold half a surrogate pair, which no answer can."""
    return text.encode("utf-8", "replace").decode()
