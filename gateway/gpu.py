"""Client of the GPU service. It does not know which of the two servers answers.

GpuError
├── GpuUnreachable   no answer, or one that says nothing: the same request may be sent again
│   └── GpuUnauthenticated   it does not take our token: until somebody corrects it
├── GpuBusy          503, with the seconds to wait
├── GpuRefused       the service refuses this request; sending it again changes nothing
└── CallUnknown      the service knows no such call: it died, or the result has expired
"""

import asyncio
import json
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
import httpx
import structlog
from pydantic import ValidationError

from gateway import tracing
from gateway.config import Settings
from gateway.metrics.process import GPU_REQUESTS
from modal_app import contract

log = structlog.get_logger()

M = TypeVar("M", bound=contract.Message)

_IDS = re.compile(r"(/calls/|/images/)[^/]+")

TIMEOUT = aiohttp.ClientTimeout(connect=30.0, sock_connect=5.0, sock_read=30.0)
CONNECTIONS = 32
ANSWER_LIMIT_BYTES = 4 * 2**20
PICTURE_LIMIT_BYTES = 64 * 2**20
MODELS_REMEMBERED_SECONDS = 30.0


class GpuError(Exception):
    pass


class GpuUnreachable(GpuError):
    pass


class GpuUnauthenticated(GpuUnreachable):
    pass


class GpuBusy(GpuError):
    def __init__(self, retry_after: float) -> None:
        super().__init__(f"busy, try again in {retry_after:g} s")
        self.retry_after = retry_after


class GpuRefused(GpuError):
    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class CallUnknown(GpuError):
    pass


class GpuClient:
    """One HTTP connection pool to the service. ``async with GpuClient(settings) as gpu: ...``"""

    def __init__(self, settings: Settings) -> None:
        self._endpoint = settings.modal_generate_endpoint.rstrip("/")
        self._credentials = _credentials(settings)
        self._served: contract.ServedModels | None = None
        self._ask_again_at = 0.0
        self._asking = asyncio.Lock()

    async def __aenter__(self) -> "GpuClient":
        self._http = _session(self._endpoint, self._credentials)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._http.close()

    async def submit(self, key: str, task: str, request: dict[str, Any]) -> str:
        """Ask for a run and return its call id; the same key always answers the same call."""
        body = {"schema": contract.SCHEMA, "key": key, "task": task, "request": request}
        answer = await self._send("POST", "/calls", body=body)
        return _parsed(contract.CallAccepted, answer).call_id

    async def call(self, call_id: str) -> contract.Call:
        return _parsed(contract.Call, await self._send("GET", f"/calls/{call_id}"))

    async def cancel(self, call_id: str) -> contract.Call:
        return _parsed(contract.Call, await self._send("DELETE", f"/calls/{call_id}"))

    async def forget(self, sha256: str) -> None:
        """Have the service drop its copy of a file that it was given to draw from."""
        await self._send("DELETE", f"/files/{sha256}", seconds=5.0)

    async def forget_all(self, hashes: Sequence[str]) -> None:
        """The same for many, while it answers; what it keeps of the rest gives way to newer files."""
        for n, sha256 in enumerate(hashes):
            try:
                await self.forget(sha256)
            except GpuError as error:
                log.warning("copies_not_removed", count=len(hashes) - n, error=str(error))
                return

    async def picture(self, call_id: str, n: int) -> bytes:
        """The bytes of the n-th picture, at most ``PICTURE_LIMIT_BYTES``."""
        return await self._send("GET", f"/calls/{call_id}/images/{n}", limit_bytes=PICTURE_LIMIT_BYTES)

    async def served(self) -> contract.ServedModels | None:
        """What the service draws with, remembered for a while; None when it has never answered."""
        async with self._asking:
            if time.monotonic() >= self._ask_again_at:
                self._ask_again_at = time.monotonic() + MODELS_REMEMBERED_SECONDS
                try:
                    self._served = await self.ask_models(seconds=2.0)
                except GpuError:
                    self._ask_again_at = time.monotonic() + 1.0
            return self._served

    async def ask_models(self, seconds: float = 30.0) -> contract.ServedModels:
        """What the service draws with, asked now; GpuError when it does not tell."""
        return _parsed(contract.ServedModels, await self._send("GET", "/models", seconds=seconds))

    @property
    def known(self) -> contract.ServedModels | None:
        """What ``served`` last heard."""
        return self._served

    async def healthy(self) -> None:
        """Returns when the service answers; GpuError otherwise."""
        await self._send("GET", "/healthz", seconds=2.0)

    async def _send(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        seconds: float | None = None,
        limit_bytes: int = ANSWER_LIMIT_BYTES,
    ) -> bytes:
        """The body of a successful answer; ``seconds`` for all of it."""
        timeout = aiohttp.ClientTimeout(total=seconds) if seconds else TIMEOUT
        with _watched(method, path) as watch:
            try:
                async with self._http.request(
                    method,
                    self._endpoint + path,
                    json=body,
                    headers=tracing.headers(),
                    timeout=timeout,
                    allow_redirects=False,
                ) as answer:
                    watch.status = answer.status
                    content = bytearray()
                    async for part in answer.content.iter_any():
                        content += part
                        if len(content) > limit_bytes:
                            raise GpuRefused("answer_too_large", f"An answer exceeds {limit_bytes} bytes.")
            except (aiohttp.ClientError, TimeoutError) as error:
                raise GpuUnreachable(f"no answer ({type(error).__name__})") from error
        if not 200 <= answer.status < 300:
            raise _error_of(answer, bytes(content))
        return bytes(content)


