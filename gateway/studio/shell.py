"""What is around every page: who is signed in, what is spent, and what is shown where the API refuses."""

import datetime
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.routing import APIRoute
from starlette.responses import Response

from gateway.studio.api import Api, Json, Refused, SignedOut
from gateway.studio.rendering import render


class Page:
    """A page for whoever is signed in, and the shell around it."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.api = Api(request)

    async def show(self, template: str, **context: Any) -> Response:
        return render(self.request, template, {**context, **await self._shell()})

    def part(self, template: str, **context: Any) -> Response:
        """A piece of a page, for the script to put in its place."""
        return render(self.request, template, context)

    async def at_work(self) -> Json:
        """Today's costs, and how many jobs have not ended."""
        spent, queued, running = await self.api.all(
            self.api.get("/v1/usage", **{"from": today().isoformat()}),
            self.api.get("/v1/jobs", status="queued", limit=50),
            self.api.get("/v1/jobs", status="processing", limit=50),
        )
        return {"today": spent["total"], "at_work": len(queued["data"]) + len(running["data"])}

    async def _shell(self) -> Json:
        session, at_work = await self.api.all(self.api.get("/v1/session"), self.at_work())
        return {"session": session, **at_work}


class PageRoute(APIRoute):
    """Whoever is not signed in gets the gate at the same address; what the API refuses is a page, too."""

    def get_route_handler(self) -> Callable[[Request], Any]:
        handle = super().get_route_handler()

        async def handled(request: Request) -> Response:
            try:
                response: Response = await handle(request)
            except SignedOut:
                return await _gate(request)
            except Refused as refused:
                status = 404 if refused.status == 422 else refused.status
                return render(request, "refused.html", {"problem": refused.problem}, status)
            return response

        return handled


async def _gate(request: Request) -> Response:
    methods = await Api(request).get("/v1/session/methods")
    error = request.query_params.get("sign_in_error", "")
    return render(
        request, "gate.html", {"methods": methods["methods"], "mode": methods["mode"], "error": error}
    )


OnPage = Annotated[Page, Depends(Page)]


def today() -> datetime.date:
    """Days of the ledger are UTC's."""
    return datetime.datetime.now(datetime.UTC).date()
