"""What a GPU container does with a call.  Plain Python: knows nothing of Modal, and runs in tests as it is.

A call that cannot be carried out is an answer, so that it is never paid for twice.  Only a GPU that broke
is an error: ``GpuBroken`` leaves the container, which then takes no other call.
"""

import importlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from modal_app import engine
from modal_app.calls import Order, Outcome, over_limit
from modal_app.contract import Call, CallError, CallStatus, ImageRequest, LanguageResult, Timing
from modal_app.previews import Looks
from modal_app.reporter import Board, Reporter
from modal_app.residence import Engines, priced_gpu
from modal_app.shelf import Shelf
from modal_app.sources import SourceError

log = logging.getLogger(__name__)

ENGINE_MODULES = ("torch", "diffusers", "transformers", "modal_app.engine.qwen")
"""What takes long to import: put into a container's snapshot, before there is a GPU."""
_BROKEN_GPU = ("CUDA error", "cuDNN error", "CUBLAS_STATUS", "device-side assert")


class GpuBroken(Exception):
    """CUDA failed in a way that no later call in this process would survive."""


def import_engines() -> None:
    """Import what drawing takes, as far as it is installed; touches no GPU."""
    for name in ENGINE_MODULES:
        with suppress(ImportError):
            importlib.import_module(name)


class Generator:
    """Loaded engines and what they need around them.  One call at a time."""

    def __init__(
        self,
        *,
        board: Board,
        shelf: Shelf,
        gpus: Sequence[str] = (),
        preload: Sequence[str] = (),
        recipe_secret: str = "",
        on_broken: Callable[[], None] = lambda: None,
        report_seconds: float = 1.0,
    ) -> None:
        """``gpus`` are those that were asked for, by name; ``on_broken`` keeps further calls away."""
        self._shelf = shelf
        self._gpus = gpus
        self._preload = preload
        self.recipe_secret = recipe_secret
        self._on_broken = on_broken
        self._reporter = Reporter(board, report_seconds)
        self._engines = Engines()
        self._boot_seconds = 0.0
        self.gpu = gpus[0] if gpus else "cpu"

    def start(self, imports_seconds: float = 0.0) -> None:
        """Load the models of ``preload``; one that does not load fails the calls that name it."""
        began = time.monotonic()
        self.gpu = priced_gpu(self._gpus)
        for model_id in self._preload:
            with suppress(engine.LoadFailed):
                self._engines.get(model_id)
        self._boot_seconds = imports_seconds + time.monotonic() - began

    def generate(self, order_text: str, files: Mapping[str, bytes] | None = None) -> dict[str, Any]:
        """Carry out an order and return the parcel of its ``Outcome``; GpuBroken.

        ``files`` by sha256 are used in place of the shelf's.  What interrupts a container, to cancel its
        call or to end it, passes through.
        """
        run = _Run(Order.model_validate_json(order_text), self.gpu, self._booted())
        run.tell = self._reporter.tell
        try:
            self._reporter.watch(run.call)
            pictures = self._ended(run, files or {}, self._reporter.cancelled)
        finally:
            self._reporter.rest()
        log.info("call %s %s %s", run.call.call_id, run.call.status, run.seconds)
        return Outcome(run.call, pictures).parcel()

    def _booted(self) -> float:
        """What starting took, for the first call only: that one waited for it."""
        seconds, self._boot_seconds = self._boot_seconds, 0.0
        return seconds

    def _ended(self, run: "_Run", files: Mapping[str, bytes], cancelled: Callable[[], bool]) -> list[bytes]:
        """The pictures, and the call as it ended."""
        try:
            pictures = self._carried_out(run, files, cancelled)
        except engine.Canceled:
            if run.over_limit:
                run.end("failed", error=over_limit(run.request))
            else:
                run.end("canceled")
        except Exception as error:
            self._refuse_broken(error)
            run.end("failed", error=_explained(error, run.call.call_id))
        else:
            run.end("succeeded")
            return pictures
        return []

    def _carried_out(
        self, run: "_Run", sent: Mapping[str, bytes], cancelled: Callable[[], bool]
    ) -> list[bytes]:
        from modal_app.work import carry_out  # noqa: PLC0415 - needs Pillow, which CPU containers lack

        with run.metered("files_seconds"):
            files = self._shelf.take(run.request.sources(), sent)
        if cancelled():
            raise engine.Canceled("canceled")
        with run.metered("load_seconds", stage="loading"):
            loaded = self._engines.get(run.request.model)
        with run.metered("gpu_seconds", stage="generating"):
            run.metered_since = time.monotonic()
            drawn = carry_out(loaded, run.request, files, run, lambda: run.over_limit or cancelled())
        return self._packed(run, drawn)

    def _packed(self, run: "_Run", drawn: engine.Drawing | LanguageResult) -> list[bytes]:
        from modal_app.work import encoded, manifest  # noqa: PLC0415 - as above

        if not isinstance(drawn, engine.Drawing):
            run.update(result=drawn)
            return []
        request = run.request
        assert isinstance(request, ImageRequest)
        run.update(fingerprint=drawn.fingerprint)
        with run.metered("encode_seconds", stage="encoding"):
            files = encoded(request, drawn, self.recipe_secret)
        run.update(result=manifest(request, drawn, files))
        return files

    def _refuse_broken(self, error: Exception) -> None:
        """Raise GpuBroken, without the error itself: a CPU container has no torch to unpack it with."""
        if _is_out_of_memory(error):
            self._engines.release()
        elif _is_broken_gpu(error):
            log.error("the GPU broke", exc_info=error)
            self._on_broken()
            raise GpuBroken(f"the GPU broke: {type(error).__name__}") from None


