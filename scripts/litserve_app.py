"""LitServe with the instant engine: what a job from request to picture is measured beside.

``PORT=... python -m scripts.litserve_app``.  One worker draws the same card from the same engine and answers
it as base64 in JSON.  Nothing is kept, nobody asks who is calling, and a picture that was drawn for a client
that has left is lost: that is the work which the gateway does besides.
"""

import base64
import os
from typing import Any

import litserve

from modal_app import catalog
from modal_app.contract import ImageRequest
from modal_app.engine import instant
from modal_app.work import encoded


class Draw(litserve.LitAPI):  # type: ignore[misc]
    def setup(self, device: str) -> None:
        model = catalog.find("instant")
        assert model is not None
        self._engine = instant.load(model)

    def predict(self, request: dict[str, Any]) -> dict[str, str]:
        wanted = ImageRequest.model_validate(request)
        drawing = self._engine.run(wanted, {}, lambda *_: None, lambda: False)
        (content,) = encoded(wanted, drawing, recipe_secret="")
        return {"b64_json": base64.b64encode(content).decode()}


if __name__ == "__main__":
    server = litserve.LitServer(Draw(), accelerator="cpu", healthcheck_path="/healthz")
    server.run(
        host="127.0.0.1", port=int(os.environ["PORT"]), generate_client_file=False, log_level="warning"
    )
