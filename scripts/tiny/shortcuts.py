"""Changes to the libraries that training and evaluation need, in force while a block runs.

Two are exact short cuts for a CPU: the convolution of a single frame (2.1 s a picture without
it, 0.11 s with) and the vision tower's attention over pictures of equal size.  The third
is a setting: the edit pipeline resizes references to areas that suit large pictures.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from diffusers.models.autoencoders import autoencoder_kl_qwenimage as vae_module
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit_plus as edit_module
from torch import Tensor
from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl as encoder_module

from scripts.tiny.creatures import SIZE


@contextmanager
def shortcuts() -> Iterator[None]:
    """Fast single frames, batched vision, references at the native size."""
    changes: tuple[tuple[object, str, Any], ...] = (
        (vae_module.QwenImageCausalConv3d, "forward", _convolve_frame),
        (vae_module.QwenImageRMS_norm, "forward", _normalise),
        (encoder_module.Qwen2_5_VLVisionAttention, "forward", _attend_in_one_batch),
        (edit_module, "CONDITION_IMAGE_SIZE", SIZE * SIZE),
        (edit_module, "VAE_IMAGE_SIZE", SIZE * SIZE),
    )
    with ExitStack() as stack:
        for owner, name, value in changes:
            stack.enter_context(patch.object(owner, name, value))
        yield


_convolve_frames = vae_module.QwenImageCausalConv3d.forward


def _convolve_frame(self, x: Tensor, cache_x: Tensor | None = None) -> Tensor:
    """x [B, C, 1, H, W]: a causal 3D convolution of one frame is a 2D one with the last slice."""
    if cache_x is not None or x.shape[2] != 1 or self.stride[0] != 1:
        return _convolve_frames(self, x, cache_x)
    sides = self._padding[:4]
    frame = F.pad(x[:, :, 0], sides) if any(sides) else x[:, :, 0]
    kernel = self.weight[:, :, -1]
    out = F.conv2d(frame, kernel, self.bias, self.stride[1:], dilation=self.dilation[1:], groups=self.groups)
    return out[:, :, None]


def _normalise(self, x: Tensor) -> Tensor:
    """x [B, C, ...]: the same norm without the slow generic ``F.normalize``."""
    return x * torch.rsqrt(x.square().sum(1, keepdim=True) + 1e-24) * self.scale * self.gamma + self.bias


_attend_one_by_one = encoder_module.Qwen2_5_VLVisionAttention.forward


def _attend_in_one_batch(self, hidden_states, cu_seqlens, position_embeddings=None, max_seqlen=None, **more):
    """hidden_states [patches, D]: attention over pictures of equal size in one call."""
    lengths = cu_seqlens.diff()
    if bool((lengths != lengths[0]).any()):
        return _attend_one_by_one(self, hidden_states, cu_seqlens, position_embeddings, max_seqlen, **more)
    patches, pictures = hidden_states.shape[0], len(lengths)
    parts = self.qkv(hidden_states).reshape(patches, 3, self.num_heads, -1).permute(1, 0, 2, 3)
    query, key = encoder_module.apply_rotary_pos_emb_vision(parts[0], parts[1], *position_embeddings)
    batched = (
        t.reshape(pictures, -1, self.num_heads, self.head_dim).transpose(1, 2) for t in (query, key, parts[2])
    )
    out = F.scaled_dot_product_attention(*batched, scale=self.scaling)
    return self.proj(out.transpose(1, 2).reshape(patches, -1))
