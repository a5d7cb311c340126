"""Rectified flow: the transformer predicts the way from a picture to noise."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from diffusers import QwenImageTransformer2DModel
from torch import Tensor

from scripts.tiny.loop import Dice
from scripts.tiny.parts import TOKEN_SIDE


def flow_loss(
    transformer: QwenImageTransformer2DModel,
    dice: Dice,
    targets: Tensor,
    references: Sequence[Tensor],
    hidden: Tensor,
    mask: Tensor,
) -> Tensor:
    """Squared error of the predicted velocity on the line between picture and noise.

    targets and each reference [B, T, C], hidden [B, S, D], mask [B, S] -> scalar.
    """
    sigma, noise = _noise_levels(dice, len(targets)).to(targets.device), dice.normal_like(targets)
    mix = sigma.view(-1, 1, 1)
    noisy = (1 - mix) * targets + mix * noise
    return F.mse_loss(_velocity(transformer, noisy, references, sigma, hidden, mask), noise - targets)


def _noise_levels(dice: Dice, count: int) -> Tensor:
    """[count] in 0..1: mostly logit-normal, one in five uniform."""
    mostly = torch.sigmoid(0.3 + 1.1 * dice.normal(count))
    return torch.where(dice.uniform(count) < 0.2, dice.uniform(count), mostly)


def _velocity(
    transformer: QwenImageTransformer2DModel,
    noisy: Tensor,
    references: Sequence[Tensor],
    sigma: Tensor,
    hidden: Tensor,
    mask: Tensor,
) -> Tensor:
    """noisy [B, T, C], sigma [B] -> [B, T, C]; the references follow as further pictures."""
    shapes = [[(1, TOKEN_SIDE, TOKEN_SIDE)] * (1 + len(references))] * len(noisy)
    out = transformer(
        hidden_states=torch.cat([noisy, *references], 1),
        timestep=sigma,
        encoder_hidden_states=hidden,
        encoder_hidden_states_mask=mask,
        img_shapes=shapes,
        return_dict=False,
    )[0]
    return out[:, : noisy.shape[1]]
