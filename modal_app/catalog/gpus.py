"""Which weights run on which GPU, and whether they fit."""

from dataclasses import dataclass
from typing import Literal

from modal_app.catalog.model import Model, Quant, Variant

Capability = tuple[int, int]
"""CUDA compute capability, (major, minor)."""

Offload = Literal["none", "model", "sequential"]
"""What waits in main memory: nothing, the parts that are not at work, or every layer but the one at work."""

HEADROOM_GB = 1.0
"""CUDA's own context and what the allocator loses to fragments."""


class UnsupportedHardware(ValueError):
    """Weights that do not run on a GPU; the message says what would."""


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A GPU class that Modal rents, by Modal's name, which is also the name of its price row."""

    name: str
    capability: Capability
    memory_gb: int
    not_offered: str = ""
    """Why it is not rented; empty when it is."""

    @property
    def offered(self) -> bool:
        return not self.not_offered


GPUS: tuple[Gpu, ...] = (
    Gpu(name="T4", capability=(7, 5), memory_gb=16),
    Gpu(name="L4", capability=(8, 9), memory_gb=24),
    Gpu(name="A10", capability=(8, 6), memory_gb=24),
    Gpu(name="L40S", capability=(8, 9), memory_gb=48),
    Gpu(name="A100-40GB", capability=(8, 0), memory_gb=40),
    Gpu(name="A100-80GB", capability=(8, 0), memory_gb=80),
    Gpu(name="RTX-PRO-6000", capability=(12, 0), memory_gb=96),
    Gpu(name="H100", capability=(9, 0), memory_gb=80),
    Gpu(name="H200", capability=(9, 0), memory_gb=141),
    Gpu(
        name="B200",
        capability=(10, 0),
        memory_gb=180,
        not_offered="there are no 4-bit kernels for it, and in 16 bits it costs more than an H100",
    ),
)

DEFAULT_GPU = "L40S"
"""Cheapest per picture: about three times as fast as an A10 at 1.8 times its price, and large enough to
keep text to image and edit together."""

ECONOMY_GPU = "A10"

_AMPERE_AND_ADA = frozenset({(8, 0), (8, 6), (8, 9)})
_HOPPER = frozenset({(9, 0)})
_WORKSTATION_BLACKWELL = frozenset({(12, 0), (12, 1)})
_WITH_BF16 = _AMPERE_AND_ADA | _HOPPER | _WORKSTATION_BLACKWELL

RUNS_ON: dict[Quant, frozenset[Capability]] = {
    # The kernels exist for Turing too, but the 16-bit half of these models is bfloat16, which it lacks;
    # on Hopper the backend raises, and (10, 0) passes its check without being a target of the kernels.
    "svdq-int4-r32": _AMPERE_AND_ADA,
    "svdq-int4-r128": _AMPERE_AND_ADA,
    "svdq-nvfp4": _WORKSTATION_BLACKWELL,
    "fp8": frozenset({(8, 9)}) | _HOPPER | _WORKSTATION_BLACKWELL,
    "int8": _WITH_BF16,
    "bf16": _WITH_BF16,
    "fp16": _WITH_BF16 | {(7, 5)},
    "fp32": _WITH_BF16 | {(7, 5)},
}

_PREFERENCE: tuple[Quant, ...] = (
    *("svdq-int4-r32", "svdq-int4-r128", "svdq-nvfp4"),
    *("bf16", "fp16", "fp8", "int8", "fp32"),
)
_PREFERENCE_FOR_QUALITY: tuple[Quant, ...] = ("svdq-int4-r128", *_PREFERENCE)
_PREFERENCE_ON_CPU: tuple[Quant, ...] = ("fp32", "bf16")
"""Which is also all that is computed there."""

_QUALITIES_OF_HIGHER_RANK = ("xhigh", "max")


def find_gpu(name: str) -> Gpu | None:
    """The row of a GPU by Modal's name, or None."""
    return next((gpu for gpu in GPUS if gpu.name == name), None)


def choose_variant(
    model: Model, capability: Capability | None, *, quant: str | None = None, quality: str = "auto"
) -> Variant:
    """The weights to load on a GPU, or on the CPU where ``capability`` is None.

    ``quant`` insists on one kind of weights.  UnsupportedHardware when nothing of it runs there.
    """
    running: dict[str, Variant] = {
        variant.quant: variant for variant in model.variants if _runs(variant, capability)
    }
    ranked: tuple[str, ...] = (quant,) if quant else _ranked(capability, quality)
    wanted = [name for name in ranked if name in running]
    if not wanted:
        raise UnsupportedHardware(_refusal(model, capability, quant, list(running)))
    return running[wanted[0]]


def offload(model: Model, variant: Variant, memory_gb: float) -> Offload:
    """What to keep in main memory when a GPU of ``memory_gb`` (10^9 bytes) draws with these weights."""
    if variant not in model.variants:
        raise ValueError(f"{model.id} has no such weights: {variant.repository} in {variant.quant}")
    if variant.est_vram_gb + HEADROOM_GB <= memory_gb:
        return "none"
    return "model" if variant.largest_part_gb + HEADROOM_GB <= memory_gb else "sequential"


def allowed_gpus(model: Model) -> tuple[str, ...]:
    """Names of the offered GPUs that hold some weights of the model whole."""
    return tuple(gpu.name for gpu in GPUS if gpu.offered and _fits(model, gpu))


def _fits(model: Model, gpu: Gpu) -> bool:
    running = [variant for variant in model.variants if _runs(variant, gpu.capability)]
    return any(offload(model, variant, gpu.memory_gb) == "none" for variant in running)


def _ranked(capability: Capability | None, quality: str) -> tuple[Quant, ...]:
    if capability is None:
        return _PREFERENCE_ON_CPU
    return _PREFERENCE_FOR_QUALITY if quality in _QUALITIES_OF_HIGHER_RANK else _PREFERENCE


def _runs(variant: Variant, capability: Capability | None) -> bool:
    if capability is None:
        return variant.bundled and variant.quant in _PREFERENCE_ON_CPU
    return capability in RUNS_ON[variant.quant]


def _refusal(model: Model, capability: Capability | None, quant: str | None, running: list[str]) -> str:
    here = _described(capability)
    what = quant or "any of its weights"
    if running:
        return f"{model.id} does not run as {what} on {here}; there it runs as {', '.join(running)}."
    gpus = ", ".join(allowed_gpus(model))
    instead = f"it runs on {gpus}" if gpus else "it has no weights that run on a GPU"
    return f"{model.id} does not run as {what} on {here}; {instead}."


def _described(capability: Capability | None) -> str:
    """Words for a capability: the GPUs that have it, or its number."""
    if capability is None:
        return "the CPU"
    names = [gpu.name for gpu in GPUS if gpu.capability == capability]
    number = f"compute capability {capability[0]}.{capability[1]}"
    return f"{' or '.join(names)} ({number})" if names else f"a GPU of {number}"
