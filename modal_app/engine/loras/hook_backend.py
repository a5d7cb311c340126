"""LoRAs as side branches in forward hooks, for layers that PEFT refuses, such as quantised ones."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import linear

from modal_app.engine.loras.state_dicts import DOWN, UP, StateDicts

Branches = dict[str, "Branch"]
"""By the name of the layer, ``{component}.{module}``."""
_Key = tuple[tuple[str, float], ...]


class HookBackend:
    """One hook on each changed layer, whatever its class, as long as it maps features to features.

    The branches of the last set stay on the device, so that the same set again costs no copy.
    """

    def __init__(self, pipeline: Any, state_dicts: StateDicts | None = None) -> None:
        self._pipeline = pipeline
        self._state_dicts = state_dicts or StateDicts()
        self._handles: list[Any] = []
        self._last: tuple[_Key, Branches] = ((), {})

    def apply(self, uses: Sequence[tuple[str, Path, float]]) -> None:
        """Exactly these LoRAs act from now on; on any error none does."""
        self.clear()
        try:
            for name, branch in self._branches(uses).items():
                component, _, path = name.partition(".")
                layer = getattr(self._pipeline, component).get_submodule(path)
                self._handles.append(layer.register_forward_hook(branch))
        except BaseException:
            self.clear()
            raise

    def clear(self) -> None:
        """Take the hooks away; nothing else of the model was touched."""
        while self._handles:
            self._handles[-1].remove()
            self._handles.pop()

    def _branches(self, uses: Sequence[tuple[str, Path, float]]) -> Branches:
        key = tuple((sha256, scale) for sha256, _, scale in uses)
        if self._last[0] != key:
            self._last = ((), {})  # frees the device before the next set comes
            self._last = (key, self._build(uses))
        return self._last[1]

    def _build(self, uses: Sequence[tuple[str, Path, float]]) -> Branches:
        pairs = defaultdict(list)
        for sha256, path, scale in uses:
            state_dict = self._state_dicts.get(self._pipeline, sha256, path)
            for name in (key.removesuffix(DOWN) for key in state_dict if key.endswith(DOWN)):
                pairs[name].append((state_dict[name + DOWN], state_dict[name + UP], scale))
        return {name: Branch(found) for name, found in pairs.items()}


class Branch:
    """What all LoRAs of a set add to one layer: ``(x downᵀ) upᵀ``, their ranks side by side.

    down (R, in) and up (out, R), where R is the sum of the ranks; the scales are multiplied into up.
    """

    def __init__(self, pairs: Sequence[tuple[torch.Tensor, torch.Tensor, float]]) -> None:
        self._down = torch.cat([down.float() for down, _, _ in pairs])
        self._up = torch.cat([up.float() * scale for _, up, scale in pairs], dim=1)

    def __call__(self, layer: torch.nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
        x = args[0]
        if (self._up.dtype, self._up.device) != (x.dtype, x.device):
            self._down, self._up = (pair.to(x.device, x.dtype) for pair in (self._down, self._up))
        return output + linear(linear(x, self._down), self._up)
