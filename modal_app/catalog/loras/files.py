"""What a LoRA file is, from the names and shapes in its header.

    {prefix}{module}.lora_A.weight   down, (rank, in) or (rank, in, height, width)
    {prefix}{module}.lora_B.weight   up, (out, rank) or (out, rank, 1, 1)
    {prefix}{module}.alpha           optional number: the layer's effect is times alpha / rank

Trainers differ in prefix and suffix, and write ``module`` with dots or, flat, with underscores.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from modal_app.catalog.base_models import base_model_group
from modal_app.catalog.loras.architecture import group_of
from modal_app.catalog.loras.header import Header, TensorInfo, parse_object, read_header
from modal_app.catalog.loras.invalid import InvalidLora

KeyFormat = Literal["diffusers", "comfyui", "kohya", "bare"]
Part = Literal["down", "up", "alpha"]

MAX_RANK = 512
"""Trained files have ranks up to 128, extracted ones up to 256; the side branch costs time with the rank."""

_ARCHITECTURES = {"Pony": "SDXL", "Illustrious": "SDXL"}
"""Groups that are fine-tunes, and the group whose layers they have."""


@dataclass(frozen=True, kw_only=True)
class LoraFile:
    """A LoRA, as far as its header tells."""

    group: str
    """A name of ``catalog.BASE_MODELS``, decided by names and shapes."""
    variant: str | None
    """A fine-tune of the group ("Pony", "Illustrious") that the trainer noted in the metadata."""
    key_format: KeyFormat
    ranks: tuple[int, ...]
    """Every rank that occurs, ascending."""
    has_alpha: bool
    modules: int
    """How many layers it changes."""
    targets_text_encoder: bool
    tensors: int
    bytes: int
    """Of the tensors."""


@dataclass
class LoraModule:
    """One layer that a file changes."""

    prefix: str
    name: str
    keys: dict[Part, str] = field(default_factory=dict)
    """Names of its tensors in the file."""
    alpha: float | None = None
    """From the metadata; a tensor of its own in ``keys`` goes first."""

    @property
    def flat(self) -> str:
        return self.name.replace(".", "_")

    @property
    def key_format(self) -> KeyFormat:
        return _PREFIXES[self.prefix][0]

    @property
    def in_text_encoder(self) -> bool:
        return _PREFIXES[self.prefix][1]


def inspect(path: Path) -> LoraFile:
    """What the file is; reads its header only.  InvalidLora when it is not a LoRA that a model could take."""
    header = read_header(path)
    modules = read_modules(header)
    shapes = {
        module.flat: (header.tensors[module.keys["down"]].shape, header.tensors[module.keys["up"]].shape)
        for module in modules
        if not module.in_text_encoder
    }
    group = group_of(shapes)
    return LoraFile(
        group=group,
        variant=_variant(header.metadata) if group == "SDXL" else None,
        key_format=_key_format(modules),
        ranks=tuple(sorted({header.tensors[module.keys["down"]].shape[0] for module in modules})),
        has_alpha=any("alpha" in module.keys or module.alpha is not None for module in modules),
        modules=len(modules),
        targets_text_encoder=any(module.in_text_encoder for module in modules),
        tensors=len(header.tensors),
        bytes=sum(tensor.end - tensor.begin for tensor in header.tensors.values()),
    )


def check_family(file: LoraFile, group: str) -> Literal["same", "related"]:
    """InvalidLora("wrong_family") when models of a ``catalog.Model.lora_group`` cannot take the file.

    "related" when only the architecture is shared: the file loads, but may look unlike its samples.
    """
    wanted = base_model_group(group) or group
    if _ARCHITECTURES.get(wanted, wanted) != base_model_group(file.group):
        raise InvalidLora(
            "wrong_family", f"this LoRA is made for {file.group}, the model takes {group or 'none'}"
        )
    return "same" if base_model_group(file.variant or file.group) == wanted else "related"


# ---------------------------------------------------------------- modules

_PREFIXES: dict[str, tuple[KeyFormat, bool]] = {
    "lora_unet_": ("kohya", False),
    "lora_transformer_": ("kohya", False),
    "lora_te_": ("kohya", True),
    "lora_te1_": ("kohya", True),
    "lora_te2_": ("kohya", True),
    "diffusion_model.": ("comfyui", False),
    "text_encoders.": ("comfyui", True),
    "transformer.": ("diffusers", False),
    "unet.": ("diffusers", False),
    "text_encoder.": ("diffusers", True),
    "text_encoder_2.": ("diffusers", True),
    "base_model.model.": ("bare", False),
    "": ("bare", False),
}
"""Prefix -> who writes it, whether it names a text encoder.  The first that fits counts."""

_SUFFIXES: dict[str, Part] = {
    ".lora_A.weight": "down",
    ".lora_A.default.weight": "down",
    ".lora_down.weight": "down",
    ".lora.down.weight": "down",
    "_lora.down.weight": "down",
    ".lora_linear_layer.down.weight": "down",
    ".lora_B.weight": "up",
    ".lora_B.default.weight": "up",
    ".lora_up.weight": "up",
    ".lora.up.weight": "up",
    "_lora.up.weight": "up",
    ".lora_linear_layer.up.weight": "up",
    ".alpha": "alpha",
}

_OTHER_METHODS = {
    "dora_scale": ("dora", "DoRA"),
    "lora_magnitude_vector": ("dora", "DoRA"),
    "lokr_": ("lokr", "LoKr"),
    "hada_": ("loha", "LoHa"),
}
"""What stands in a tensor's name -> reason, name.  They would load in part and act wrongly."""