class _Run:
    """A call on its way, which follows the engine's steps; ``tell`` hears of every change."""

    def __init__(self, order: Order, gpu: str, boot_seconds: float) -> None:
        self.request = order.wanted()
        self.tell: Callable[[Call], None] = lambda call: None
        waited = max(0.0, time.time() - order.submitted_at)
        self.seconds = {"queue_seconds": waited, "boot_seconds": boot_seconds}
        self._began = time.monotonic()
        self.metered_since: float | None = None
        self._steps: list[float] = []
        self.look = Looks(lambda preview: self.update(preview=preview)).look
        self.call = order.queued(gpu).model_copy(update={"status": "running"})
        self._timed()

    @property
    def over_limit(self) -> bool:
        """Whether the call has taken more of the GPU than its caller can pay for."""
        limit, since = self.request.limit_gpu_seconds, self.metered_since
        return limit is not None and since is not None and time.monotonic() - since > limit

    def update(self, **changes: Any) -> None:
        self.call = self.call.model_copy(update=changes)
        self.tell(self.call)

    def end(self, status: CallStatus, **changes: Any) -> None:
        """Told to nobody: the call has ended when its outcome can be fetched, not before."""
        self.call = self.call.model_copy(update={"status": status, "stage": None, "preview": None, **changes})

    def __call__(self, step: int, steps: int) -> None:
        self._steps.append(time.monotonic())
        self.seconds["gpu_seconds"] = self._steps[-1] - self._began
        self._timed()
        self.update(step=step, steps=steps)

    @contextmanager
    def metered(self, name: str, **changes: Any) -> Iterator[None]:
        self._began = time.monotonic()
        self.update(**changes)
        try:
            yield
        finally:
            ended = time.monotonic()
            self.seconds[name] = ended - self._began
            if name == "gpu_seconds":
                self.seconds |= _parts(self._began, self._steps, ended)
            self._timed()

    def _timed(self) -> None:
        """Of the seconds, the contract's; it may come to know more of them."""
        timing = Timing.model_validate({name: round(value, 6) for name, value in self.seconds.items()})
        self.call = self.call.model_copy(update={"timing": timing})


def _parts(began: float, steps: list[float], ended: float) -> dict[str, float]:
    """Seconds of a run by what it did, from the times of its steps; nothing with fewer than two of them.

    The first step is taken to be as long as the others: what came before it is the text encoder's.
    """
    if len(steps) < 2:
        return {}
    denoise = (steps[-1] - steps[0]) * len(steps) / (len(steps) - 1)
    return {
        "prompt_seconds": max(0.0, steps[-1] - denoise - began),
        "denoise_seconds": denoise,
        "decode_seconds": ended - steps[-1],
    }


def _explained(error: Exception, call_id: str) -> CallError:
    """What the caller is told; never words of a request."""
    if _is_out_of_memory(error):
        return CallError(code="out_of_memory", message="The GPU's memory is too small for this request.")
    if isinstance(error, engine.EngineError | SourceError):
        return CallError(code=error.code, message=str(error)[:500], retryable=error.retryable)
    log.error("call %s failed", call_id, exc_info=error)
    return CallError(code="engine_failed", message=f"The engine failed: {type(error).__name__}.")


def _is_out_of_memory(error: BaseException) -> bool:
    """By name: torch, whose class it is, is not imported for a comparison."""
    return any(kind.__name__ == "OutOfMemoryError" for each in _causes(error) for kind in type(each).__mro__)


def _is_broken_gpu(error: BaseException) -> bool:
    return any(
        type(each).__name__ == "AcceleratorError"
        or (isinstance(each, RuntimeError) and any(words in str(each) for words in _BROKEN_GPU))
        for each in _causes(error)
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error, and what it was raised from: ``LoadFailed`` hides what CUDA said."""
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__


def shelf_for(volume: str, refresh: Callable[[], None], copies: str = "/tmp/sources") -> Shelf:  # noqa: S108
    """The shelf of a container: the volume's folder, and copies that end with the container."""
    return Shelf(Path(volume), Path(copies), refresh)
