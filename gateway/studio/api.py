"""The public API, asked as the browser's user: with its cookie, and never a header that grants more."""

import asyncio
from typing import Any
from urllib.parse import quote

import httpx
from fastapi import Request

FORWARDED = ("cookie", "origin", "sec-fetch-site", "x-request-id")
TIMEOUT_SECONDS = 20.0

Json = dict[str, Any]


class SignedOut(Exception):
    """The browser has no login, or no longer."""


class Refused(Exception):
    """The API's problem, for a page to show."""

    def __init__(self, status: int, problem: Json) -> None:
        super().__init__(problem.get("detail", ""))
        self.status = status
        self.problem = problem


class Api:
    """Reads; what changes something the browser sends itself."""

    def __init__(self, request: Request) -> None:
        headers = {name: request.headers[name] for name in FORWARDED if name in request.headers}
        headers["x-request-id"] = request.state.request_id
        client = (request.client.host, request.client.port) if request.client else ("", 0)
        self._http = httpx.AsyncClient(
            transport=httpx.ASGITransport(request.app, raise_app_exceptions=False, client=client),
            base_url=str(request.base_url),
            headers=headers,
            timeout=TIMEOUT_SECONDS,
            trust_env=False,
        )

    async def get(self, path: str, **query: Any) -> Json:
        """The answer; SignedOut or Refused where it is none."""
        asked = {name: value for name, value in query.items() if value not in (None, "")}
        answer = await self._http.get(path, params=asked)
        if answer.status_code == 401:
            raise SignedOut
        if not answer.is_success:
            raise Refused(answer.status_code, _problem(answer))
        return dict(answer.json())

    async def state(self, path: str) -> Json:
        """The answer whatever its status: of a health check, a failure is one too."""
        return dict((await self._http.get(path)).json())

    async def some(self, path: str, **query: Any) -> Json:
        """A list; an empty one where this gateway has no such thing."""
        try:
            return await self.get(path, **query)
        except Refused as refused:
            if refused.status != 404:
                raise
            return {"data": [], "has_more": False, "last_id": None, "missing": True}

    async def all(self, *asked: Any) -> list[Any]:
        """Several at once, in order."""
        return list(await asyncio.gather(*asked))


def segment(text: str) -> str:
    """Part of a path: what a user typed into the address bar stays one part."""
    return quote(text, safe="")


def _problem(answer: httpx.Response) -> Json:
    try:
        return dict(answer.json())
    except ValueError:
        return {"detail": f"The API answered {answer.status_code}.", "title": "That did not work"}
