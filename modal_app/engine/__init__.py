"""From a request to pictures.  Knows no queue, no HTTP and no files but the model's own.

``load(model)`` gives the ``Engine`` of a row of the catalog; importing this package imports no torch.

    EngineError
    ├── Canceled               nobody wants the pictures any more
    ├── UnsupportedParameter   the model does not understand a field of the request
    ├── InvalidPicture         a reference or a mask is no picture that can be used (``inputs``)
    ├── InvalidLora            a LoRA file is broken, or made for another model (``loras``)
    └── LoadFailed             the weights are missing or do not load
"""

import importlib
import importlib.util
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from modal_app.catalog import (
    Capability,
    Family,
    Model,
    Size,
    UnsupportedHardware,
    as_variant,
    choose_variant,
)
from modal_app.contract import ImageRequest, LanguageRequest, LanguageResult

if TYPE_CHECKING:
    from PIL.Image import Image

_MODULES: dict[Family, str] = {
    "instant": "modal_app.engine.instant",
    "qwen": "modal_app.engine.qwen",
    "qwen21": "modal_app.engine.qwen21",
    "flux": "modal_app.engine.flux",
    "sdxl": "modal_app.engine.stable_diffusion",
    "sd1": "modal_app.engine.stable_diffusion",
}


@dataclass(frozen=True)
class Options:
    """What an operator may set for all engines of a process."""

    model_cache: Path = Path(".data/models")
    """Folder of fetched checkpoints, a folder each of the repository's name with ``--`` for the slash."""
    accepted_licenses: frozenset[str] = frozenset()
    """Ids of models whose licence the operator has read and accepted, of those that ask for it."""
    quant: str | None = None
    """A kind of weights to insist on; None: what the GPU runs best."""
    compile: bool = False
    """Compile the repeated blocks of the denoiser: minutes at the first picture, for the ones after it."""
    step_cache_threshold: float = 0.0
    """Skip most of a step that changes less than this, in runs of many steps; 0 never does."""
    caches: bool = True
    """Keep words that were said, and references that were encoded or read, for the pictures after this one.
    Without it each is computed whole and is the same to the byte: to compare, and to save memory."""


options = Options()

forgettings = 0
"""Grows, in any thread, when a picture is to be forgotten: who keeps what was computed from pictures compares
it with the one seen last, and drops everything first."""


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


@runtime_checkable
class Viewer(Protocol):
    """An ``OnStep`` that also wants to see the pictures while they are drawn."""

    def __call__(self, step: int, steps: int) -> None: ...

    def look(self, n: int, picture: Callable[[], "Image"]) -> None:
        """Picture ``n`` may be looked at; ``picture`` makes it, which takes a moment."""
        ...


def show(on_step: OnStep, n: int, picture: Callable[[], "Image"]) -> None:
    """Let whoever follows the steps have a look at picture ``n``, if they care."""
    if isinstance(on_step, Viewer):
        on_step.look(n, picture)


Files = Mapping[str, Path]
"""The files that a request names, by their sha256; fetched and checked before the run."""


class Engine(Protocol):
    """A loaded model.  One thread at a time; a canceled or failed run leaves no trace in later ones."""

    def run(
        self, request: ImageRequest, files: Files, on_step: OnStep, cancelled: Callable[[], bool]
    ) -> Drawing:
        """Draw the request.  Canceled soon after ``cancelled()`` turns true, at the latest a step later."""
        ...


@dataclass(frozen=True)
class Item:
    """One of the requests that run together: the arguments of ``Engine.run``."""

    request: ImageRequest
    files: Files
    on_step: OnStep
    cancelled: Callable[[], bool]


@runtime_checkable
class BatchEngine(Engine, Protocol):
    """Draws several requests at once, each as if it were alone."""

    def batch_key(self, request: ImageRequest) -> Hashable | None:
        """Requests of one key may run together; None runs alone."""
        ...

    def run_batch(self, items: Sequence[Item]) -> list[Drawing | Canceled]:
        """What became of each item."""
        ...


@runtime_checkable
class LanguageEngine(Engine, Protocol):
    """Has a vision-language model among its parts, which also does the language tasks."""

    def answer(
        self, request: LanguageRequest, files: Files, cancelled: Callable[[], bool]
    ) -> LanguageResult: ...


