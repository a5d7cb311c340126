"""Prompts and reference pictures as the hidden states that the transformer reads."""

import random
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache, Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer, Qwen2VLProcessor

from scripts.tiny import creatures, drawing
from scripts.tiny.tokenizer import EDIT_START, EDIT_TEMPLATE, T2I_START, T2I_TEMPLATE

Kind = Literal["t2i", "edit"]
Encoder = Qwen2_5_VLForConditionalGeneration
Vision = dict[str, Tensor]
"""``pixel_values`` [pictures * patches, D] and ``image_grid_thw`` [pictures, 3]."""

_TEMPLATES: dict[Kind, tuple[str, int]] = {
    "t2i": (T2I_TEMPLATE, T2I_START),
    "edit": (EDIT_TEMPLATE, EDIT_START),
}


class PictureBank:
    """Random pictures, drawn, with the patches that the vision tower reads."""

    def __init__(self, processor: Qwen2VLProcessor, count: int, seed: int) -> None:
        rng = random.Random(seed)
        self.pictures = [creatures.random_picture(rng) for _ in range(count)]
        self.drawn = [drawing.draw(picture) for picture in self.pictures]
        parts = [
            processor.image_processor(images=self.drawn[i : i + 100], return_tensors="pt")
            for i in range(0, count, 100)
        ]
        self.grid = parts[0]["image_grid_thw"][:1]  # [1, 3]
        patches = torch.cat([part["pixel_values"] for part in parts])
        self.patches = patches.view(count, int(self.grid.prod()), -1).bfloat16()  # half the memory

    def choose(self, rng: random.Random, count: int) -> list[int]:
        return rng.choices(range(len(self.pictures)), k=count)

    def vision(self, indices: Sequence[int]) -> Vision:
        """What the vision tower reads of these pictures, in order."""
        return {
            "pixel_values": self.patches[list(indices)].flatten(0, 1).float(),
            "image_grid_thw": self.grid.repeat(len(indices), 1),
        }


def embed(
    encoder: Encoder,
    tokenizer: Qwen2Tokenizer,
    prompts: Sequence[str],
    kind: Kind,
    vision: Vision | None = None,
) -> tuple[Tensor, Tensor]:
    """Prompt embeddings as the pipelines compute them -> hidden [B, S, D], mask [B, S].

    The constant beginning of the template runs once and is shared by the batch through the
    key-value cache: the same result for less than half of the tokens.
    """
    template, start = _TEMPLATES[kind]
    head, tail = template.split("{}")
    texts = [prompt + tail for prompt in prompts]
    batch = tokenizer(texts, padding=True, padding_side="right", return_tensors="pt").to(encoder.device)
    mask = batch.attention_mask
    out = encoder.model(
        input_ids=batch.input_ids,
        attention_mask=torch.cat([mask.new_ones(len(prompts), start), mask], 1),
        position_ids=_positions(start, start + mask.shape[1], len(prompts), encoder),
        past_key_values=_template_cache(encoder, tokenizer, head, len(prompts)),
        use_cache=True,
        **on_device(vision, encoder),
    )
    return out.last_hidden_state, mask


def _template_cache(encoder: Encoder, tokenizer: Qwen2Tokenizer, head: str, rows: int) -> DynamicCache:
    cache = DynamicCache()
    ids = tokenizer(head, return_tensors="pt").input_ids.to(encoder.device)
    positions = _positions(0, ids.shape[1], 1, encoder)
    encoder.model(input_ids=ids, past_key_values=cache, use_cache=True, position_ids=positions)
    for layer in cache.layers:
        layer.keys = layer.keys.expand(rows, -1, -1, -1)
        layer.values = layer.values.expand(rows, -1, -1, -1)
    return cache


def _positions(first: int, end: int, rows: int, encoder: Encoder) -> Tensor:
    """[3, rows, end - first]: time, height and width agree, as in the pipelines."""
    return torch.arange(first, end, device=encoder.device).expand(3, rows, -1)


def on_device(vision: Vision | None, encoder: Encoder) -> Vision:
    return {name: values.to(encoder.device) for name, values in (vision or {}).items()}


@torch.no_grad()
def embed_all(
    encoder: Encoder,
    tokenizer: Qwen2Tokenizer,
    prompts: Sequence[str],
    kind: Kind,
    bank: PictureBank | None = None,
    indices: Sequence[int] = (),
    batch: int = 50,
) -> tuple[Tensor, Tensor]:
    """Embeddings of many prompts, padded to one length -> hidden [N, S, D], mask [N, S].

    ``indices`` names the reference pictures in ``bank``, the same number for every prompt.
    """
    per_prompt = len(indices) // len(prompts)
    parts = []
    for i in range(0, len(prompts), batch):
        chosen = prompts[i : i + batch]
        shown = indices[i * per_prompt : (i + len(chosen)) * per_prompt]
        parts.append(embed(encoder, tokenizer, chosen, kind, bank.vision(shown) if bank else None))
    longest = max(mask.shape[1] for _, mask in parts)
    hidden = [F.pad(h, (0, 0, 0, longest - h.shape[1])) for h, _ in parts]
    masks = [F.pad(m, (0, longest - m.shape[1])) for _, m in parts]
    return torch.cat(hidden), torch.cat(masks)


def picture_features(encoder: Encoder, vision: Vision) -> Tensor:
    """Merged picture tokens of the vision tower [pictures * PICTURE_TOKENS, D]."""
    read = on_device(vision, encoder)
    return encoder.model.visual(read["pixel_values"], grid_thw=read["image_grid_thw"]).pooler_output
