"""The parts of the tiny model: the real classes with small sizes, and where training starts.

| part         | class                              | size |
|--------------|------------------------------------|------|
| VAE          | AutoencoderKLQwenImage             | 1.35 M |
| text encoder | Qwen2_5_VLForConditionalGeneration | 1.24 M |
| transformer  | QwenImageTransformer2DModel        | 3.08 M |
"""

import torch
from diffusers import AutoencoderKLQwenImage, QwenImageTransformer2DModel
from torch import nn
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer

from scripts.tiny.creatures import SIZE
from scripts.tiny.tokenizer import MERGE, PATCH

LATENT_CHANNELS = 16
TOKEN_SIDE = SIZE // 16
"""8 x 8 pixels make a latent, 2 x 2 latents make a token of the transformer."""
TOKENS = TOKEN_SIDE * TOKEN_SIDE
TOKEN_CHANNELS = LATENT_CHANNELS * 4

TEXT_WIDTH, TEXT_LAYERS = 128, 3
VISION_WIDTH, VISION_LAYERS = 96, 3
LAYERS, HEADS, HEAD_WIDTH = 5, 4, 32


# ---------------------------------------------------------------- VAE


def new_vae() -> AutoencoderKLQwenImage:
    """The geometry of the large model, so that its rules on sizes hold here too."""
    vae = AutoencoderKLQwenImage(
        base_dim=16,
        z_dim=LATENT_CHANNELS,
        dim_mult=[1, 2, 2, 3],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        latents_mean=[0.0] * LATENT_CHANNELS,
        latents_std=[1.0] * LATENT_CHANNELS,
    )
    _restart_convolutions(vae)
    return vae


@torch.no_grad()
def _restart_convolutions(vae: AutoencoderKLQwenImage) -> None:
    """Initial weights that let a single-frame VAE learn from the first step.

    For one frame only the last temporal slice of a causal kernel sees data, so the default gain
    is too small and training sits on a plateau.
    """
    for module in vae.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            _restart_convolution(module)
    for module in vae.modules():
        if type(module).__name__ == "QwenImageResidualBlock":
            module.conv2.weight.zero_()


def _restart_convolution(conv: nn.Conv2d | nn.Conv3d) -> None:
    fan_in = conv.in_channels * conv.kernel_size[-1] * conv.kernel_size[-2]
    kernel = conv.weight.zero_()[:, :, -1] if isinstance(conv, nn.Conv3d) else conv.weight
    kernel.normal_(0, fan_in**-0.5)
    if conv.bias is not None:
        conv.bias.zero_()


# ---------------------------------------------------------------- transformer


def new_transformer() -> QwenImageTransformer2DModel:
    transformer = QwenImageTransformer2DModel(
        patch_size=2,
        in_channels=TOKEN_CHANNELS,
        out_channels=LATENT_CHANNELS,
        num_layers=LAYERS,
        attention_head_dim=HEAD_WIDTH,
        num_attention_heads=HEADS,
        joint_attention_dim=TEXT_WIDTH,
        axes_dims_rope=(8, 12, 12),
    )
    _restart_transformer(transformer)
    return transformer


@torch.no_grad()
def _restart_transformer(transformer: QwenImageTransformer2DModel) -> None:
    """Initial weights for fast learning at this size.

    Modulations start as 'no change' with half-open gates, so every block works from the first
    step.  Query and key biases start large: a rotary embedding turns them into a dependence on
    position, the only sense of place that this architecture has.
    """
    for block in transformer.transformer_blocks:
        for modulation in (block.img_mod[1], block.txt_mod[1]):
            modulation.weight.normal_(0, 0.02)
            modulation.bias.zero_().view(2, 3, -1)[:, 2] = 0.5  # (attention, MLP) x (shift, scale, gate)
        for name in ("to_q", "to_k", "add_q_proj", "add_k_proj"):
            getattr(block.attn, name).bias.normal_(0, 0.8)
    transformer.norm_out.linear.weight.normal_(0, 0.02)
    for tensor in (transformer.norm_out.linear.bias, *transformer.proj_out.parameters()):
        tensor.zero_()


# ---------------------------------------------------------------- text encoder


def new_text_encoder(tokenizer: Qwen2Tokenizer) -> Qwen2_5_VLForConditionalGeneration:
    """A small language model with a small vision tower."""
    identifier = tokenizer.convert_tokens_to_ids
    config = Qwen2_5_VLConfig(
        text_config=_language_sizes(tokenizer),
        vision_config=_vision_sizes(),
        hidden_size=TEXT_WIDTH,
        vocab_size=len(tokenizer),
        image_token_id=identifier("<|image_pad|>"),
        video_token_id=identifier("<|video_pad|>"),
        vision_start_token_id=identifier("<|vision_start|>"),
        vision_end_token_id=identifier("<|vision_end|>"),
    )
    encoder = Qwen2_5_VLForConditionalGeneration(config)
    encoder.generation_config.eos_token_id = identifier("<|im_end|>")
    encoder.generation_config.pad_token_id = identifier("<|endoftext|>")
    return encoder


def _language_sizes(tokenizer: Qwen2Tokenizer) -> dict[str, object]:
    return {
        "hidden_size": TEXT_WIDTH,
        "intermediate_size": 2 * TEXT_WIDTH,
        "num_hidden_layers": TEXT_LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": len(tokenizer),
        "rope_theta": 1e4,
        "rope_scaling": {"mrope_section": [4, 6, 6], "rope_type": "default", "type": "default"},
        "initializer_range": 0.05,
        "eos_token_id": tokenizer.convert_tokens_to_ids("<|im_end|>"),
        "pad_token_id": tokenizer.convert_tokens_to_ids("<|endoftext|>"),
        "bos_token_id": None,
    }


def _vision_sizes() -> dict[str, object]:
    return {
        "depth": VISION_LAYERS,
        "hidden_size": VISION_WIDTH,
        "intermediate_size": 2 * VISION_WIDTH,
        "num_heads": 3,
        "out_hidden_size": TEXT_WIDTH,
        "patch_size": PATCH,
        "spatial_merge_size": MERGE,
        "initializer_range": 0.05,
        "fullatt_block_indexes": list(range(VISION_LAYERS)),
    }