def load(model: Model) -> Engine:
    """The engine of a row, loaded; LoadFailed when its weights are missing or do not load.

    Of the row's variants it is the one that this machine's GPU runs best, or its CPU.
    """
    if not servable(model):
        raise LoadFailed(f"the weights of {model.id} are not on this machine")
    try:
        if model.variants:
            model = as_variant(model, choose_variant(model, _capability(), quant=options.quant))
        engine: Engine = importlib.import_module(_MODULES[model.family]).load(model)
    except Exception as error:
        reason = str(error) if isinstance(error, UnsupportedHardware) else type(error).__name__
        raise LoadFailed(f"{model.id} does not load: {reason}") from error
    return engine


def _capability() -> Capability | None:
    import torch  # noqa: PLC0415 - only where something is loaded

    return torch.cuda.get_device_capability() if torch.cuda.is_available() else None


def servable(model: Model) -> bool:
    """Whether this machine has what the model needs: nothing, or some of its weights and the libraries.

    A model whose licence has to be accepted is not served before it was.
    """
    if model.family not in _MODULES or not importlib.util.find_spec("diffusers"):
        return model.family == "instant"
    if model.needs_acceptance and model.id not in options.accepted_licenses:
        return False
    if not model.variants:
        return True
    folders = (checkpoint_folder(as_variant(model, variant)) for variant in model.variants)
    return any(folder.is_dir() and _is_complete(folder) for folder in folders)


def _is_complete(folder: Path) -> bool:
    """What comes with the code is; what is fetched gets its manifest last."""
    return folder.is_relative_to(Path(__file__).parent) or (folder / "manifest.json").is_file()


def checkpoint_folder(model: Model) -> Path:
    """Where the row's weights lie; the folder may be missing."""
    bundled = any(each.bundled and each.repository == model.checkpoint for each in model.variants)
    return Path(__file__).parent / model.checkpoint if bundled else hub_folder(model.checkpoint)


def hub_folder(repository: str) -> Path:
    """Where what is fetched from a Hub repository lies."""
    return options.model_cache / (repository if repository.startswith("/") else repository.replace("/", "--"))


def check(model: Model, request: ImageRequest) -> None:
    """UnsupportedParameter when the request sets a field that the model's row does not list."""
    defaults: dict[str, Any] = {
        "negative_prompt": "",
        "guidance_scale": None,
        "true_cfg_scale": model.true_cfg_scale,
        "num_inference_steps": model.num_inference_steps,
        "strength": None,
        "mask": None,
        "loras": [],
    }
    for field, default in defaults.items():
        if field not in model.supports and getattr(request, field) not in (None, default):
            raise UnsupportedParameter(field, f"{model.id} does not support {field}")
    if request.num_inference_steps > model.max_inference_steps:
        raise UnsupportedParameter(
            "num_inference_steps", f"{model.id} takes num_inference_steps up to {model.max_inference_steps}"
        )
    _check_sampling(model, request)
    _check_references(model, request)


def _check_sampling(model: Model, request: ImageRequest) -> None:
    if request.sampler is not None and request.sampler not in model.samplers:
        known = (
            f"knows the samplers {', '.join(sorted(model.samplers))}"
            if model.samplers
            else "has only its own"
        )
        raise UnsupportedParameter("sampler", f"{model.id} {known}")
    if request.clip_skip is not None and model.clip_skip is None:
        raise UnsupportedParameter("clip_skip", f"{model.id} does not support clip_skip")


def _check_references(model: Model, request: ImageRequest) -> None:
    roles = [use.role for use in request.references]
    if len(roles) > model.max_references:
        raise UnsupportedParameter("references", f"{model.id} takes up to {model.max_references} references")
    for role in roles:
        if role not in model.roles:
            raise UnsupportedParameter("references", f"{model.id} does not support references as {role}")
    if roles.count("init") > 1:
        raise UnsupportedParameter("references", "only one reference can be the init picture")
    if request.strength is not None and "init" not in roles and request.mask is None:
        raise UnsupportedParameter("strength", "strength needs an init picture or a mask")
    if request.mask is not None and not roles:
        raise UnsupportedParameter("mask", "a mask needs the picture it lies on")
