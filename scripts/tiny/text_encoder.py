"""Stage 2, the text encoder: it does the thinking, so that the transformer only has to paint.

The slot probe makes the embeddings name every fact of the *wanted* picture: which colour belongs
to the hat, what an instruction changes, who stands on the left.  In parallel the encoder learns
to answer two questions about a picture with the ordinary language-model loss.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers import Qwen2Tokenizer

from scripts.tiny import captions, creatures, parts
from scripts.tiny.loop import Dice, Stage, adamw, fit
from scripts.tiny.prompts import Encoder, PictureBank, Vision, embed, picture_features
from scripts.tiny.run import Run
from scripts.tiny.slots import SEEN_SLOTS, SlotProbe, slot_loss, slot_targets
from scripts.tiny.tokenizer import (
    PICTURE_TOKENS,
    new_processor,
    new_tokenizer,
    picture_prompt,
    question_prompt,
)

PICTURES = 5000
CAPTIONS, EDITS, PAIRS, QUESTIONS = 48, 32, 14, 30
"""Examples of each kind in a step."""
STYLED_SHARE = 0.2

Term = tuple[Tensor, float]
"""A loss, and the number that is reported of it."""


def train(run: Run) -> None:
    torch.manual_seed(run.seed)
    tokenizer = new_tokenizer()
    encoder = parts.new_text_encoder(tokenizer).to(run.device).train()
    prompts, pictures = (SlotProbe(parts.TEXT_WIDTH).to(run.device) for _ in range(2))
    bank = PictureBank(new_processor(tokenizer), run.count(PICTURES), run.seed)
    lesson = _Lesson(encoder, tokenizer, prompts, pictures, bank)
    parameters = [*encoder.parameters(), *prompts.parameters(), *pictures.parameters()]
    stage = Stage(
        name="text_encoder",
        parameters=parameters,
        optimizers=[adamw(parameters, weight_decay=0.01)],
        loss=lambda _, dice: lesson.loss(dice),
        rate=2e-3,
        warmup=40,
        decay=0.99,
    )
    fit(
        stage,
        steps=run.steps("text_encoder"),
        seed=run.seed,
        checkpoint=run.checkpoint("text_encoder"),
        report=run.reporter("text_encoder"),
    )
    run.finish("text_encoder", encoder.eval())


@dataclass(frozen=True)
class _Lesson:
    """The encoder, its two probes (of prompts and of pictures), and what they are asked."""

    encoder: Encoder
    tokenizer: Qwen2Tokenizer
    prompt_probe: SlotProbe
    picture_probe: SlotProbe
    bank: PictureBank

    def loss(self, dice: Dice) -> tuple[Tensor, dict[str, float]]:
        terms: dict[str, Callable[[Dice], Term]] = {
            "captions": self._captions,
            "edits": self._edits,
            "pairs": self._pairs,
            "answers": self._answers,
            "pictures": self._pictures,
        }
        found = {name: term(dice) for name, term in terms.items()}
        total = torch.stack([loss for loss, _ in found.values()]).sum()
        return total, {name: number for name, (_, number) in found.items()}

    def _captions(self, dice: Dice) -> Term:
        prompts, targets = [], []
        for i in self.bank.choose(dice.rng, CAPTIONS):
            picture = self.bank.pictures[i]
            if dice.rng.random() < STYLED_SHARE:
                picture = replace(picture, style=dice.rng.choice(creatures.STYLES))
            text, left_open = captions.caption(dice.rng, picture)
            prompts.append(text)
            targets.append(slot_targets(picture, left_open))
        return self._read(prompts, targets)

    def _edits(self, dice: Dice) -> Term:
        indices = self.bank.choose(dice.rng, EDITS)
        prompts, targets = [], []
        for i in indices:
            kind = dice.rng.choice(captions.EDIT_KINDS)
            text, wanted = captions.edit(dice.rng, self.bank.pictures[i], kind)
            prompts.append(picture_prompt(1, text))
            targets.append(slot_targets(wanted))
        return self._read(prompts, targets, indices)

    def _pairs(self, dice: Dice) -> Term:
        indices = self.bank.choose(dice.rng, 2 * PAIRS)
        prompts, targets = [], []
        for i, j in zip(indices[0::2], indices[1::2], strict=True):
            text, wanted = captions.pair(dice.rng, self.bank.pictures[i], self.bank.pictures[j])
            prompts.append(picture_prompt(2, text))
            targets.append(slot_targets(wanted))
        return self._read(prompts, targets, indices)

    def _read(self, prompts: list[str], targets: list[list[int]], indices: list[int] | None = None) -> Term:
        """Does the prompt, with its reference pictures, say what the wanted picture shows?"""
        kind, vision = ("edit", self.bank.vision(indices)) if indices else ("t2i", None)
        hidden, mask = embed(self.encoder, self.tokenizer, prompts, kind, vision)
        return slot_loss(self.prompt_probe(hidden, mask), self._tensor(targets))

    def _answers(self, dice: Dice) -> Term:
        """Language-model loss of the answers to both questions about a picture."""
        indices = self.bank.choose(dice.rng, QUESTIONS)
        exchanges = [_exchange(self.bank.pictures[i], as_json=n % 3 > 0) for n, i in enumerate(indices)]
        loss = answer_loss(self.encoder, self.tokenizer, exchanges, self.bank.vision(indices))
        return loss, loss.item()

    def _pictures(self, dice: Dice) -> Term:
        """Do the picture tokens alone say what the picture shows?"""
        indices = self.bank.choose(dice.rng, QUESTIONS)
        features = picture_features(self.encoder, self.bank.vision(indices))
        tokens = features.view(QUESTIONS, PICTURE_TOKENS, -1)
        logits = self.picture_probe(tokens, torch.ones(tokens.shape[:2], device=tokens.device))
        facts = [slot_targets(self.bank.pictures[i]) for i in indices]
        return slot_loss(logits, self._tensor(facts), SEEN_SLOTS)

    def _tensor(self, targets: list[list[int]]) -> Tensor:
        return torch.tensor(targets, device=self.encoder.device)


def _exchange(picture: creatures.Picture, as_json: bool) -> tuple[str, str]:
    """(question, answer)."""
    if as_json:
        question, answer = captions.JSON_QUESTION, captions.json_answer(picture)
    else:
        question, answer = captions.TEXT_QUESTION, captions.plain_caption(picture)
    return question_prompt(question), answer + "<|im_end|>"


def answer_loss(
    encoder: Encoder, tokenizer: Qwen2Tokenizer, exchanges: list[tuple[str, str]], vision: Vision
) -> Tensor:
    """Mean cross entropy of the answers' tokens; the questions are given."""
    texts = [question + answer for question, answer in exchanges]
    batch = tokenizer(texts, padding=True, padding_side="right", return_tensors="pt")
    labels = batch.input_ids.masked_fill(batch.attention_mask == 0, -100)
    for row, (question, _) in enumerate(exchanges):
        labels[row, : len(tokenizer(question).input_ids)] = -100
    inputs = {
        **batch,
        **vision,
        "mm_token_type_ids": (batch.input_ids == encoder.config.image_token_id).int(),
        "labels": labels,
    }
    return encoder(**{name: values.to(encoder.device) for name, values in inputs.items()}).loss
