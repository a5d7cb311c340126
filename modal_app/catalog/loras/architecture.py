"""Which architecture a LoRA is made for, from the names and shapes of the layers that it changes."""

import re
from collections.abc import Mapping

from modal_app.catalog.loras.invalid import InvalidLora

Shape = tuple[int, ...]
Shapes = Mapping[str, tuple[Shape, Shape]]
"""Flat name of a layer -> shapes of its down and its up."""


def group_of(shapes: Shapes) -> str:
    """A base model of the catalog, from the layers outside text encoders; InvalidLora when it is none."""
    if not shapes:
        raise InvalidLora("text_encoder_only", "this LoRA changes the text encoder only, not what draws")
    blocks = {name: pair for name, pair in shapes.items() if _BLOCK.match(name)}
    group = _qwen(blocks) or _flux(blocks) or _stable_diffusion(shapes)
    if group is None:
        raise InvalidLora("unknown_architecture", "this LoRA is made for a model that is not known here")
    return group


_QWEN_WIDTHS, _FLUX_WIDTH = {3072: "Qwen", 4096: "Qwen 2.1"}, 3072
_FLUX_DOUBLE_BLOCKS, _FLUX_SINGLE_BLOCKS = 19, 38
_SDXL_CONTEXT, _SD15_CONTEXT = 2048, 768
"""Channels of the text that the cross-attention reads."""

_ATTENTION = r"attn_(?:to_[qkv]|to_out_0|to_add_out|add_[qkv]_proj)"
_QWEN_ONLY = re.compile(
    r"transformer_blocks_\d+_(?:img|txt)_(?:mlp_net_(?:0_proj|2)|mod_1)"
    r"|transformer_blocks_\d+_img_mlp_(?:proj|gate_layer|out)"
)
_SHARED = re.compile(rf"transformer_blocks_\d+_{_ATTENTION}")
_FLUX_ONLY = re.compile(
    r"single_transformer_blocks_\d+_(?:attn_to_[qkv]|norm_linear|proj_mlp|proj_out)"
    r"|transformer_blocks_\d+_(?:ff|ff_context)_net_(?:0_proj|2)"
    r"|transformer_blocks_\d+_(?:norm1|norm1_context)_linear"
    r"|double_blocks_\d+_(?:img|txt)_(?:attn_qkv|attn_proj|mlp_0|mlp_2|mod_lin)"
    r"|single_blocks_\d+_(?:linear1|linear2|modulation_lin)"
)
_READS_WIDTH = re.compile(
    rf".*_(?:{_ATTENTION}|attn_qkv|attn_proj|net_0_proj|mlp_0|mod_1|mod_lin|modulation_lin"
    r"|norm_linear|norm1_linear|norm1_context_linear|linear1|proj_mlp|img_mlp_proj|gate_layer)"
)
_WRITES_WIDTH = re.compile(r".*_(?:net_2|mlp_2|linear2|proj_out|img_mlp_out)")
_BLOCK = re.compile(r"(?:single_)?(?:transformer_|double_)?blocks_(\d{1,4})_")
_UNET = re.compile(r"(?:down_blocks|mid_block|up_blocks|input_blocks|middle_block|output_blocks)_")
_CROSS_ATTENTION = re.compile(r".*_attn2_(?:processor_)?to_[kv]")


def _qwen(blocks: Shapes) -> str | None:
    """Qwen-Image, told apart by its width.  Attention alone, in the first blocks, could be FLUX's as well."""
    if not all(_QWEN_ONLY.fullmatch(name) or _SHARED.fullmatch(name) for name in blocks):
        return None
    width = _width(blocks)
    distinct = any(_QWEN_ONLY.fullmatch(name) for name in blocks)
    if width is None or not (distinct or width != _FLUX_WIDTH or _depth(blocks) > _FLUX_DOUBLE_BLOCKS):
        return None
    return _QWEN_WIDTHS.get(width, "tiny")


def _flux(blocks: Shapes) -> str | None:
    """FLUX.1: 19 double and 38 single blocks; its kin (FLUX.2, HunyuanVideo) are wider or deeper."""
    if not all(_FLUX_ONLY.fullmatch(name) or _SHARED.fullmatch(name) for name in blocks):
        return None
    single = {name: pair for name, pair in blocks.items() if name.startswith("single_")}
    double = {name: pair for name, pair in blocks.items() if name not in single}
    fits = _depth(double) <= _FLUX_DOUBLE_BLOCKS and _depth(single) <= _FLUX_SINGLE_BLOCKS
    distinct = any(_FLUX_ONLY.fullmatch(name) for name in blocks)
    return "Flux.1" if distinct and fits and _width(blocks) == _FLUX_WIDTH else None


def _stable_diffusion(shapes: Shapes) -> str | None:
    if not any(_UNET.match(name) for name in shapes):
        return None
    contexts = {down[1] for name, (down, _) in shapes.items() if _CROSS_ATTENTION.fullmatch(name)}
    if contexts:
        return (
            {_SDXL_CONTEXT: "SDXL", _SD15_CONTEXT: "SD 1.5"}.get(contexts.pop())
            if len(contexts) == 1
            else None
        )
    # Without cross-attention: only SDXL has several transformer blocks in one place,
    # and only its trainers kept the names of the original code.
    deep = any(re.search(r"_transformer_blocks_[1-9]", name) for name in shapes)
    original = any(re.match(r"(?:input_blocks|middle_block|output_blocks)_", name) for name in shapes)
    outer = any(name.startswith("down_blocks_0_attentions") for name in shapes)
    return "SDXL" if deep or original else "SD 1.5" if outer else None


def _width(blocks: Shapes) -> int | None:
    """Channels between the blocks; None when the layers do not agree."""
    widths = {down[1] for name, (down, _) in blocks.items() if _READS_WIDTH.fullmatch(name)}
    widths |= {up[0] for name, (_, up) in blocks.items() if _WRITES_WIDTH.fullmatch(name)}
    return widths.pop() if len(widths) == 1 else None


def _depth(blocks: Shapes) -> int:
    """One more than the highest number of a block."""
    found = (_BLOCK.match(name) for name in blocks)
    return 1 + max((int(match[1]) for match in found if match), default=-1)
