"""The front door of the GPU service: HTTP in front of an executor.

The same routes stand in front of Modal and of one machine; an ``Executor`` does the work.  No threads
and no torch in here, and no answer waits for a picture.
"""

import hmac
import re
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from http import HTTPStatus
from typing import Any, Protocol

from pydantic import BaseModel, ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from modal_app import catalog, engine
from modal_app.contract import (
    ENDED,
    REQUESTS,
    Call,
    CallAccepted,
    ImageRequest,
    ImageResult,
    LanguageRequest,
    PictureInfo,
    ServedModels,
    SubmitCall,
    Task,
)

BODY_LIMIT_BYTES = 1_000_000
OPEN_PATHS = ("/healthz",)
_SHA256 = re.compile(r"[0-9a-f]{64}")

Lifespan = Callable[[Starlette], AbstractAsyncContextManager[None]]


class QueueFull(Exception):
    """The executor takes no more calls for now."""

    def __init__(self, retry_after_seconds: int) -> None:
        super().__init__(f"try again in {retry_after_seconds} s")
        self.retry_after_seconds = retry_after_seconds


class Executor(Protocol):
    """Runs calls, one or many at a time, here or elsewhere.  No method waits for a picture."""

    async def submit(self, key: str, task: Task, request: ImageRequest | LanguageRequest) -> str:
        """The call's id, the same whenever the key is the same, and then run once; QueueFull."""
        ...

    async def call(self, call_id: str) -> Call | None:
        """How a call stands; None when it is unknown or its result has expired."""
        ...

    async def cancel(self, call_id: str) -> Call | None:
        """Ends a call that has not ended; how it stands then, possibly still running for a step."""
        ...

    async def picture(self, call_id: str, n: int) -> bytes | None:
        """The bytes of the n-th picture of a call that succeeded."""
        ...

    async def forget(self, sha256: str) -> None:
        """Drops the copy of a file that a call was given to draw from, where one is kept."""
        ...

    async def served(self) -> ServedModels:
        """The models that calls may name, and the price row they are charged at."""
        ...


class Problem(Exception):
    """An error as the caller reads it: application/problem+json with a stable ``code``."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        headers: dict[str, str] | None = None,
        errors: list[dict[str, str]] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.headers = headers
        self.errors = errors

    def answer(self) -> Response:
        body: dict[str, Any] = {
            "type": f"urn:tenkaigen:problem:{self.code}",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
        }
        if self.errors:
            body["errors"] = self.errors
        return JSONResponse(body, self.status, self.headers, "application/problem+json")


def create_app(executor: Executor, token: str | None, *, lifespan: Lifespan | None = None) -> Starlette:
    """The ASGI application.

    Args:
        executor: does the work.
        token: what callers show as ``Authorization: Bearer``; None where a proxy in front checks them.
        lifespan: starts and ends the executor along with the server.
    """
    routes = _Routes(executor)
    return Starlette(
        routes=[
            Route("/calls", routes.submit, methods=["POST"]),
            Route("/calls/{call_id}", routes.call, methods=["GET"]),
            Route("/calls/{call_id}", routes.cancel, methods=["DELETE"]),
            Route("/calls/{call_id}/images/{n:int}", routes.picture, methods=["GET"]),
            Route("/files/{sha256}", routes.forget, methods=["DELETE"]),
            Route("/models", routes.models, methods=["GET"]),
            Route("/healthz", routes.healthz, methods=["GET"]),
        ],
        middleware=[Middleware(_BearerToken, token=token)] if token is not None else [],
        exception_handlers={Problem: _known, HTTPException: _from_framework, Exception: _unknown},
        lifespan=lifespan,
    )


class _Routes:
    """One method per route."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor

    async def submit(self, request: Request) -> Response:
        """Accept a call; the same key always answers the same call."""
        call = _parsed(SubmitCall, await _body(request))
        wanted = _request(call)
        await self._refuse_unservable(wanted)
        try:
            call_id = await self._executor.submit(call.key, call.task, wanted)
        except QueueFull as full:
            raise Problem(
                503,
                "queue_full",
                "The queue is full; nothing was accepted.",
                headers={"Retry-After": str(full.retry_after_seconds)},
            ) from None
        return _json(CallAccepted(call_id=call_id), 202)

    async def call(self, request: Request) -> Response:
        """How a call stands."""
        return _json(await self._known(request))

    async def cancel(self, request: Request) -> Response:
        """Cancel a call; one that has ended stays as it is."""
        call = await self._executor.cancel(request.path_params["call_id"])
        return _json(_found(call))

    async def picture(self, request: Request) -> Response:
        """The bytes of one picture of a call that succeeded."""
        call = await self._known(request)
        info = _picture_info(call, request.path_params["n"])
        etag = f'"{info.sha256}"'
        if _matches(request.headers.get("if-none-match"), etag):
            return Response(status_code=304, headers={"ETag": etag})
        content = await self._executor.picture(call.call_id, info.n)
        if content is None:
            raise _no_picture()
        return Response(content, media_type=info.content_type, headers={"ETag": etag})

    async def forget(self, request: Request) -> Response:
        """Drop the copy of a file; one that is not kept is no error."""
        sha256 = request.path_params["sha256"]
        if not _SHA256.fullmatch(sha256):
            raise Problem(404, "not_found", "A file is named by its sha256.")
        await self._executor.forget(sha256)
        return Response(status_code=204)

    async def models(self, request: Request) -> Response:
        """The models that calls may name."""
        return _json(await self._executor.served())

    async def healthz(self, request: Request) -> Response:
        """Whether this process answers; says nothing about models."""
        return JSONResponse({"status": "ok"})

    async def _known(self, request: Request) -> Call:
        return _found(await self._executor.call(request.path_params["call_id"]))

    async def _refuse_unservable(self, wanted: ImageRequest | LanguageRequest) -> None:
        model = catalog.find(wanted.model)
        if model is None:
            raise Problem(400, "unknown_model", f"There is no model {wanted.model[:100]!r}.")
        if model.id not in (await self._executor.served()).models:
            raise Problem(400, "model_unavailable", f"{model.id} is not served here.")
        if not isinstance(wanted, ImageRequest):
            return
        try:
            engine.check(model, wanted)
        except engine.UnsupportedParameter as error:
            raise Problem(
                400, error.code, f"{error}.", errors=[_at("request", error.field, detail=str(error))]
            ) from None


