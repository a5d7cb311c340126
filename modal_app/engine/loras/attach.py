"""LoRAs act inside ``with attached(backend, uses):`` and nowhere else.

    backend = backend_for(pipeline)          # once per loaded pipeline
    with attached(backend, uses):            # around prompts and steps of one run
        ...

``fuse`` is for a LoRA that belongs to the model itself.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from peft.tuners.tuners_utils import BaseTunerLayer

from modal_app.engine.loras.hook_backend import HookBackend
from modal_app.engine.loras.peft_backend import PeftBackend, fuse
from modal_app.engine.loras.state_dicts import StateDicts, denoiser_name, refusals

__all__ = [
    "HookBackend",
    "LoraBackend",
    "PeftBackend",
    "StateDicts",
    "Use",
    "attached",
    "backend_for",
    "fuse",
]

Use = tuple[str, Path, float]
"""(sha256, file, scale); in place of the hash may stand any other name that only these bytes have."""


_OF_THE_PROCESS = StateDicts()
"""One budget for all engines."""


class LoraBackend(Protocol):
    """A way to make LoRAs act on one pipeline.  One thread at a time."""

    def apply(self, uses: Sequence[Use]) -> None:
        """Exactly these act from now on, the order being that of the sums; on any error none does."""
        ...

    def clear(self) -> None:
        """None acts: outputs equal those of the base bit for bit.  Any number of times."""
        ...


def backend_for(pipeline: Any, state_dicts: StateDicts = _OF_THE_PROCESS) -> LoraBackend:
    """PEFT where it knows the class of every layer that a LoRA could change, hooks otherwise."""
    layers = (m for m in getattr(pipeline, denoiser_name(pipeline)).modules() if hasattr(m, "in_features"))
    if all(isinstance(layer, torch.nn.Linear | BaseTunerLayer) for layer in layers):
        return PeftBackend(pipeline, state_dicts)
    return HookBackend(pipeline, state_dicts)


@contextmanager
def attached(backend: LoraBackend, uses: Iterable[Use]) -> Iterator[None]:
    """The LoRAs act inside, in whatever order they were named; after it, however it ends, none does.

    UnusableLora when a file does not load or fit.  Other errors are those of the body, as they are.
    """
    try:
        with refusals():
            backend.apply(_merged(uses))
        yield
    finally:
        backend.clear()


def _merged(uses: Iterable[Use]) -> list[Use]:
    """One entry per file, scales added up, zeros left out, in the order of the hashes.

    Sums of floating point numbers depend on their order; the picture must not.
    """
    paths: dict[str, Path] = {}
    scales: dict[str, list[float]] = defaultdict(list)
    for sha256, path, scale in uses:
        paths[sha256] = path
        scales[sha256].append(scale)
    merged = [(sha256, paths[sha256], math.fsum(scales[sha256])) for sha256 in sorted(paths)]
    return [use for use in merged if use[2]]
