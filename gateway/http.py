"""What every request passes on its way in: an id, a size limit, a log line."""

import re
import time
import uuid
from collections.abc import MutableMapping
from typing import Any

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.errors import PayloadTooLarge, problem
from gateway.logs import REQUEST_ID
from gateway.storage import LIMIT_BYTES

log = structlog.get_logger()

JSON_LIMIT_BYTES = 1_000_000
MULTIPART_LIMIT_BYTES = 64_000_000
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
        limit = _limit(scope, headers)
        answer = _Answer(send, request_id)
        started = time.perf_counter()
        REQUEST_ID.set(request_id)
        if _declared_length(headers) > limit:
            refusal = problem(Request(scope), PayloadTooLarge(f"A body has at most {limit} bytes here."))
            await refusal(scope, receive, answer)
        else:
            await self._app(scope, _Counted(receive, limit), answer)
        milliseconds = round((time.perf_counter() - started) * 1000, 1)
        log.info("request", method=scope["method"], path=scope["path"], status=answer.status, ms=milliseconds)


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
    """``send`` that adds the request id and remembers the status."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self._request_id = request_id
        self.status = 0

    async def __call__(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            MutableHeaders(raw=message["headers"])["x-request-id"] = self._request_id
        await self._send(message)


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
