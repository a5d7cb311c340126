"""Pictures as tensors, and as the normalised latent tokens that the transformer reads."""

from collections.abc import Sequence

import numpy as np
import torch
from diffusers import AutoencoderKLQwenImage
from PIL import Image
from torch import Tensor

from scripts.tiny.parts import TOKEN_CHANNELS, TOKENS

BATCH = 32


def to_tensor(images: Sequence[Image.Image]) -> Tensor:
    """Images -> [B, 3, 1, H, W] in -1..1: videos of one frame."""
    pixels = np.stack([np.asarray(image.convert("RGB")) for image in images])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float()[:, :, None] / 127.5 - 1


@torch.no_grad()
def encode(vae: AutoencoderKLQwenImage, frames: Tensor) -> Tensor:
    """frames [B, 3, 1, H, W] on any device -> latents [B, C, 1, H / 8, W / 8] on the VAE's."""
    batches = (vae.encode(part.to(vae.device)).latent_dist.mode() for part in frames.split(BATCH))
    return torch.cat(list(batches))


def to_tokens(vae: AutoencoderKLQwenImage, images: Sequence[Image.Image]) -> Tensor:
    """Images -> normalised tokens [B, TOKENS, TOKEN_CHANNELS], packed as the pipelines do."""
    mean, std = _statistics(vae)
    latents = ((encode(vae, to_tensor(images)) - mean) / std)[:, :, 0]
    b, c, h, w = latents.shape
    packed = latents.view(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return packed.reshape(b, TOKENS, TOKEN_CHANNELS)


def _statistics(vae: AutoencoderKLQwenImage) -> tuple[Tensor, Tensor]:
    """(mean, standard deviation) of every channel, each [1, C, 1, 1, 1]."""
    mean, std = (
        torch.tensor(values, device=vae.device).view(1, -1, 1, 1, 1)
        for values in (vae.config.latents_mean, vae.config.latents_std)
    )
    return mean, std
