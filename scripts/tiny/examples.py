"""What the transformer learns from: drawn, encoded and embedded once, before its first step."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from diffusers import AutoencoderKLQwenImage
from torch import Tensor
from transformers import Qwen2Tokenizer, Qwen2VLProcessor

from scripts.tiny import captions, creatures, drawing, latents
from scripts.tiny.loop import Dice
from scripts.tiny.prompts import Encoder, PictureBank, embed_all
from scripts.tiny.run import Run
from scripts.tiny.tokenizer import picture_prompt

SINGLES, EDITS, PAIRS = 6000, 5200, 1600
STYLED_SHARE = 0.3
"""Further drawings in one of the four styles, as a share of the pictures of one creature."""
BLANK_SHARE = 0.07
"""Examples with an empty prompt, for classifier-free guidance."""


@dataclass(frozen=True)
class Examples:
    """One kind of example: pictures and prompt embeddings by number."""

    latents: Tensor
    """Tokens of all pictures [P, T, C]."""
    targets: Tensor
    """Number of the wanted picture of every example [N]."""
    references: Sequence[Tensor]
    """Numbers of its first, second, ... reference, each [N]."""
    hidden: Tensor
    """[N, S, D]."""
    mask: Tensor
    """[N, S]."""

    def batch(self, dice: Dice, count: int) -> tuple[Tensor, list[Tensor], Tensor, Tensor]:
        """targets [B, T, C], references (each [B, T, C]), hidden [B, S, D], mask [B, S]."""
        rows = dice.rows(len(self.targets), count).to(self.hidden.device)
        mask = self.mask[rows]
        length = int(mask.sum(1).max())
        references = [self.latents[numbers[rows]] for numbers in self.references]
        return self.latents[self.targets[rows]], references, self.hidden[rows, :length], mask[:, :length]


@dataclass
class _Prompts:
    """Prompts with the pictures they ask for and the bank's pictures they refer to."""

    texts: list[str]
    wanted: list[creatures.Picture]
    sources: list[int]


def build(
    run: Run,
    vae: AutoencoderKLQwenImage,
    encoder: Encoder,
    tokenizer: Qwen2Tokenizer,
    processor: Qwen2VLProcessor,
) -> dict[str, Examples]:
    """Examples of the three kinds: ``t2i``, ``edit`` and ``pair``."""
    rng = run.rng("examples")
    bank = PictureBank(processor, run.count(SINGLES), run.seed + 1)
    edits, pairs = _edits(rng, bank, run.count(EDITS)), _pairs(rng, bank, run.count(PAIRS))
    described = bank.pictures + edits.wanted
    styled = _styled(rng, described)

    # One table of pictures: the bank, what edits want, what pairs want, the styled ones.
    more = [drawing.draw(picture) for picture in edits.wanted + pairs.wanted + styled]
    tokens = latents.to_tokens(vae, bank.drawn + more)
    pairs_at = len(described)
    styled_at = pairs_at + len(pairs.wanted)

    def examples(targets: Sequence[int], embedded: tuple[Tensor, Tensor], *sources: list[int]) -> Examples:
        numbers = [torch.tensor(column, device=run.device) for column in (list(targets), *sources)]
        return Examples(tokens, numbers[0], numbers[1:], *embedded)

    # Twice, so that every picture has two captions.
    captioned = [*range(pairs_at), *range(styled_at, styled_at + len(styled))] * 2
    texts = [_or_blank(rng, captions.caption(rng, picture)[0]) for picture in (described + styled) * 2]
    return {
        "t2i": examples(captioned, embed_all(encoder, tokenizer, texts, "t2i")),
        "edit": examples(
            range(len(bank.pictures), pairs_at),
            embed_all(encoder, tokenizer, edits.texts, "edit", bank, edits.sources),
            edits.sources,
        ),
        "pair": examples(
            range(pairs_at, styled_at),
            embed_all(encoder, tokenizer, pairs.texts, "edit", bank, pairs.sources),
            pairs.sources[0::2],
            pairs.sources[1::2],
        ),
    }


def _or_blank(rng: random.Random, text: str) -> str:
    return " " if rng.random() < BLANK_SHARE else text


def _edits(rng: random.Random, bank: PictureBank, count: int) -> _Prompts:
    sources = bank.choose(rng, count)
    made = [captions.edit(rng, bank.pictures[i], rng.choice(captions.EDIT_KINDS)) for i in sources]
    texts = [picture_prompt(1, _or_blank(rng, text)) for text, _ in made]
    return _Prompts(texts, [picture for _, picture in made], sources)


def _pairs(rng: random.Random, bank: PictureBank, count: int) -> _Prompts:
    sources = bank.choose(rng, 2 * count)
    both = zip(sources[0::2], sources[1::2], strict=True)
    made = [captions.pair(rng, bank.pictures[i], bank.pictures[j]) for i, j in both]
    texts = [picture_prompt(2, _or_blank(rng, text)) for text, _ in made]
    return _Prompts(texts, [picture for _, picture in made], sources)


def _styled(rng: random.Random, pictures: list[creatures.Picture]) -> list[creatures.Picture]:
    chosen = rng.sample(pictures, int(STYLED_SHARE * len(pictures)))
    return [replace(picture, style=rng.choice(creatures.STYLES[1:])) for picture in chosen]
