"""From a LoRA file to the tensors that a pipeline takes, and a cache of them.

Whatever the format, the result is ``{component}.{module}.lora_A.weight`` (rank, in) and ``.lora_B.weight``
(out, rank), with alpha / rank multiplied in: a scale of 1 is the trained strength.
"""

import math
from collections import OrderedDict, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers.utils import convert_state_dict_to_peft, convert_unet_state_dict_to_peft
from diffusers.utils.state_dict_utils import StateDictType
from safetensors.torch import load_file

from modal_app.catalog.loras import InvalidLora
from modal_app.catalog.loras.files import LoraModule, read_modules
from modal_app.catalog.loras.header import read_header
from modal_app.engine.loras.unusable import UnusableLora

StateDict = dict[str, torch.Tensor]

BUDGET_BYTES = 4 * 2**30
"""Of CPU memory: some ten LoRAs of rank 64 for Qwen-Image, which have 300 to 600 MB each."""

DOWN, UP = ".lora_A.weight", ".lora_B.weight"


class StateDicts:
    """Converted state dicts on the CPU, the least recently used dropped above a budget.

    May be shared by all pipelines of a process; one thread at a time.
    """

    def __init__(self, budget_bytes: int = BUDGET_BYTES) -> None:
        self._budget_bytes = budget_bytes
        self._kept: OrderedDict[tuple[str, str], StateDict] = OrderedDict()

    def get(self, pipeline: Any, sha256: str, path: Path) -> StateDict:
        """The state dict of the file, read when it is not kept; UnusableLora as ``read``."""
        # Pipelines of one family share the converter, and with it the result.
        key = (type(pipeline).lora_state_dict.__qualname__, sha256)
        if key not in self._kept:
            self._kept[key] = read(pipeline, path)
        self._kept.move_to_end(key)
        kept = self._kept[key]
        while self.bytes > self._budget_bytes and self._kept:
            self._kept.popitem(last=False)
        return kept

    @property
    def bytes(self) -> int:
        return sum(tensor.nbytes for kept in self._kept.values() for tensor in kept.values())


def read(pipeline: Any, path: Path) -> StateDict:
    """Read and convert a file; UnusableLora when it does not fit the pipeline layer by layer."""
    with refusals():
        modules = read_modules(read_header(path))
        tensors = load_file(path)
        renamed: StateDict = {}
        for module in modules:
            renamed |= _renamed(module, tensors, denoiser_name(pipeline))
        state_dict = _converted(pipeline, renamed)
        for key in state_dict:
            _check_layer(pipeline, key, state_dict)
        return state_dict


def denoiser_name(pipeline: Any) -> str:
    """The component that draws: ``unet`` or ``transformer``."""
    return "unet" if getattr(pipeline, "unet", None) is not None else "transformer"


@contextmanager
def refusals() -> Iterator[None]:
    """A library's error about a file becomes UnusableLora; running out of memory is no fault of the file."""
    try:
        yield
    except (UnusableLora, MemoryError, torch.OutOfMemoryError):
        raise
    except InvalidLora as error:
        raise UnusableLora(error.reason, str(error)) from error
    except Exception as error:
        raise UnusableLora("not_loadable", f"this LoRA does not load: {type(error).__name__}") from error


# ---------------------------------------------------------------- names and alpha

_FOREIGN = ("double_blocks_", "single_blocks_", "input_blocks_", "middle_block_", "output_blocks_")
"""How the layers of FLUX and SDXL are named in their authors' code; diffusers has names of its own."""


def _renamed(module: LoraModule, tensors: StateDict, denoiser: str) -> StateDict:
    """The layer's pair under names that diffusers' converters take.

    They take PEFT's names only without alpha (with it, ``transformer.`` comes out doubled), bare names not
    at all, and foreign names in kohya's flat form.
    """
    down, up = _scaled(module, tensors)
    if module.key_format == "kohya" or module.flat.startswith(_FOREIGN):
        stem = (module.prefix if module.key_format == "kohya" else "lora_unet_") + module.flat
        # One of the converters insists on an alpha; equal to the rank it changes nothing.
        alpha = torch.tensor(float(down.shape[0]))
        return {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up, f"{stem}.alpha": alpha}
    if module.in_text_encoder:
        return {module.keys["down"]: down, module.keys["up"]: up}
    if denoiser == "unet":  # whose converter knows the older suffixes
        names = (f"unet.{module.keys[part].removeprefix(module.prefix)}" for part in ("down", "up"))
        return dict(zip(names, (down, up), strict=True))
    return {f"{denoiser}.{module.name}{DOWN}": down, f"{denoiser}.{module.name}{UP}": up}


