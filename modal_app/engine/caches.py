"""What need not be computed twice, within a budget of bytes."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

import torch

from modal_app import engine


class TensorCache:
    """Tuples of tensors by key, on the CPU; those used longest ago give way.  Not for several threads."""

    def __init__(self, budget_bytes: int) -> None:
        self._budget = budget_bytes
        self._kept: OrderedDict[Hashable, tuple[torch.Tensor, ...]] = OrderedDict()
        self._bytes = 0
        self._forgettings = engine.forgettings

    def get(
        self, key: Hashable, device: torch.device, make: Callable[[], tuple[torch.Tensor, ...]]
    ) -> tuple[torch.Tensor, ...]:
        """What is kept under ``key``, on ``device``; made, and kept, if it is not there."""
        if not engine.options.caches:
            return make()
        if self._forgettings != engine.forgettings:
            self._forgettings = engine.forgettings
            self.clear()
        if key not in self._kept:
            made = make()
            self._keep(key, tuple(tensor.cpu() for tensor in made))
            return made
        self._kept.move_to_end(key)
        return tuple(tensor.to(device) for tensor in self._kept[key])

    def _keep(self, key: Hashable, tensors: tuple[torch.Tensor, ...]) -> None:
        self._kept[key] = tensors
        self._bytes += _bytes(tensors)
        while self._bytes > self._budget:
            _, gone = self._kept.popitem(last=False)
            self._bytes -= _bytes(gone)

    def clear(self) -> None:
        self._kept.clear()
        self._bytes = 0


def _bytes(tensors: tuple[Any, ...]) -> int:
    return sum(int(tensor.numel() * tensor.element_size()) for tensor in tensors)
