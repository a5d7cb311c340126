"""LoRAs through diffusers and PEFT, for layers that PEFT knows; and a LoRA fused for good."""

import re
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from modal_app.engine.loras.state_dicts import StateDicts, denoiser_name, read, refusals

MAX_ADAPTERS = 8
"""Kept on the device; as many as a request may name.  One of rank 64 takes 0.3 to 0.6 GB for Qwen-Image."""


class PeftBackend:
    """Adapters stay loaded, the least recently used deleted first, and are switched by their weights.

    Inactive layers hand their input to the base layer alone: outputs equal the base bit for bit.  Adapters
    live in the components: pipelines that share a transformer have to share the backend.
    """

    def __init__(
        self, pipeline: Any, state_dicts: StateDicts | None = None, max_adapters: int = MAX_ADAPTERS
    ) -> None:
        self._pipeline = pipeline
        self._state_dicts = state_dicts or StateDicts()
        self._max_adapters = max_adapters
        self._loaded: OrderedDict[str, None] = OrderedDict()

    def apply(self, uses: Sequence[tuple[str, Path, float]]) -> None:
        """Exactly these LoRAs act from now on; on any error none does."""
        if not uses:
            return self.clear()
        names = [_adapter_name(sha256) for sha256, _, _ in uses]
        try:
            for sha256, path, _ in uses:
                self._load(sha256, path, needed=names)
            self._pipeline.set_adapters(names, [scale for _, _, scale in uses])
            self._pipeline.enable_lora()
        except BaseException:
            self._unload()
            raise

    def clear(self) -> None:
        """No LoRA acts; the adapters stay loaded."""
        if self._loaded:
            self._pipeline.disable_lora()

    def _load(self, sha256: str, path: Path, needed: Sequence[str]) -> None:
        name = _adapter_name(sha256)
        if name not in self._loaded:
            state_dict = self._state_dicts.get(self._pipeline, sha256, path)
            self._make_room(needed)
            # PEFT computes in the type of the adapter, so that it has to be the model's.
            dtype = getattr(self._pipeline, denoiser_name(self._pipeline)).dtype
            cast = {key: tensor.to(dtype) for key, tensor in state_dict.items()}
            self._loaded[name] = None  # first, so that a load that is cut off is cleared away
            self._pipeline.load_lora_weights(cast, adapter_name=name)
        self._loaded.move_to_end(name)

    def _make_room(self, needed: Sequence[str]) -> None:
        spare = [name for name in self._loaded if name not in needed]
        while spare and len(self._loaded) >= self._max_adapters:
            self._pipeline.delete_adapters(spare[0])
            del self._loaded[spare.pop(0)]

    def _unload(self) -> None:
        """Put the base layers back in place, whatever state the adapters were left in."""
        self._pipeline.unload_lora_weights()
        self._loaded.clear()


def _adapter_name(sha256: str) -> str:
    """PEFT keys modules by the name, and torch allows no dot in it; a file name has one."""
    return re.sub(r"\W", "_", sha256)


def fuse(pipeline: Any, path: Path, scale: float = 1.0) -> None:
    """Add a LoRA to the weights themselves, for good: one that is part of a model's row, such as Lightning.

    To be called while loading, before a backend is made: after UnusableLora the pipeline may be half fused.
    """
    with refusals():
        state_dict = read(pipeline, path)
        components = sorted({key.split(".")[0] for key in state_dict})
        try:
            pipeline.load_lora_weights(state_dict, adapter_name="fused")
            pipeline.fuse_lora(components=components, lora_scale=scale, safe_fusing=True)
        finally:
            pipeline.unload_lora_weights()
