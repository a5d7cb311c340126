"""Checkpoints of random weights in the formats of the real ones, a few hundred kilobytes each.

The folders have diffusers' layout.  ``single_file`` writes the layout of the original Stable Diffusion, in
which checkpoints are passed around; its names follow the keys that such files have.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    PNDMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import save_file
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

WIDTH = 32
"""Of text encoders; the second one of XL is twice as wide, by which its weights are told from the first's."""

LETTERS = "abcdefghijklmnopqrstuvwxyz"
LEVELS, LAYERS = 2, 1
"""Of the UNet and the VAE: levels of resolution, and residual blocks on the way down each."""


def flux(folder: Path, guided: bool) -> None:
    """FLUX.1 [dev] if ``guided``, else [schnell], which reads no guidance."""
    torch.manual_seed(0)
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        guidance_embeds=guided,
        axes_dims_rope=[4, 4, 8],
    )
    FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=guided),
        vae=_vae(quant_conv=False, shift_factor=0.1),
        text_encoder=_clip(CLIPTextModel),
        tokenizer=_clip_tokenizer(folder),
        text_encoder_2=T5EncoderModel(
            T5Config(vocab_size=64, d_model=WIDTH, d_kv=16, d_ff=WIDTH, num_layers=1, num_heads=2)
        ),
        tokenizer_2=_t5_tokenizer(),
        transformer=transformer,
    ).save_pretrained(folder, safe_serialization=True)


def sdxl(folder: Path, variant: str | None = None) -> None:
    torch.manual_seed(1)
    unet = _unet(
        cross_attention_dim=3 * WIDTH,
        transformer_layers_per_block=(1, 2),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 2 * WIDTH,
    )
    tokenizer = _clip_tokenizer(folder)
    StableDiffusionXLPipeline(
        vae=_vae(),
        text_encoder=_clip(CLIPTextModel),
        text_encoder_2=_clip(CLIPTextModelWithProjection, 2 * WIDTH),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=unet,
        scheduler=EulerDiscreteScheduler(**_NOISE),
        add_watermarker=False,
    ).save_pretrained(folder, safe_serialization=True, variant=variant)


def sd1(folder: Path) -> None:
    torch.manual_seed(2)
    StableDiffusionPipeline(
        vae=_vae(),
        text_encoder=_clip(CLIPTextModel),
        tokenizer=_clip_tokenizer(folder),
        unet=_unet(cross_attention_dim=WIDTH),
        scheduler=PNDMScheduler(skip_prk_steps=True, set_alpha_to_one=False, steps_offset=1, **_NOISE),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder, safe_serialization=True)


def single_file(pipeline: Any, file: Path) -> None:
    """One safetensors file of a whole Stable Diffusion 1 or XL pipeline."""
    tensors: dict[str, torch.Tensor] = {}
    for name, tensor in pipeline.unet.state_dict().items():
        tensors[f"model.diffusion_model.{_unet_key(name)}"] = tensor
    for name, tensor in pipeline.vae.state_dict().items():
        convolution = ".attentions." in name and tensor.ndim == 2  # the originals are 1 x 1 convolutions
        tensors[f"first_stage_model.{_vae_key(name)}"] = tensor[:, :, None, None] if convolution else tensor
    if hasattr(pipeline, "text_encoder_2"):
        first = "conditioner.embedders.0.transformer"
        second = _open_clip(pipeline.text_encoder_2.state_dict())
        tensors |= {f"conditioner.embedders.1.model.{name}": tensor for name, tensor in second}
    else:
        first = "cond_stage_model.transformer"
    tensors |= {
        f"{first}.{_with_text_model(name)}": tensor
        for name, tensor in pipeline.text_encoder.state_dict().items()
    }
    save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, file)


_NOISE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
"""What Stable Diffusion was trained with."""


def _vae(quant_conv: bool = True, shift_factor: float | None = None) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(32, 64),
        down_block_types=("DownEncoderBlock2D",) * LEVELS,
        up_block_types=("UpDecoderBlock2D",) * LEVELS,
        layers_per_block=LAYERS,
        latent_channels=4,
        sample_size=64,
        use_quant_conv=quant_conv,
        use_post_quant_conv=quant_conv,
        shift_factor=shift_factor,
    )


def _unet(**options: Any) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=32,
        in_channels=4,
        out_channels=4,
        block_out_channels=(32, 64),
        layers_per_block=LAYERS,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(2, 4),
        **options,
    )


