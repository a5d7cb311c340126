"""Exact short cuts for pictures in the video VAE of Qwen-Image, on CPUs.

The VAE treats a picture as a video of one frame.  Its causal 3D convolutions then see zeros in all but
the last temporal slice of their weights, and CPUs have no fast path for that; 2D convolutions with the
last slice compute the same sums.
"""

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLQwenImage
from diffusers.models.autoencoders.autoencoder_kl_qwenimage import QwenImageCausalConv3d, QwenImageRMS_norm


def use_single_frame_short_cuts(vae: AutoencoderKLQwenImage) -> None:
    """Exchange the slow layers of this one object; other VAEs in the process stay as they are.

    Only the class of each layer changes: parameters, names and ``state_dict`` are untouched, and
    ``isinstance`` checks of the VAE's own code still hold.  Results differ by rounding (1e-5 of -1..1).
    """
    for layer in vae.modules():
        if type(layer) is QwenImageCausalConv3d:
            layer.__class__ = _SingleFrameConv
        elif type(layer) is QwenImageRMS_norm and layer.channel_first:
            layer.__class__ = _PlainNorm


class _SingleFrameConv(QwenImageCausalConv3d):  # type: ignore[misc]
    def forward(self, x: torch.Tensor, cache_x: torch.Tensor | None = None) -> torch.Tensor:
        """x [B, C, T, H, W]; more than one frame, or a cached one, goes the stock way."""
        if cache_x is not None or x.shape[2] != 1 or self.stride[0] != 1:
            stock: torch.Tensor = super().forward(x, cache_x)
            return stock
        frame = F.pad(x[:, :, 0], self._padding[:4])
        weight = self.weight[:, :, -1]
        return F.conv2d(frame, weight, self.bias, self.stride[1:], 0, self.dilation[1:], self.groups)[
            :, :, None
        ]


class _PlainNorm(QwenImageRMS_norm):  # type: ignore[misc]
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [B, C, ...] in float32, without the detours of the generic ``F.normalize``."""
        if x.dtype != torch.float32:
            stock: torch.Tensor = super().forward(x)
            return stock
        inverse = torch.rsqrt(x.square().sum(1, keepdim=True) + 1e-24)
        return x * inverse * (self.scale * self.gamma) + self.bias