def _scaled(module: LoraModule, tensors: StateDict) -> tuple[torch.Tensor, torch.Tensor]:
    """Down and up with alpha / rank multiplied in, halved between them so that float16 does not underflow."""
    down, up = tensors[module.keys["down"]], tensors[module.keys["up"]]
    alpha = float(tensors[module.keys["alpha"]]) if "alpha" in module.keys else module.alpha
    scale = 1.0 if alpha is None else alpha / down.shape[0]
    if not (math.isfinite(scale) and down.isfinite().all() and up.isfinite().all()):
        raise UnusableLora("not_finite", "this LoRA holds numbers that are not finite; its training failed")
    if scale == 1.0:
        return down, up
    share = 2.0 ** round(math.log2(abs(scale)) / 2) if scale else 1.0  # a power of two rounds nothing
    return down * (scale / share), up * share


# ---------------------------------------------------------------- conversion


def _converted(pipeline: Any, renamed: StateDict) -> StateDict:
    if denoiser_name(pipeline) == "unet":  # whose config tells how many layers a block has
        converted, _ = pipeline.lora_state_dict(renamed, unet_config=pipeline.unet.config)
    else:
        converted = pipeline.lora_state_dict(renamed)
    components: dict[str, StateDict] = defaultdict(dict)
    for key, tensor in converted.items():
        component, _, rest = key.partition(".")
        components[component][rest] = tensor
    return {
        f"{component}.{key}": tensor
        for component, part in components.items()
        for key, tensor in _peft_names(_component(pipeline, component), component, part).items()
    }


def _component(pipeline: Any, name: str) -> torch.nn.Module:
    component = getattr(pipeline, name, None) if name in pipeline._lora_loadable_modules else None
    if component is None:
        raise UnusableLora("unknown_modules", f"this LoRA changes {name[:80]!r}, which the model lacks")
    found: torch.nn.Module = component
    return found


def _peft_names(model: torch.nn.Module, component: str, state_dict: StateDict) -> StateDict:
    """The same under the names of the model's layers; diffusers' converters leave older names in place."""
    if component == "unet":
        state_dict = convert_unet_state_dict_to_peft(state_dict)
    elif component != "transformer":
        for older in (StateDictType.DIFFUSERS_OLD, StateDictType.DIFFUSERS):
            state_dict = convert_state_dict_to_peft(state_dict, original_type=older)
        if not hasattr(model, "text_model"):  # transformers has done away with this level
            state_dict = {key.removeprefix("text_model."): tensor for key, tensor in state_dict.items()}
    return state_dict


def _check_layer(pipeline: Any, key: str, state_dict: StateDict) -> None:
    """Libraries skip a layer that they do not find, or grow the model's own to fit."""
    if not key.endswith((DOWN, UP)):
        raise UnusableLora("unknown_modules", f"this LoRA changes {key[:80]!r}, which the model lacks")
    stem = key.removesuffix(DOWN).removesuffix(UP)
    component, _, name = stem.partition(".")
    given = (state_dict[stem + DOWN].shape[1], state_dict[stem + UP].shape[0])
    if given != (wanted := _channels(_component(pipeline, component), name)):
        raise UnusableLora(
            "wrong_shapes",
            f"the layer {name[:80]!r} maps {given[0]} to {given[1]} channels in this LoRA, "
            f"{wanted[0]} to {wanted[1]} in the model",
        )


def _channels(model: torch.nn.Module, name: str) -> tuple[int, int]:
    """Channels that go into a layer and come out of it."""
    try:
        layer: Any = model.get_submodule(name)
    except AttributeError:
        layer = None
    if hasattr(layer, "in_features"):
        return layer.in_features, layer.out_features
    if hasattr(layer, "in_channels"):
        return layer.in_channels, layer.out_channels
    raise UnusableLora("unknown_modules", f"this LoRA changes the layer {name[:80]!r}, which the model lacks")
