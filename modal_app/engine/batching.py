"""Several pictures in one run, each with the pixels it would have alone."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import QwenImageTransformer2DModel
from diffusers.models.embeddings import TimestepEmbedding
from diffusers.models.normalization import AdaLayerNormContinuous
from torch import nn


@contextmanager
def independent_rows(transformer: QwenImageTransformer2DModel) -> Iterator[None]:
    """Inside, what all rows of a batch share is computed once, from the first row.

    Every row of a batch is at the same timestep, so its embedding and the modulations made from it are equal.
    Computed for the batch they would be a matrix product where a single picture has a matrix-vector
    product, and a CPU sums the two in different orders: the only operations of the transformer whose result
    for a row depends on how many rows there are.  Models that also look at a timestep of zero have
    rows that differ, and stay as they are.

    Only the class of a layer changes: parameters and names are untouched, and LoRAs act as ever.
    """
    layers = [] if getattr(transformer, "zero_cond_t", False) else list(_of_the_timestep(transformer))
    for layer, kind in layers:
        layer.__class__ = kind
    try:
        yield
    finally:
        for layer, kind in layers:
            layer.__class__ = kind.__bases__[0]


def _of_the_timestep(transformer: QwenImageTransformer2DModel) -> Iterator[tuple[Any, type]]:
    yield transformer.time_text_embed.timestep_embedder, _SharedEmbedding
    yield transformer.norm_out, _SharedNorm
    for block in transformer.transformer_blocks:
        yield block.img_mod, _SharedModulation
        yield block.txt_mod, _SharedModulation


class _SharedModulation(nn.Sequential):  # type: ignore[misc]
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """[rows, width] of equal rows."""
        shared: torch.Tensor = super().forward(input[:1])
        return shared.expand(input.shape[0], -1)


class _SharedEmbedding(TimestepEmbedding):  # type: ignore[misc]
    def forward(self, sample: torch.Tensor, condition: torch.Tensor | None = None) -> torch.Tensor:
        """[rows, frequencies] of equal rows."""
        shared: torch.Tensor = super().forward(sample[:1], condition)
        return shared.expand(sample.shape[0], -1)


class _SharedNorm(AdaLayerNormContinuous):  # type: ignore[misc]
    def forward(self, x: torch.Tensor, conditioning_embedding: torch.Tensor) -> torch.Tensor:
        """x [rows, tokens, width], and equal rows [rows, width] that it is scaled and shifted by."""
        normed: torch.Tensor = super().forward(x, conditioning_embedding[:1])
        return normed
