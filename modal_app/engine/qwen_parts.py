"""Parts that several loaded models have in common are in memory once.

Text to image and edit have transformers of their own, and the same text encoder and VAE: together they fit
on one GPU of 48 GB because those are shared.
"""

from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import torch

from modal_app.engine.fingerprint import weights_sha256

SHARED = ("text_encoder", "vae")
"""Parts that no run changes."""

_in_use: WeakValueDictionary[tuple[object, ...], torch.nn.Module] = WeakValueDictionary()


def parts_in_use(folder: Path, dtype: torch.dtype) -> dict[str, Any]:
    """Parts of a checkpoint that a model still in use has loaded, as ``from_pretrained`` takes them."""
    found = {name: _in_use.get(key) for name, key in _keys(folder, dtype).items()}
    return {name: part for name, part in found.items() if part is not None}


def remember_parts(pipeline: Any, folder: Path, dtype: torch.dtype) -> None:
    """Let later loads share the parts for as long as somebody uses them."""
    for name, key in _keys(folder, dtype).items():
        _in_use[key] = getattr(pipeline, name)


def _keys(folder: Path, dtype: torch.dtype) -> dict[str, tuple[object, ...]]:
    """Equal weights in equal numbers have one key, whatever repository they came with."""
    weights = sorted(weights_sha256(folder).items())
    own = {name: [pair for pair in weights if pair[0].startswith(f"{name}/")] for name in SHARED}
    return {name: (dtype, *files) for name, files in own.items() if files}
