"""What every request passes on its way in: an id, a size limit, a log line, a place in the metrics."""

import re
import time
import uuid
from collections.abc import Mapping, MutableMapping
from typing import Any

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway import tracing
from gateway.errors import PayloadTooLarge, problem
from gateway.logs import REQUEST_ID
from gateway.metrics.process import HTTP_SECONDS, STREAMS_OPEN
from gateway.rates import Standing
from gateway.storage import LIMIT_BYTES

log = structlog.get_logger()

JSON_LIMIT_BYTES = 1_000_000
MULTIPART_LIMIT_BYTES = 64_000_000
_METHODS = {name: name for name in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")}
"""Others are strangers' inventions, and every new one would be a new series."""
_REQUEST_ID = re.compile(r"[A-Za-z0-9_.:-]{1,128}")


class Intake:
    """ASGI middleware: gives a request its id, counts its bytes, and logs how it went."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        request_id = _request_id(headers.get("x-request-id"))
        scope.setdefault("state", {})["request_id"] = request_id
        answer = _Answer(send, request_id, scope["state"])
        REQUEST_ID.set(request_id)
        with tracing.request_span(headers.get("traceparent"), scope["method"]):
            await self._serve(scope, receive, answer, headers)

    async def _serve(self, scope: Scope, receive: Receive, answer: "_Answer", headers: Headers) -> None:
        limit = _limit(scope, headers)
        try:
            if _declared_length(headers) > limit:
                refusal = problem(Request(scope), PayloadTooLarge(f"A body has at most {limit} bytes here."))
                await refusal(scope, receive, answer)
            else:
                await self._app(scope, _Counted(receive, limit), answer)
        finally:
            _tell(scope, answer)


class _Counted:
    """``receive`` that stops at the limit: a body may lie about its length, or not tell it."""

    def __init__(self, receive: Receive, limit: int) -> None:
        self._receive = receive
        self._left = limit

    async def __call__(self) -> Message:
        message = await self._receive()
        self._left -= len(message.get("body", b""))
        if self._left < 0:
            raise HTTPException(413, "The body is too large.")
        return message


class _Answer:
    """``send`` that adds the request id and the caller's rate, and remembers what was told and when."""

    def __init__(self, send: Send, request_id: str, state: Mapping[str, Any]) -> None:
        self._state = state
        self._send = send
        self._request_id = request_id
        self._started = time.perf_counter()
        self._begun: float | None = None
        self.status = 0
        self.is_stream = False

    async def __call__(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(raw=message["headers"])
            headers["x-request-id"] = self._request_id
            rate: Standing | None = self._state.get("rate")
            headers.update(rate.headers if rate else {})
            self._begin(message["status"], headers.get("content-type", ""))
        await self._send(message)

    @property
    def seconds(self) -> float:
        """So far."""
        return time.perf_counter() - self._started

    @property
    def seconds_to_begin(self) -> float:
        return self.seconds if self._begun is None else self._begun

    def _begin(self, status: int, content_type: str) -> None:
        self.status, self._begun = status, self.seconds
        self.is_stream = content_type.startswith("text/event-stream")
        if self.is_stream:
            STREAMS_OPEN.inc()


def _tell(scope: Scope, answer: _Answer) -> None:
    """The route as it is declared, never the address itself: some carry a signature or somebody's words."""
    method, route = scope["method"], _route(scope)
    if answer.is_stream:
        STREAMS_OPEN.dec()
    HTTP_SECONDS.labels(_METHODS.get(method, "other"), route, answer.status).observe(answer.seconds_to_begin)
    tracing.end_request(method, route, answer.status)
    log.info("request", method=method, route=route, status=answer.status, ms=round(answer.seconds * 1000, 1))


def _route(scope: Scope) -> str:
    """Template of the matched route; a mounted folder's place; for the rest one word, as there are many."""
    path = getattr(scope.get("route"), "path", None)
    mounted = f"{scope['root_path']}/*" if scope.get("root_path") else "unmatched"
    return str(path or mounted)


def _request_id(wanted: str | None) -> str:
    return wanted if wanted and _REQUEST_ID.fullmatch(wanted) else uuid.uuid4().hex


def _limit(scope: Scope, headers: Headers) -> int:
    if scope["method"] == "PUT" and scope["path"].startswith("/files/"):
        return max(LIMIT_BYTES.values())  # the signed address itself says how much it takes
    multipart = headers.get("content-type", "").startswith("multipart/")
    return MULTIPART_LIMIT_BYTES if multipart else JSON_LIMIT_BYTES


def _declared_length(headers: Headers) -> int:
    length = headers.get("content-length", "0")
    return int(length) if length.isascii() and length.isdigit() else 0
