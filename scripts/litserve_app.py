"""LitServe with the instant engine: what a job from request to picture is measured beside.

``PORT=... python -m scripts.litserve_app``.  One worker draws the same card from the same engine and answers
it as base64 in JSON.  Nothing is kept, nobody asks who is calling, and a picture that was drawn for a client
that has left is lost: that is the work which the gateway does besides.
"""

import os
from typing import Any

import litserve

from scripts.instant_drawing import Drawing


class Draw(litserve.LitAPI):  # type: ignore[misc]
    def setup(self, device: str) -> None:
        self._drawing = Drawing()

    def predict(self, request: dict[str, Any]) -> dict[str, str]:
        return self._drawing.of(request)


if __name__ == "__main__":
    server = litserve.LitServer(Draw(), accelerator="cpu", healthcheck_path="/healthz")
    server.run(
        host="127.0.0.1", port=int(os.environ["PORT"]), generate_client_file=False, log_level="warning"
    )
