"""What a prompt decides about the wanted picture, and a probe that reads it from hidden states."""

from collections.abc import Collection, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scripts.tiny.creatures import BODIES, COLORS, FACTS, HATS, STYLES, Picture

SLOTS: dict[str, tuple[str, ...]] = {
    **FACTS,
    "style": STYLES,
    "body2": BODIES,
    "color2": tuple(COLORS),
    "hat2": HATS,
}
"""Options of every slot; the class after the last option is 'left open'."""

SEEN_SLOTS = range(len(FACTS))
"""The slots that a single picture shows."""


def slot_targets(picture: Picture, left_open: Collection[str] = ()) -> list[int]:
    """One class per slot."""
    facts = {**picture.facts, "style": picture.style}
    if len(picture.creatures) == 2:
        second = picture.creatures[1]
        facts.update(body2=second.body, color2=second.color, hat2=second.hat)
    decided = {name: value for name, value in facts.items() if name not in left_open}
    return [
        options.index(decided[name]) if name in decided else len(options) for name, options in SLOTS.items()
    ]


class SlotProbe(nn.Module):
    """Reads every slot with one attention step; used in training only.

    It makes the prompt embeddings say plainly, within reach of one attention layer, what the
    wanted picture shows.  That is all the transformer needs from them.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(len(SLOTS), width) * width**-0.5)
        self.key, self.value = nn.Linear(width, width), nn.Linear(width, width)
        self.heads = nn.ModuleList(nn.Linear(width, len(options) + 1) for options in SLOTS.values())

    def forward(self, hidden: Tensor, mask: Tensor) -> list[Tensor]:
        """hidden [B, S, D], mask [B, S] -> logits [B, classes] of every slot."""
        scores = self.queries @ self.key(hidden).transpose(1, 2)  # [B, slots, S]
        weights = scores.masked_fill(~mask[:, None].bool(), -1e4).softmax(-1)
        read = weights @ self.value(hidden)  # [B, slots, D]
        return [head(read[:, i]) for i, head in enumerate(self.heads)]


def slot_loss(
    logits: list[Tensor], targets: Tensor, slots: Iterable[int] = range(len(SLOTS))
) -> tuple[Tensor, float]:
    """(mean cross entropy, share of right answers) over the chosen slots; targets [B, slots]."""
    chosen = [(logits[i], targets[:, i]) for i in slots]
    losses = [F.cross_entropy(logit, target) for logit, target in chosen]
    right = [(logit.argmax(-1) == target).float().mean() for logit, target in chosen]
    return torch.stack(losses).mean(), torch.stack(right).mean().item()
