# mypy: disable-error-code="untyped-decorator"
"""What the GPU classes on Modal share: a container's life around one ``Generator``."""

import logging
import os
import time
from typing import Any, ClassVar

import modal
import modal.experimental

from modal_app import deployment, engine, resources
from modal_app.conductor_modal import ModalBoard
from modal_app.generator import Generator, import_engines, shelf_for

log = logging.getLogger(__name__)


class GpuClass:
    """Not decorated: each class that is deployed extends it with its ``settings``.

    What its hooks and its method do is in ``Generator``, which runs without Modal.
    """

    settings: ClassVar[deployment.GpuClass]

    @modal.enter(snap=True)
    def prepare(self) -> None:
        """Goes into the snapshot of a container: no secrets and, unless GPUs are in it too, no CUDA."""
        self._imports_seconds = _seconds_of(import_engines)
        self._generator = _generator(self.settings) if deployment.GPU_SNAPSHOT else None
        if self._generator is not None:
            self._generator.start(self._imports_seconds)

    @modal.enter(snap=False)
    def open(self) -> None:
        """In a fresh or restored container, with a GPU."""
        _bring_up_to_date(resources.models)
        if self._generator is None:
            self._generator = _generator(self.settings)
            self._generator.start(self._imports_seconds)
        self._generator.recipe_secret = os.environ.get("RECIPE_SECRET", "")

    @modal.method()
    def generate(self, order: str, files: dict[str, bytes] | None = None) -> dict[str, Any]:
        """The parcel of a ``calls.Outcome``; see ``Generator.generate``."""
        assert self._generator is not None, "the container was entered"
        return self._generator.generate(order, files)


def _generator(settings: deployment.GpuClass) -> Generator:
    engine.options = deployment.engine_options()
    return Generator(
        board=ModalBoard(resources.calls),
        shelf=shelf_for(deployment.SOURCE_FOLDER, lambda: _bring_up_to_date(resources.sources)),
        gpus=settings.gpus,
        preload=settings.preload,
        on_broken=modal.experimental.stop_fetching_inputs,
    )


def _bring_up_to_date(volume: Any) -> None:
    """See what was written since the container, or the snapshot it was restored from, was made.

    A volume that refuses stays as it was; what is missing then is told by whoever looks for it.
    """
    if modal.is_local():
        return
    try:
        volume.reload()
    except (modal.exception.Error, RuntimeError):
        log.warning("a volume could not be brought up to date", exc_info=True)


def _seconds_of(work: Any) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began
