"""One address in front of several gateways: each request goes to one of them, by chance."""

import contextlib
import random
from collections import Counter
from collections.abc import AsyncIterator, Sequence

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from tests.support.stack import serve

METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]
OF_THE_CONNECTION = ("connection", "keep-alive", "transfer-encoding", "date", "server")


class Balancer:
    """Passes everything on as it is, streams included; ``served`` counts by gateway."""

    def __init__(self, seed: int) -> None:
        self.gateways: Sequence[str] = ()
        self.served: Counter[str] = Counter()
        self._chance = random.Random(seed)
        self._http = httpx.AsyncClient(timeout=httpx.Timeout(30, read=None), trust_env=False)
        self.app = Starlette(routes=[Route("/{path:path}", self._pass_on, methods=METHODS)])

    async def _pass_on(self, request: Request) -> Response:
        gateway = self._chance.choice(self.gateways)
        self.served[gateway] += 1
        url = httpx.URL(gateway).copy_with(raw_path=_raw_path(request))
        asked = self._http.build_request(
            request.method, url, headers=request.headers.raw, content=await request.body()
        )
        answer = await self._http.send(asked, stream=True)
        response = StreamingResponse(_body(answer), answer.status_code)
        response.raw_headers = [
            (name.lower(), value)
            for name, value in answer.headers.raw
            if name.lower().decode() not in OF_THE_CONNECTION
        ]
        return response


@contextlib.asynccontextmanager
async def balancer(port: int, seed: int = 0) -> AsyncIterator[Balancer]:
    made = Balancer(seed)
    async with serve(made.app, port):
        yield made


def _raw_path(request: Request) -> bytes:
    query: bytes = request.scope["query_string"]
    path: bytes = request.scope["raw_path"]
    return path + (b"?" + query if query else b"")


async def _body(answer: httpx.Response) -> AsyncIterator[bytes]:
    try:
        async for part in answer.aiter_raw():
            yield part
    finally:
        await answer.aclose()
