"""Several pictures in one run, each with the pixels it would have alone."""

from typing import Any

import torch
from diffusers import QwenImageTransformer2DModel
from torch import nn


def make_rows_independent(transformer: QwenImageTransformer2DModel) -> None:
    """Compute what all rows of a batch share once, from its first row.

    Every row of a batch is at the same timestep, so its embedding and the modulations made from it are equal.
    Computed for the batch they would be a matrix product where a single picture has a matrix-vector
    product, and a CPU sums the two in different orders: the only operations of the transformer whose result
    for a row depends on how many rows there are.  Models that also look at a timestep of zero have
    rows that differ, and stay as they are.
    """
    if getattr(transformer, "zero_cond_t", False):
        return
    shared: list[nn.Module] = [transformer.time_text_embed.timestep_embedder, transformer.norm_out.linear]
    for block in transformer.transformer_blocks:
        shared += [block.img_mod, block.txt_mod]
    for module in shared:
        _share_rows(module)


def _share_rows(module: nn.Module) -> None:
    rows = 1

    def keep_first(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        nonlocal rows
        rows = args[0].shape[0]
        return (args[0][:1], *args[1:])

    def expand(module: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
        return output.expand(rows, *output.shape[1:])

    module.register_forward_pre_hook(keep_first)
    module.register_forward_hook(expand)