def _clip(made: type[Any], width: int = WIDTH) -> Any:
    return made(
        CLIPTextConfig(
            vocab_size=2 * len(LETTERS) + 3,
            hidden_size=width,
            intermediate_size=width,
            projection_dim=width,
            num_hidden_layers=4,
            num_attention_heads=2,
            max_position_embeddings=77,
            bos_token_id=2 * len(LETTERS) + 1,
            eos_token_id=2 * len(LETTERS) + 2,
            pad_token_id=2 * len(LETTERS) + 2,
        )
    )


def _clip_tokenizer(folder: Path) -> CLIPTokenizer:
    """A token per letter."""
    pieces = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), ",</w>", "<|startoftext|>", "<|endoftext|>"]
    source = folder / "letters"
    source.mkdir(parents=True)
    (source / "vocab.json").write_text(json.dumps({piece: number for number, piece in enumerate(pieces)}))
    (source / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer.from_pretrained(source, model_max_length=77)


def _t5_tokenizer() -> T5Tokenizer:
    """A token per letter."""
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    return T5Tokenizer(vocab=[*special, *((piece, -2.0) for piece in f"▁{LETTERS},")], extra_ids=0)


_UNET_TOP = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}


def _unet_key(name: str) -> str:
    top, _, last = name.rpartition(".")
    if top in _UNET_TOP:
        return f"{_UNET_TOP[top]}.{last}"
    if middle := re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d)\.(.+)", name):
        kind, number, rest = middle.groups()
        place = 1 if kind == "attentions" else 2 * int(number)
        return f"middle_block.{place}.{_resnet(rest) if kind == 'resnets' else rest}"
    found = re.fullmatch(r"(down|up)_blocks\.(\d)\.(\w+)\.(\d)\.(.+)", name)
    assert found, name
    side, block, kind, number, rest = found.groups()
    first = int(block) * (LAYERS + 1)
    if side == "down":
        return _down(kind, 1 + first + int(number), first + LAYERS + 1, rest)
    attends = block == "0"
    if kind == "upsamplers":
        return f"output_blocks.{first + LAYERS}.{2 if attends else 1}.{rest}"
    return f"output_blocks.{first + int(number)}.{_resnet_or_attention(kind, rest)}"


def _down(kind: str, place: int, after: int, rest: str) -> str:
    if kind == "downsamplers":
        return f"input_blocks.{after}.0.{rest.replace('conv', 'op')}"
    return f"input_blocks.{place}.{_resnet_or_attention(kind, rest)}"


def _resnet_or_attention(kind: str, rest: str) -> str:
    return f"0.{_resnet(rest)}" if kind == "resnets" else f"1.{rest}"


def _resnet(rest: str) -> str:
    part, _, last = rest.rpartition(".")
    return f"{_RESNET[part]}.{last}"


_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def _vae_key(name: str) -> str:
    name = name.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda match: f"mid.block_{int(match[1]) + 1}", name)
    name = re.sub(
        r"mid_block\.attentions\.0\.(.+)\.", lambda match: f"mid.attn_1.{_VAE_ATTENTION[match[1]]}.", name
    )
    name = re.sub(r"down_blocks\.(\d)\.resnets", r"down.\1.block", name)
    name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(r"up_blocks\.(\d)", lambda match: f"up.{LEVELS - 1 - int(match[1])}", name)
    name = re.sub(r"up\.(\d)\.resnets", r"up.\1.block", name)
    return re.sub(r"up\.(\d)\.upsamplers\.0", r"up.\1.upsample", name)


def _with_text_model(name: str) -> str:
    return name if name.startswith(("text_model.", "text_projection")) else f"text_model.{name}"


_OPEN_CLIP = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}


def _open_clip(state: dict[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    """The second text encoder of XL: query, key and value are one matrix, the projection is transposed."""
    state = {_with_text_model(name): tensor for name, tensor in state.items()}
    yield "token_embedding.weight", state["text_model.embeddings.token_embedding.weight"]
    yield "positional_embedding", state["text_model.embeddings.position_embedding.weight"]
    yield "text_projection", state["text_projection.weight"].T
    for last in ("weight", "bias"):
        yield f"ln_final.{last}", state[f"text_model.final_layer_norm.{last}"]
    for layer in range(4):
        here, there = f"text_model.encoder.layers.{layer}", f"transformer.resblocks.{layer}"
        for last in ("weight", "bias"):
            joined = [state[f"{here}.self_attn.{part}_proj.{last}"] for part in "qkv"]
            yield f"{there}.attn.in_proj_{last}", torch.cat(joined)
            for ours, theirs in _OPEN_CLIP.items():
                yield f"{there}.{theirs}.{last}", state[f"{here}.{ours}.{last}"]
