"""BentoML's task queue with the instant engine: what a job from request to picture is measured beside.

``PORT=... python -m scripts.bento_app``.  A task's request and result are rows of SQLite; a client
hands a task in, asks how it is, and fetches what came of it.  A task that was running when the server died
stays "in progress", nobody asks who is calling, and nothing is counted: that is the work which the gateway
does besides.
"""

import base64
import os
import sys
from typing import Any

import bentoml

from modal_app import catalog
from modal_app.contract import ImageRequest
from modal_app.engine import instant
from modal_app.work import encoded


@bentoml.service(workers=1, logging={"access": {"enabled": False}})
class Draw:
    def __init__(self) -> None:
        model = catalog.find("instant")
        assert model is not None
        self._engine = instant.load(model)

    @bentoml.task
    def draw(self, request: dict[str, Any]) -> dict[str, str]:
        wanted = ImageRequest.model_validate(request)
        drawing = self._engine.run(wanted, {}, lambda *_: None, lambda: False)
        (content,) = encoded(wanted, drawing, recipe_secret="")
        return {"b64_json": base64.b64encode(content).decode()}


if __name__ == "__main__":
    place = ("--host", "127.0.0.1", "--port", os.environ["PORT"])
    command = [sys.executable, "-m", "bentoml", "serve", "scripts.bento_app:Draw", *place]
    os.execv(sys.executable, command)  # noqa: S606 - nothing but our own arguments
