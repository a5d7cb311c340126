"""What servers of others draw when they stand beside the gateway: a card of the instant engine, as JSON."""

import base64
from typing import Any

from modal_app import catalog
from modal_app.contract import ImageRequest
from modal_app.engine import instant
from modal_app.work import encoded


class Drawing:
    def __init__(self) -> None:
        model = catalog.find("instant")
        assert model is not None
        self._engine = instant.load(model)

    def of(self, request: dict[str, Any]) -> dict[str, str]:
        wanted = ImageRequest.model_validate(request)
        drawing = self._engine.run(wanted, {}, lambda *_: None, lambda: False)
        (content,) = encoded(wanted, drawing, recipe_secret="")
        return {"b64_json": base64.b64encode(content).decode()}