@dataclass
class _Watch:
    status: int = 0


@contextmanager
def _watched(method: str, path: str) -> Iterator[_Watch]:
    """One request, as a span and in the metrics."""
    route = _IDS.sub(r"\1{id}", path)
    watch, started = _Watch(), time.perf_counter()
    try:
        with tracing.span(f"gpu {method} {route}", "client"):
            yield watch
    finally:
        GPU_REQUESTS.labels(method, route, watch.status).observe(time.perf_counter() - started)


def _session(endpoint: str, headers: dict[str, str]) -> aiohttp.ClientSession:
    """Trusts whom httpx trusts elsewhere, and goes through the proxy that the environment names.

    Both are found once: aiohttp's ``trust_env`` would look them up at every request.
    """
    parts = urlsplit(endpoint)
    trust = httpx.create_ssl_context() if parts.scheme == "https" else True
    direct = not parts.hostname or proxy_bypass(parts.hostname)
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=CONNECTIONS, ssl=trust),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers=headers,
        timeout=TIMEOUT,
        proxy=None if direct else getproxies().get(parts.scheme),
    )


def _credentials(settings: Settings) -> dict[str, str]:
    """Modal's proxy checks its own two headers; the local service a shared token."""
    headers = {
        "Modal-Key": settings.modal_key.get_secret_value(),
        "Modal-Secret": settings.modal_secret.get_secret_value(),
        "Authorization": f"Bearer {settings.gpu_token.get_secret_value()}",
    }
    return {name: value for name, value in headers.items() if value.removeprefix("Bearer ")}


def _error_of(answer: aiohttp.ClientResponse, content: bytes) -> GpuError:
    """What an unsuccessful answer means."""
    try:
        facts = json.loads(content)
    except ValueError:
        facts = {}
    facts = facts if isinstance(facts, dict) else {}
    code = str(facts.get("code", f"http_{answer.status}"))
    message = str(facts.get("detail", content[:200].decode(errors="replace")))
    if answer.status == 404:
        return CallUnknown(message)
    if answer.status == 503:
        return GpuBusy(_seconds(answer.headers.get("Retry-After")))
    if answer.status in (400, 413, 422):
        return GpuRefused(code, message)
    error = GpuUnauthenticated if answer.status in (401, 403) else GpuUnreachable
    return error(f"{answer.status} {code}: {message}")


def _seconds(retry_after: str | None) -> float:
    try:
        return min(60.0, max(0.1, float(retry_after or 1)))
    except ValueError:
        return 1.0


def _parsed(kind: type[M], answer: bytes) -> M:
    try:
        return kind.model_validate_json(answer)
    except ValidationError as error:
        raise GpuUnreachable(f"not an answer of the GPU service: {error.error_count()} errors") from error
