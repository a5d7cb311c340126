"""The pipeline's own text encoder as a vision-language model: it reads for the pipeline, here it writes."""

import json
import re
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from safetensors import safe_open
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from modal_app import engine
from modal_app.engine import Canceled

Ability = Literal["chat", "describe"]
Turn = tuple[Literal["system", "user", "assistant"], str]
"""Who says what in a conversation."""

PICTURE_PIXELS = 768 * 768
"""Area to which a larger picture is brought: 750 tokens of 28 x 28 pixels in Qwen2.5-VL."""

_PICTURE = "<|vision_start|><|image_pad|><|vision_end|>"
_SPECIAL = re.compile(r"<\|[a-z_]*\|>")
_REPETITION_PENALTY = {"chat": 1.05, "describe": 1.0}
"""1.05 is what Qwen2.5-VL-7B-Instruct is published with; a learned fixed answer must repeat itself."""
_YES, _NO = ("Yes", "yes", "YES", " Yes", " yes"), ("No", "no", "NO", " No", " no")
_MASS_MIN = 0.1
"""Probability that yes and no have to share for their proportion to mean anything."""


class Vlm:
    """A text encoder that answers, greedily and without leaving anything behind in the encoder.

    One thread at a time, and not while the pipeline draws.
    """

    def __init__(
        self,
        text_encoder: Any,
        tokenizer: Any,
        processor: Any | None,
        ability: Ability,
        checkpoint: Path | None = None,
        likeness: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        """``checkpoint`` is the folder that the text encoder was loaded from: without the weights of the
        language head in it the library fills in random ones, and the model has no ability then.
        ``likeness`` is that of the model's row."""
        self._model = text_encoder
        self._tokenizer = tokenizer
        self._processor = processor
        self.ability: Ability | None = ability if _has_head(text_encoder, checkpoint) else None
        self.sees = processor is not None
        """Whether it takes pictures."""
        self.likeness = likeness
        self.readings: OrderedDict[str, Any] = OrderedDict()
        """What is known of reference pictures, by their sha256."""
        self.forgettings = engine.forgettings

    def write(
        self,
        turns: Sequence[Turn],
        *,
        max_new_tokens: int,
        cancelled: Callable[[], bool],
        pictures: Sequence[Image.Image] = (),
    ) -> str:
        """The next turn of the assistant; the pictures stand before the first words of the user.

        Canceled at most a token after ``cancelled()`` turns true.
        """
        inputs = self._inputs(turns, pictures)
        output = self._generate(inputs, max_new_tokens, cancelled)
        written = output.sequences[0, inputs["input_ids"].shape[1] :]
        return str(self._tokenizer.decode(written, skip_special_tokens=True)).strip()

    def yes_share(
        self, turns: Sequence[Turn], *, cancelled: Callable[[], bool], pictures: Sequence[Image.Image] = ()
    ) -> float | None:
        """Probability of yes against no as the first token of the answer, 0..1; None if it is neither."""
        output = self._generate(self._inputs(turns, pictures), 1, cancelled)
        probabilities = output.logits[0][0].float().softmax(-1)
        yes, no = (float(probabilities[self._first_tokens(words)].sum()) for words in (_YES, _NO))
        return yes / (yes + no) if yes + no >= _MASS_MIN else None

    def reading(
        self, turns: Sequence[Turn], answer: str, picture: Image.Image, cancelled: Callable[[], bool]
    ) -> torch.Tensor:
        """What the model has in mind before each token of an answer and behind its last: [tokens + 1, width],
        of length 1 each.  Two pictures that look alike to it leave the same in mind at the same words."""
        if cancelled():
            raise Canceled("canceled")
        inputs = self._inputs(turns, [picture])
        given = self._tokenizer(answer, return_tensors="pt").input_ids.long().to(self._model.device)
        model = self._model.model
        offset = model.rope_deltas
        try:
            model.rope_deltas = None
            with torch.no_grad():
                hidden = model(**_continued(inputs, given)).last_hidden_state[0, -given.shape[1] - 1 :]
        finally:
            model.rope_deltas = offset
        return torch.nn.functional.normalize(hidden.float(), dim=-1)

    def _first_tokens(self, words: Sequence[str]) -> list[int]:
        """Without those that begin a yes as well as a no, such as a blank in a small vocabulary."""
        others = _NO if words is _YES else _YES
        taken = {self._tokenizer(word).input_ids[0] for word in others}
        return sorted({self._tokenizer(word).input_ids[0] for word in words} - taken)

    def _inputs(self, turns: Sequence[Turn], pictures: Sequence[Image.Image]) -> Any:
        text = _conversation(turns, len(pictures))
        if not pictures:
            return self._tokenizer([text], return_tensors="pt").to(self._model.device)
        assert self._processor is not None, "a model without a processor takes no pictures"
        shown = [_for_reading(picture) for picture in pictures]
        return self._processor(text=[text], images=shown, return_tensors="pt").to(self._model.device)

    def _generate(self, inputs: Any, max_new_tokens: int, cancelled: Callable[[], bool]) -> Any:
        if cancelled():
            raise Canceled("canceled")
        if self._model.device.type == "cpu":
            torch.set_num_threads(1)  # of this thread; more make models small enough for a CPU slower
        stop = _StopWhen(cancelled)
        # The encoder keeps the offset between tokens and positions of its latest answer.
        offset = self._model.model.rope_deltas
        try:
            output = self._model.generate(
                **inputs,
                generation_config=self._settings(max_new_tokens),
                stopping_criteria=StoppingCriteriaList([stop]),
            )
        finally:
            self._model.model.rope_deltas = offset
        if stop.stopped:
            raise Canceled("canceled")
        return output

    def _settings(self, max_new_tokens: int) -> GenerationConfig:
        ends = [self._tokenizer.convert_tokens_to_ids(token) for token in ("<|im_end|>", "<|endoftext|>")]
        return GenerationConfig(
            max_new_tokens=max_new_tokens,
            do_sample=False,
            repetition_penalty=_REPETITION_PENALTY[self.ability or "describe"],
            eos_token_id=ends,
            pad_token_id=ends[1],
            return_dict_in_generate=True,
            output_logits=max_new_tokens == 1,
        )


class _StopWhen(StoppingCriteria):  # type: ignore[misc]
    """Ends the answer after the token at which nobody wants it any more, and remembers having done so."""

    def __init__(self, cancelled: Callable[[], bool]) -> None:
        self._cancelled = cancelled
        self.stopped = False

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        self.stopped = self.stopped or self._cancelled()
        return torch.full((len(input_ids),), self.stopped, dtype=torch.bool, device=input_ids.device)


def _continued(inputs: Any, given: torch.Tensor) -> dict[str, torch.Tensor]:
    """The inputs of the model with further tokens [1, N], which are words."""
    added = {"input_ids": given, "attention_mask": torch.ones_like(given)}
    longer = {name: torch.cat([inputs[name], more], 1) for name, more in added.items()}
    if "mm_token_type_ids" in inputs:
        longer["mm_token_type_ids"] = torch.cat([inputs["mm_token_type_ids"], torch.zeros_like(given)], 1)
    return {**inputs, **longer}


def _has_head(text_encoder: Any, checkpoint: Path | None) -> bool:
    weight = getattr(getattr(text_encoder, "lm_head", None), "weight", None)
    if weight is None or weight.is_meta:
        return False
    if checkpoint is None or text_encoder.config.tie_word_embeddings:
        return True
    return "lm_head.weight" in _weight_names(checkpoint)


def _weight_names(checkpoint: Path) -> Iterator[str]:
    for path in sorted(checkpoint.glob("*.safetensors.index.json")):
        yield from json.loads(path.read_bytes())["weight_map"]
    for path in sorted(checkpoint.glob("*.safetensors")):
        with safe_open(path, framework="pt") as weights:
            yield from weights.keys()


def _conversation(turns: Sequence[Turn], pictures: int) -> str:
    """ChatML, as Qwen's models were trained.  Words from outside can open no turn and place no picture."""
    parts, shown = [], _pictures(pictures)
    for role, words in turns:
        before, shown = (shown, "") if role == "user" else ("", shown)
        parts.append(f"<|im_start|>{role}\n{before}{_SPECIAL.sub(' ', words)}<|im_end|>\n")
    return "".join(parts) + "<|im_start|>assistant\n"


def _pictures(count: int) -> str:
    """Several are numbered as in the prompts of the edit pipeline."""
    if count == 1:
        return _PICTURE
    return "".join(f"Picture {n + 1}: {_PICTURE}" for n in range(count))


def _for_reading(picture: Image.Image) -> Image.Image:
    """RGB, transparency on white, at most ``PICTURE_PIXELS``."""
    if picture.mode == "RGBA":
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture)
    picture = picture.convert("RGB")
    scale = (PICTURE_PIXELS / (picture.width * picture.height)) ** 0.5
    if scale >= 1:
        return picture
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.LANCZOS)
