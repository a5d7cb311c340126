"""Drawing over a picture: how far to leave it (``strength``), and where (``mask``).

One mechanism for every pipeline that takes ``latents`` and ``sigmas``: it starts part of the way from a mix
of the picture and noise, as diffusers' image-to-image pipelines do, and after each step puts the picture's
own latents back outside the mask, as its inpainting pipelines do.  Beyond those, any number of reference
pictures may condition the run, and outside the mask the result has the picture's own pixels.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers.pipelines.qwenimage.pipeline_qwenimage import calculate_shift
from PIL import Image

from modal_app.catalog import Size

DEFAULT_STRENGTH = 0.6
"""Without a mask; with one, what is masked is drawn anew from noise."""
OPAQUE = 128
"""Of 255: where a mask's transparency, or its white, begins."""


@dataclass(frozen=True)
class Repaint:
    """A picture to start from, at the requested size, and perhaps a mask of the same size."""

    picture: Image.Image
    mask: Image.Image | None
    """Mode L: 255 is drawn anew, 0 stays."""
    strength: float

    def sigmas(self, steps: int) -> list[float]:
        """The noise levels that are left of ``steps``, before the scheduler's own shift; maybe none."""
        start = int(max(steps - min(steps * self.strength, steps), 0))
        return [float(sigma) for sigma in np.linspace(1.0, 1 / steps, steps)[start:]]

    def restored(self, drawn: Image.Image) -> Image.Image:
        """The result with the picture's own pixels outside the mask."""
        if self.mask is None:
            return drawn
        return Image.composite(drawn, self.picture, self.mask)


def of_request(picture: Image.Image, mask: Image.Image | None, strength: float | None, size: Size) -> Repaint:
    """Everything brought to the requested size; sides are scaled independently."""
    default = DEFAULT_STRENGTH if mask is None else 1.0
    return Repaint(
        picture=picture.convert("RGB").resize(size, Image.Resampling.LANCZOS),
        mask=_mask(mask).resize(size, Image.Resampling.NEAREST) if mask is not None else None,
        strength=default if strength is None else strength,
    )


def _mask(mask: Image.Image) -> Image.Image:
    """Mode L, 0 or 255.  Transparency decides where there is any, whiteness elsewhere."""
    if "A" in mask.getbands() or "transparency" in mask.info:
        clear = mask.convert("RGBA").getchannel("A").point(lambda alpha: 255 if alpha < OPAQUE else 0)
        if clear.getbbox():
            return clear
    return mask.convert("L").point(lambda white: 255 if white >= OPAQUE else 0)


class Latents:
    """A repaint in the latent space of one pipeline, for one picture."""

    def __init__(self, repaint: Repaint, pipeline: Any, native_size: Size, noise: torch.Tensor) -> None:
        """``noise`` [1, tokens, channels] is what the pipeline would have started from."""
        self._noise = noise
        self._own = _encoded(repaint.picture, pipeline, native_size).to(noise)
        self._open = _open_tokens(repaint.mask, pipeline, native_size, noise) if repaint.mask else None
        self._scheduler = pipeline.scheduler

    def start(self, sigmas: list[float]) -> torch.Tensor:
        """The mix that the first of the ``sigmas`` stands for, [1, tokens, channels]."""
        _set_timesteps(self._scheduler, sigmas, tokens=self._noise.shape[1])
        return self._at(self._scheduler.sigmas[0])

    def after(self, step: int, latents: torch.Tensor) -> torch.Tensor:
        """``latents`` after a step, with the picture's own outside the mask, at the same noise level."""
        if self._open is None:
            return latents
        return torch.where(self._open, latents, self._at(self._scheduler.sigmas[step + 1]))

    def _at(self, sigma: torch.Tensor) -> torch.Tensor:
        level = float(sigma)
        return level * self._noise + (1.0 - level) * self._own


def _set_timesteps(scheduler: Any, sigmas: list[float], tokens: int) -> None:
    """As the pipelines do it: the shift depends on the size of the picture."""
    config = scheduler.config
    mu = calculate_shift(
        tokens,
        config.get("base_image_seq_len", 256),
        config.get("max_image_seq_len", 4096),
        config.get("base_shift", 0.5),
        config.get("max_shift", 1.15),
    )
    scheduler.set_timesteps(sigmas=sigmas, mu=mu)


def _encoded(picture: Image.Image, pipeline: Any, native_size: Size) -> torch.Tensor:
    """Packed latents [1, tokens, channels] of a picture."""
    width, height = native_size
    pixels = pipeline.image_processor.preprocess(picture, height, width).unsqueeze(2)
    vae = pipeline.vae
    with torch.no_grad():
        latents = vae.encode(pixels.to(vae.device, vae.dtype)).latent_dist.mode()
    mean, std = (
        torch.tensor(values).view(1, -1, 1, 1, 1).to(latents)
        for values in (vae.config.latents_mean, vae.config.latents_std)
    )
    return _packed((latents - mean) / std, pipeline)


def _open_tokens(mask: Image.Image, pipeline: Any, native_size: Size, like: torch.Tensor) -> torch.Tensor:
    """[1, tokens, channels], true where a latent sees a pixel that is drawn anew."""
    scale = pipeline.vae_scale_factor
    width, height = native_size
    wide = torch.from_numpy(np.asarray(mask, dtype=np.float32))[None, None] / 255
    # The maximum, so that a thin line of the mask opens every latent it touches.
    opened = F.adaptive_max_pool2d(wide, (height // scale, width // scale)) > 0
    channels = like.shape[2] // 4
    return _packed(opened[:, :, None].expand(1, channels, 1, -1, -1), pipeline).to(like.device)


def _packed(latents: torch.Tensor, pipeline: Any) -> torch.Tensor:
    """[1, C, 1, H, W] to [1, H/2 * W/2, 4 C]."""
    _, channels, _, height, width = latents.shape
    packed: torch.Tensor = pipeline._pack_latents(latents[:, :, 0].contiguous(), 1, channels, height, width)
    return packed
