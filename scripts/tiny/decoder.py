"""Stage 4, the decoder alone: sharper details on whole pictures.

The encoder, and so every latent, stays as it is.  The transformer never sees the decoder.
"""

from diffusers import AutoencoderKLQwenImage
from torch import Tensor

from scripts.tiny import latents
from scripts.tiny.loop import Dice, Stage, adamw, fit
from scripts.tiny.run import Run
from scripts.tiny.vae import drawings, mean_error, picture_loss

DRAWINGS = 1600
BATCH = 3
LATENT_NOISE = 0.15


def train(run: Run) -> None:
    vae = AutoencoderKLQwenImage.from_pretrained(run.part("vae")).to(run.device).requires_grad_(False)
    pool = drawings(run, "decoder", DRAWINGS)
    encoded = latents.encode(vae, pool)
    parameters = [*vae.decoder.parameters(), *vae.post_quant_conv.parameters()]
    for parameter in parameters:
        parameter.requires_grad_(True)
    stage = Stage(
        name="decoder",
        parameters=parameters,
        optimizers=[adamw(parameters)],
        loss=lambda _, dice: _loss(vae, encoded, pool, dice),
        rate=1.5e-3,
        warmup=30,
        decay=0.99,
    )
    fit(
        stage,
        steps=run.steps("decoder"),
        seed=run.seed,
        checkpoint=run.checkpoint("decoder"),
        report=run.reporter("decoder"),
    )
    run.log("decoder", mean_error_of_255=mean_error(vae, pool))
    run.finish("decoder", vae)


def _loss(
    vae: AutoencoderKLQwenImage, encoded: Tensor, pool: Tensor, dice: Dice
) -> tuple[Tensor, dict[str, float]]:
    """Pictures [B, 3, 1, H, W] from their latents [B, C, 1, h, w], each with its own share of noise."""
    rows = dice.rows(len(pool), BATCH).to(pool.device)
    amount = LATENT_NOISE * dice.uniform(BATCH, 1, 1, 1, 1).to(pool.device)
    noisy = encoded[rows] + amount * dice.normal_like(encoded[rows])
    loss = picture_loss(vae.decode(noisy).sample, pool[rows])
    return loss, {"loss": loss.item()}