async def _body(request: Request) -> bytes:
    """The whole body; 413 as soon as it is known to be too long."""
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > BODY_LIMIT_BYTES:
        raise _too_large()
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > BODY_LIMIT_BYTES:
            raise _too_large()
    return bytes(body)


def _too_large() -> Problem:
    return Problem(413, "payload_too_large", f"A body has at most {BODY_LIMIT_BYTES} bytes.")


def _parsed(kind: type[SubmitCall], body: bytes) -> SubmitCall:
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        if any(found["loc"] == ("task",) and found["type"] == "literal_error" for found in error.errors()):
            raise _unsupported_task() from None
        raise _malformed(error) from None


def _request(call: SubmitCall) -> ImageRequest | LanguageRequest:
    kind = REQUESTS.get(call.task)
    if kind is None:
        raise _unsupported_task()
    try:
        return kind.model_validate(call.request)
    except ValidationError as error:
        raise _malformed(error, "request") from None


def _unsupported_task() -> Problem:
    return Problem(400, "unsupported_task", f"This service runs the tasks {', '.join(REQUESTS)}.")


def _malformed(error: ValidationError, *inside: str) -> Problem:
    """What is wrong and where; never the values themselves, which may be a user's words."""
    found = [_at(*inside, *map(str, e["loc"]), detail=e["msg"]) for e in error.errors(include_input=False)]
    detail = f"{found[0]['pointer']}: {found[0]['detail']}".removeprefix(": ")
    return Problem(422, "validation_failed", detail, errors=found)


def _at(*path: str, detail: str) -> dict[str, str]:
    return {"pointer": "".join(f"/{part}" for part in path), "detail": detail}


def _found(call: Call | None) -> Call:
    if call is None:
        raise Problem(404, "call_unknown", "There is no such call, or its result has expired.")
    return call


def _picture_info(call: Call, n: int) -> PictureInfo:
    if call.status not in ENDED:
        raise Problem(409, "call_not_ended", f"The call is {call.status}; it has no pictures yet.")
    for info in call.result.images if isinstance(call.result, ImageResult) else ():
        if info.n == n:
            return info
    raise _no_picture()


def _no_picture() -> Problem:
    return Problem(404, "picture_unknown", "The call has no such picture.")


def _matches(if_none_match: str | None, etag: str) -> bool:
    tags = [tag.strip().removeprefix("W/") for tag in (if_none_match or "").split(",")]
    return etag in tags or "*" in tags


def _json(message: BaseModel, status: int = 200) -> Response:
    return Response(message.model_dump_json(by_alias=True), status, media_type="application/json")


class _BearerToken:
    """Lets only callers through that show the token, on all but the open paths."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._expected = f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app: ASGIApp = self._app
        if scope["type"] == "http" and scope["path"] not in OPEN_PATHS and not self._shown(scope):
            app = _unauthenticated().answer()
        await app(scope, receive, send)

    def _shown(self, scope: Scope) -> bool:
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        shown = [value for name, value in headers if name == b"authorization"]
        return len(shown) == 1 and hmac.compare_digest(shown[0], self._expected)


def _unauthenticated() -> Problem:
    challenge = {"WWW-Authenticate": "Bearer"}
    return Problem(401, "unauthenticated", "The bearer token is missing or wrong.", headers=challenge)


async def _known(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return error.answer()


async def _from_framework(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = HTTPStatus(error.status_code).name.lower()
    return Problem(error.status_code, code, str(error.detail), headers=dict(error.headers or {})).answer()


async def _unknown(request: Request, error: Exception) -> Response:
    return Problem(500, "internal_error", "Something broke in the GPU service; its log says what.").answer()
