"""Stage 1, the VAE: pictures to latents and back."""

import random

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLQwenImage
from torch import Tensor

from scripts.tiny import captions, creatures, drawing, latents, parts
from scripts.tiny.loop import Dice, Stage, adamw, fit
from scripts.tiny.run import Run

DRAWINGS = 2500
BATCH, CROP = 12, 48
LATENT_NOISE = 0.06
"""Keeps the latents smooth: the transformer will not hit them exactly."""


def train(run: Run) -> None:
    torch.manual_seed(run.seed)
    vae = parts.new_vae().to(run.device).train()
    pool = drawings(run, "vae", DRAWINGS)
    parameters = list(vae.parameters())
    stage = Stage(
        name="vae",
        parameters=parameters,
        optimizers=[adamw(parameters)],
        loss=lambda _, dice: _loss(vae, _crops(pool, dice), dice),
        rate=2e-3,
        warmup=30,
        decay=0.99,
    )
    fit(
        stage,
        steps=run.steps("vae"),
        seed=run.seed,
        checkpoint=run.checkpoint("vae"),
        report=run.reporter("vae"),
    )
    _store_statistics(vae.eval(), pool)
    run.log("vae", mean_error_of_255=mean_error(vae, pool))
    run.finish("vae", vae)


def drawings(run: Run, purpose: str, count: int) -> Tensor:
    """[N, 3, 1, H, W] on the device of the run."""
    rng = run.rng(purpose)
    images = [drawing.draw(_any_picture(rng)) for _ in range(run.count(count))]
    return latents.to_tensor(images).to(run.device)


def _any_picture(rng: random.Random) -> creatures.Picture:
    """A picture of one creature, or (one time in six) of two; three in ten may be styled."""
    style = "standard" if rng.random() < 0.7 else rng.choice(creatures.STYLES)
    first = creatures.random_picture(rng, style)
    if rng.random() < 1 / 6:
        return captions.pair(rng, first, creatures.random_picture(rng))[1]
    return first


def _crops(pool: Tensor, dice: Dice) -> Tensor:
    """[BATCH, 3, 1, CROP, CROP], all from one place, on the grid of the latents."""
    places = (creatures.SIZE - CROP) // 8 + 1
    y, x = 8 * dice.rng.randrange(places), 8 * dice.rng.randrange(places)
    return pool[dice.rows(len(pool), BATCH).to(pool.device)][..., y : y + CROP, x : x + CROP]


def _loss(vae: AutoencoderKLQwenImage, images: Tensor, dice: Dice) -> tuple[Tensor, dict[str, float]]:
    """Reconstruction of images [B, 3, 1, H, W] from noisy latents, which are kept small."""
    mean = vae.encode(images).latent_dist.mean
    decoded = vae.decode(mean + LATENT_NOISE * dice.normal_like(mean)).sample
    loss = picture_loss(decoded, images) + 3e-4 * mean.square().mean()
    return loss, {"loss": loss.item()}


def picture_loss(decoded: Tensor, images: Tensor) -> Tensor:
    """Weighted L1 + L2, plus the total variation of the error; both [B, 3, 1, H, W] -> scalar."""
    error = decoded - images
    weights = _detail_weights(images)
    pixels = (weights * (error.abs() + error.square())).mean() / weights.mean()
    edges = (error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()) / 2
    return pixels + edges


def _detail_weights(images: Tensor) -> Tensor:
    """[B, 3, 1, H, W] -> [B, 1, 1, H, W]: 1 on flat areas, up to 5 at eyes and outlines.

    Without them small features vanish: they are few pixels.
    """
    flat = images[:, :, 0]
    high, low = F.max_pool2d(flat, 5, 1, 2), -F.max_pool2d(-flat, 5, 1, 2)
    return 1 + 4 * ((high - low).amax(1, keepdim=True) / 1.5).clamp(max=1)[:, :, None]


def _store_statistics(vae: AutoencoderKLQwenImage, pool: Tensor) -> None:
    """Mean and spread of every latent channel, by which the pipelines normalise."""
    values = latents.encode(vae, pool[:512])
    axes = (0, 2, 3, 4)
    vae.register_to_config(latents_mean=values.mean(axes).tolist(), latents_std=values.std(axes).tolist())


@torch.no_grad()
def mean_error(vae: AutoencoderKLQwenImage, pool: Tensor) -> float:
    """Mean error of a channel of a pixel after encoding and decoding, of 255."""
    images = pool[:64]
    return (vae.decode(latents.encode(vae, images)).sample - images).abs().mean().item() * 127.5