_WEIGHT_DTYPES = frozenset({"F64", "F32", "F16", "BF16"})
_ALPHA_DTYPES = _WEIGHT_DTYPES | {"I64", "I32"}


def read_modules(header: Header) -> list[LoraModule]:
    """The layers that a file changes, each with a matching pair; InvalidLora when it holds anything else."""
    _refuse_other_methods(header.tensors)
    modules: dict[str, LoraModule] = {}
    strangers = [key for key in header.tensors if not _sort_in(key, modules)]
    if not any("down" in module.keys for module in modules.values()):
        raise InvalidLora("no_lora_keys", "this file holds no LoRA layers")
    if strangers:
        raise InvalidLora(
            "unsupported_tensors", f"this file holds more than LoRA layers: {strangers[0][:80]!r}"
        )
    for module in modules.values():
        _check_pair(module, header.tensors)
    _note_alphas(header, modules.values())
    return list(modules.values())


def _refuse_other_methods(keys: Iterable[str]) -> None:
    for key in keys:
        for fragment, (reason, method) in _OTHER_METHODS.items():
            if fragment in key:
                raise InvalidLora(reason, f"this is a {method} file; only plain LoRA is supported")


def _sort_in(key: str, modules: dict[str, LoraModule]) -> bool:
    """Put a tensor to its layer; False when its name is not one of a LoRA."""
    for suffix, part in _SUFFIXES.items():
        if key.endswith(suffix):
            stem = key.removesuffix(suffix)
            if stem not in modules:
                prefix = next(prefix for prefix in _PREFIXES if stem.startswith(prefix))
                modules[stem] = LoraModule(prefix, stem.removeprefix(prefix))
            return modules[stem].keys.setdefault(part, key) == key
    return False


def _check_pair(module: LoraModule, tensors: Mapping[str, TensorInfo]) -> None:
    parts = {part: tensors[key] for part, key in module.keys.items()}
    if not {"down", "up"} <= parts.keys():
        raise InvalidLora("mismatched_pair", f"{module.name[:80]!r} has only one half of its pair")
    down, up = parts["down"].shape, parts["up"].shape
    if len(down) not in (2, 4) or len(up) != len(down) or not down[0] or down[0] != up[1]:
        raise InvalidLora("mismatched_pair", f"the halves of {module.name[:80]!r} do not fit: {down}, {up}")
    if down[0] > MAX_RANK:
        raise InvalidLora("rank_too_large", f"rank {down[0]}; up to {MAX_RANK} is supported")
    if not {parts["down"].dtype, parts["up"].dtype} <= _WEIGHT_DTYPES:
        raise InvalidLora("bad_dtype", f"{module.name[:80]!r} is not in 16, 32 or 64 bit floating point")
    alpha = parts.get("alpha")
    if alpha and (alpha.dtype not in _ALPHA_DTYPES or math.prod(alpha.shape) != 1):
        raise InvalidLora("bad_dtype", f"the alpha of {module.name[:80]!r} is not a number")


def _key_format(modules: list[LoraModule]) -> KeyFormat:
    formats = {module.key_format for module in modules if not module.in_text_encoder}
    if len(formats) != 1:
        raise InvalidLora("unknown_architecture", f"the names mix several formats: {sorted(formats)}")
    return formats.pop()


# ---------------------------------------------------------------- alpha and origin in the metadata


def _note_alphas(header: Header, modules: Iterable[LoraModule]) -> None:
    """diffusers' training scripts write no alpha tensors but PEFT's settings, as JSON, into the metadata."""
    text = header.metadata.get("lora_adapter_metadata")
    if text is None:
        return
    settings = parse_object(text.encode(), "bad_metadata")
    for module in modules:
        prefix = module.prefix if module.key_format == "diffusers" else ""
        if settings.get(f"{prefix}use_dora"):
            raise InvalidLora("dora", "this is a DoRA file; only plain LoRA is supported")
        module.alpha = _alpha(settings, prefix, module.name)
        if module.alpha is not None and settings.get(f"{prefix}use_rslora"):
            # rsLoRA divides by the square root of the rank; everyone after this divides by the rank.
            module.alpha *= math.sqrt(header.tensors[module.keys["down"]].shape[0])


def _alpha(settings: dict[str, Any], prefix: str, name: str) -> float | None:
    patterns = settings.get(f"{prefix}alpha_pattern") or {}
    if not isinstance(patterns, dict):
        raise InvalidLora("bad_metadata", "the alpha_pattern in the metadata is no table")
    found = [value for pattern, value in patterns.items() if f".{name}".endswith(f".{pattern.lstrip('^')}")]
    alpha = found[0] if found else settings.get(f"{prefix}lora_alpha")
    if alpha is None:
        return None
    if type(alpha) not in (int, float) or not math.isfinite(alpha):
        raise InvalidLora("bad_metadata", "the lora_alpha in the metadata is not a number")
    return float(alpha)


def _variant(metadata: Mapping[str, str]) -> str | None:
    """kohya's trainers note the file name of the checkpoint that they trained on."""
    notes = " ".join(metadata.get(key, "") for key in ("ss_sd_model_name", "modelspec.architecture")).lower()
    marks = {"pony": "Pony", "illustrious": "Illustrious", "noob": "Illustrious"}
    return next((variant for mark, variant in marks.items() if mark in notes), None)
