"""From a request to pictures.  Knows no queue, no HTTP and no files but the model's own.

``load(model)`` gives the ``Engine`` of a row of the catalog; importing this package imports no torch.

    EngineError
    ├── Canceled               nobody wants the pictures any more
    ├── UnsupportedParameter   the model does not understand a field of the request
    └── LoadFailed             the weights are missing or do not load
"""

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from modal_app.catalog import Family, Model, Size
from modal_app.contract import ImageRequest

if TYPE_CHECKING:
    from PIL.Image import Image

_MODULES: dict[Family, str] = {
    "instant": "modal_app.engine.instant",
    "qwen": "modal_app.engine.qwen",
}


class EngineError(Exception):
    """A run that ended without pictures; ``code`` is stable, ``retryable`` says whether to try again."""

    code = "engine_failed"
    retryable = False


class Canceled(EngineError):
    code = "canceled"


class UnsupportedParameter(EngineError):
    code = "unsupported_parameter"

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class LoadFailed(EngineError):
    code = "model_load_failed"
    retryable = True


@dataclass(frozen=True)
class Picture:
    """One picture, RGB, at the requested size, and the seed that draws it again."""

    image: "Image"
    seed: int


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """What a run leaves behind: picture ``n`` of the request at index ``n``."""

    pictures: list[Picture]
    native_size: Size
    """(width, height) in pixels at which the model drew, before resampling."""
    resampling: Literal["none", "lanczos"]
    fingerprint: dict[str, Any]
    """What a picture's bytes depend on beside the request; equal fingerprints promise equal bytes."""


OnStep = Callable[[int, int], None]
"""``on_step(step, steps)``: ``step`` of ``steps`` is done, counted over all pictures of the request."""


class Engine(Protocol):
    """A loaded model.  One thread at a time; a canceled or failed run leaves no trace in later ones."""

    def run(self, request: ImageRequest, on_step: OnStep, cancelled: Callable[[], bool]) -> Drawing:
        """Draw the request.  Canceled soon after ``cancelled()`` turns true, at the latest a step later."""
        ...


def load(model: Model) -> Engine:
    """The engine of a row, loaded; LoadFailed when its weights are missing or do not load."""
    if not servable(model):
        raise LoadFailed(f"the weights of {model.id} are not on this machine")
    try:
        engine: Engine = importlib.import_module(_MODULES[model.family]).load(model)
    except Exception as error:
        raise LoadFailed(f"{model.id} does not load: {type(error).__name__}") from error
    return engine


def servable(model: Model) -> bool:
    """Whether this machine has what the model needs: nothing, or its weights and the libraries."""
    if not model.checkpoint:
        return True
    return checkpoint_folder(model).is_dir() and importlib.util.find_spec("diffusers") is not None


def checkpoint_folder(model: Model) -> Path:
    """Where the row's weights lie; the folder may be missing."""
    return Path(__file__).parent / model.checkpoint


def check(model: Model, request: ImageRequest) -> None:
    """UnsupportedParameter when the request sets a field that the model's row does not list."""
    defaults = {
        "negative_prompt": "",
        "guidance_scale": None,
        "true_cfg_scale": model.true_cfg_scale,
        "num_inference_steps": model.num_inference_steps,
    }
    for field, default in defaults.items():
        if field not in model.supports and getattr(request, field) not in (None, default):
            raise UnsupportedParameter(field, f"{model.id} does not support {field}")
    if request.num_inference_steps > model.max_inference_steps:
        raise UnsupportedParameter(
            "num_inference_steps", f"{model.id} takes num_inference_steps up to {model.max_inference_steps}"
        )
