"""Progress and cancellation of a run that draws picture after picture."""

from collections.abc import Callable
from typing import Any

from modal_app.engine import Canceled, OnStep


class Watch:
    """Reports steps and ends the run by raising, after which the pipeline is as it was.

    diffusers' own ``pipeline._interrupt`` would skip the steps, but decode a picture of noise.  The
    callback of the last step runs right before the VAE decodes, so that is covered as well.
    """

    def __init__(self, steps: int, pictures: int, on_step: OnStep, cancelled: Callable[[], bool]) -> None:
        self._steps = steps
        self._pictures = pictures
        self._on_step = on_step
        self._cancelled = cancelled

    def check(self) -> None:
        """Canceled if nobody wants the pictures any more."""
        if self._cancelled():
            raise Canceled("canceled")

    def step_of(self, n: int) -> Callable[..., dict[str, Any]]:
        """The step callback for picture ``n``."""

        def stepped(pipeline: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            self._on_step(n * self._steps + step + 1, self._pictures * self._steps)
            self.check()
            return tensors

        return stepped
