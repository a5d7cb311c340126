"""What a container's GPU is, and which models stay loaded on it.

Importing this module imports no torch, and without torch there is no GPU.
"""

import gc
import importlib
import logging
import time
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from modal_app import catalog, engine

log = logging.getLogger(__name__)


def priced_gpu(asked: Sequence[str]) -> str:
    """The price row: of the GPUs that were asked for, the one that this container most resembles.

    Modal may give a better one than asked for, at the price of the one asked for.
    """
    capability, memory_gb = _capability(), _memory_gb()
    rows = [row for row in map(catalog.find_gpu, asked) if row]
    if capability is None or not rows:
        return asked[0] if asked and capability else "cpu"
    alike = [row for row in rows if row.capability == capability] or rows
    return min(alike, key=lambda row: abs(row.memory_gb - memory_gb)).name


class Engines:
    """Loaded engines, as many as the GPU's memory holds; the one used longest ago gives way."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, engine.Engine] = OrderedDict()

    def get(self, model_id: str) -> engine.Engine:
        """Loaded if need be; LoadFailed."""
        if model_id not in self._kept:
            model = catalog.find(model_id)
            assert model is not None, "the front door lets known models through only"
            self._make_room(model)
            self._kept[model_id] = _load(model)
        self._kept.move_to_end(model_id)
        return self._kept[model_id]

    def release(self) -> None:
        """Give back the memory that a failed run still holds."""
        gc.collect()
        torch = _torch()
        if torch is not None and torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _make_room(self, model: catalog.Model) -> None:
        memory_gb = _memory_gb()
        while self._kept and self._needed_gb(model) > memory_gb:
            gone, _ = self._kept.popitem(last=False)
            log.info("%s gives way to %s", gone, model.id)
            self.release()

    def _needed_gb(self, model: catalog.Model) -> float:
        """Each with its own peak: more than ever is used at once, since one of them draws at a time."""
        rows = [model, *(row for row in map(catalog.find, self._kept) if row)]
        return catalog.gpus.HEADROOM_GB + sum(_variant_gb(row) for row in rows)


def _load(model: catalog.Model) -> engine.Engine:
    began = time.monotonic()
    try:
        loaded = engine.load(model)
    except engine.LoadFailed:
        log.exception("%s does not load", model.id)
        raise
    log.info("loaded %s in %.1f s", model.id, time.monotonic() - began)
    return loaded


def _variant_gb(model: catalog.Model) -> float:
    """Peak on this machine's GPU; 0 on the CPU, and for weights that do not load here anyway."""
    capability = _capability()
    if capability is None or not model.variants:
        return 0.0
    try:
        return catalog.choose_variant(model, capability, quant=engine.options.quant).est_vram_gb
    except catalog.UnsupportedHardware:
        return 0.0


def _capability() -> catalog.Capability | None:
    torch = _torch()
    return torch.cuda.get_device_capability() if torch is not None and torch.cuda.is_available() else None


def _memory_gb() -> float:
    """Of the GPU, in 10^9 bytes; without one there is no limit."""
    torch = _torch()
    if torch is None or not torch.cuda.is_available():
        return float("inf")
    return float(torch.cuda.get_device_properties(0).total_memory) / 1e9


def _torch() -> Any:
    try:
        return importlib.import_module("torch")
    except ImportError:
        return None
