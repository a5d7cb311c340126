"""BentoML's task queue with the instant engine: what a job from request to picture is measured beside.

``PORT=... python -m scripts.bento_app``.  A task's request and result are rows of SQLite; a client
hands a task in, asks how it is, and fetches what came of it.  A task that was running when the server died
stays "in progress", nobody asks who is calling, and nothing is counted: that is the work which the gateway
does besides.
"""

import os
import sys
from typing import Any

import bentoml

from scripts.instant_drawing import Drawing


@bentoml.service(workers=1, logging={"access": {"enabled": False}})
class Draw:
    def __init__(self) -> None:
        self._drawing = Drawing()

    @bentoml.task
    def draw(self, request: dict[str, Any]) -> dict[str, str]:
        return self._drawing.of(request)


if __name__ == "__main__":
    place = ("--host", "127.0.0.1", "--port", os.environ["PORT"])
    command = [sys.executable, "-m", "bentoml", "serve", "scripts.bento_app:Draw", *place]
    os.execv(sys.executable, command)  # noqa: S606 - nothing but our own arguments
