"""What makes a denoiser faster on the hardware it has got."""

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import FirstBlockCacheConfig

from modal_app.catalog import Capability
from modal_app.engine import Options

STEP_CACHE_LEAST_STEPS = 20
"""In runs of 4 to 8 steps no two are alike enough."""

_ATTENTION: dict[Capability, str] = {(9, 0): "_flash_3_hub"}
"""diffusers' names of the attention that a GPU runs fastest; its default everywhere else."""


def attention_backend(capability: Capability | None, *, kernels: bool) -> str:
    """diffusers' name of the attention to use; ``kernels``: whether the package that brings them is there."""
    return _ATTENTION.get(capability, "native") if kernels and capability else "native"


def accelerate(denoiser: Any, options: Options) -> dict[str, Any]:
    """Set up what holds for every run; returns what of it belongs into a fingerprint."""
    capability = torch.cuda.get_device_capability() if torch.cuda.is_available() else None
    backend = attention_backend(capability, kernels=importlib.util.find_spec("kernels") is not None)
    if backend != "native":
        denoiser.set_attention_backend(backend)
    if options.compile and capability:
        denoiser.compile_repeated_blocks(fullgraph=True)
    return {
        "attention": backend,
        "compiled": bool(options.compile and capability),
        "step_cache_threshold": options.step_cache_threshold,
    }


@contextmanager
def step_cache(denoiser: Any, steps: int, threshold: float) -> Iterator[None]:
    """Inside, a step whose first block changes little takes over what the blocks behind it gave before.

    For one run only: what is kept from one would leak into the next.
    """
    if not threshold or steps < STEP_CACHE_LEAST_STEPS:
        yield
        return
    denoiser.enable_cache(FirstBlockCacheConfig(threshold=threshold))
    try:
        yield
    finally:
        denoiser.disable_cache()
