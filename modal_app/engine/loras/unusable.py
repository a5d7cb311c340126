"""A LoRA that stops a run."""

from modal_app.catalog.loras import InvalidLora
from modal_app.engine import EngineError


class UnusableLora(InvalidLora, EngineError):
    """``reason`` is that of ``InvalidLora``."""
