"""A checkpoint of Qwen-Image 2.1 with random weights, in the format of the real one, a megabyte in all."""

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLQwenImage21,
    FlowMatchEulerDiscreteScheduler,
    QwenImage21Pipeline,
    QwenImage21Transformer2DModel,
)
from tokenizers import pre_tokenizers
from transformers import Qwen2Tokenizer, Qwen3VLConfig, Qwen3VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from modal_app.engine.qwen21 import _PicturesOnly

WIDTH = 32
"""Of the text encoder, and of the transformer."""
CHANNELS = 16
"""Of latents."""
MARKS = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"),
    *("<|image_pad|>", "<|video_pad|>"),
)
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}"
    "{{ part.text }}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
)


def qwen21(folder: Path, sample_sigmas: list[float] | None = None) -> None:
    """``sample_sigmas``: the noise levels that distilled checkpoints bring along."""
    torch.manual_seed(3)
    tokenizer = _tokenizer()
    pipeline = QwenImage21Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=_vae(),
        text_encoder=_text_encoder(tokenizer),
        processor=_processor(tokenizer),
        transformer=_transformer(),
        sample_sigmas=sample_sigmas,
    )
    pipeline.save_pretrained(folder, safe_serialization=True)


def _transformer() -> Any:
    return QwenImage21Transformer2DModel(
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=WIDTH // 16,
        context_in_dim=WIDTH,
        axes_dims_rope=(4, 6, 6),
    )


def _vae() -> Any:
    return AutoencoderKLQwenImage21(
        base_dim=8,
        decoder_base_dim=8,
        z_dim=CHANNELS,
        dim_mult=[1, 2, 2, 2, 2],
        num_res_blocks=1,
        latents_mean=[0.0] * CHANNELS,
        latents_std=[1.0] * CHANNELS,
    )


def _text_encoder(tokenizer: Any) -> Any:
    words = {
        "vocab_size": len(tokenizer),
        "hidden_size": WIDTH,
        "intermediate_size": WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "mrope_section": [4, 2, 2],
            "mrope_interleaved": True,
        },
    }
    pictures = {
        "depth": 2,
        "hidden_size": WIDTH,
        "intermediate_size": WIDTH,
        "num_heads": 2,
        "out_hidden_size": WIDTH,
        "num_position_embeddings": 16,
        "deepstack_visual_indexes": [0],
    }
    names = {
        "image_token_id": "<|image_pad|>",
        "video_token_id": "<|video_pad|>",
        "vision_start_token_id": "<|vision_start|>",
        "vision_end_token_id": "<|vision_end|>",
    }
    ids = {name: tokenizer.convert_tokens_to_ids(mark) for name, mark in names.items()}
    return Qwen3VLForConditionalGeneration(Qwen3VLConfig(text_config=words, vision_config=pictures, **ids))


def _processor(tokenizer: Any) -> Any:
    """Pictures keep their size, as megapixels do with the real one."""
    images = Qwen2VLImageProcessorPil(
        size={"shortest_edge": 32 * 32, "longest_edge": 4096 * 4096},
        patch_size=16,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    return _PicturesOnly(images, tokenizer, chat_template=CHAT_TEMPLATE)


def _tokenizer() -> Qwen2Tokenizer:
    """A token per byte."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Qwen2Tokenizer(
        vocab={piece: number for number, piece in enumerate([*letters, "<|endoftext|>"])},
        merges=[],
        additional_special_tokens=list(MARKS[1:]),
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer
