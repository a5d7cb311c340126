"""A small offline tokenizer and processor of the real Qwen2 classes.

The byte-pair vocabulary is learned from the two prompt templates of the pipelines and from
sentences of the world.  Any other text falls back to pieces and single bytes.  Both templates
take exactly the number of tokens (34 and 64) that the pipelines cut off.
"""

import json
import random
import re

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import Qwen2Tokenizer, Qwen2VLProcessor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from scripts.tiny import captions, creatures

T2I_TEMPLATE = (
    "<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, quantity, text, "
    "spatial relationships of the objects and background:<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n"
    "<|im_start|>assistant\n"
)
EDIT_TEMPLATE = (
    "<|im_start|>system\nDescribe the key features of the input image (color, shape, size, texture, objects, "
    "background), then explain how the user's text instruction should alter or modify the image. Generate a "
    "new image that meets the user's requirements while maintaining consistency with the original input "
    "where appropriate.<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
)
T2I_START, EDIT_START = 34, 64
"""Tokens before the prompt, dropped by the pipelines."""
PATCH, MERGE = 16, 2
"""Vision patches in pixels; 2 x 2 patches become one token."""
PICTURE_TOKENS = (creatures.SIZE // PATCH // MERGE) ** 2

MERGES_UP_TO = 1200
"""Vocabulary asked for; the world's sentences run out of pairs long before."""
CONTEXT_TOKENS = 131_072

SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
QWEN_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}"
    "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part.text }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def new_tokenizer() -> Qwen2Tokenizer:
    """The same tokenizer every time: its corpus comes from a fixed seed."""
    vocabulary, merges = _learn_merges([*_template_texts(), *_sentences()])
    tokenizer = Qwen2Tokenizer(
        vocab=vocabulary,
        merges=merges,
        additional_special_tokens=list(SPECIAL[1:]),
        model_max_length=CONTEXT_TOKENS,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    for template, start in ((T2I_TEMPLATE, T2I_START), (EDIT_TEMPLATE, EDIT_START)):
        assert len(tokenizer(template.split("{}")[0]).input_ids) == start
    return tokenizer


def _learn_merges(texts: list[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    bpe = Tokenizer(models.BPE())
    words = pre_tokenizers.Split(Regex(QWEN_WORDS), "isolated", invert=False)
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.pre_tokenizer = pre_tokenizers.Sequence([words, bytes_])
    bpe.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=MERGES_UP_TO, initial_alphabet=alphabet, show_progress=False, min_frequency=2
    )
    bpe.train_from_iterator(texts, trainer)
    learned = json.loads(bpe.to_str())["model"]
    return learned["vocab"], [tuple(m) for m in learned["merges"]]


def _template_texts() -> list[str]:
    texts = (T2I_TEMPLATE, EDIT_TEMPLATE, "Picture 1: Picture 2: Picture 3: ")
    return [re.sub(r"<\|[a-z_]+\|>", "", text) for text in texts] * 50


def _sentences(seed: int = 0, count: int = 1500) -> list[str]:
    """Captions, answers and instructions of the world."""
    rng, lines = random.Random(seed), []
    for _ in range(count):
        picture = creatures.random_picture(rng, rng.choice(creatures.STYLES))
        lines.append(captions.caption(rng, picture)[0])
        lines += [captions.json_answer(picture), captions.plain_caption(picture)]
        lines += [captions.edit(rng, picture, kind)[0] for kind in captions.EDIT_KINDS]
        lines.append(captions.pair(rng, picture, picture)[0])
    return lines + [captions.JSON_QUESTION, captions.TEXT_QUESTION] * 50


class _ProcessorWithoutVideo(Qwen2VLProcessor):
    """The stock processor minus its video part, which cannot be imported without torchvision."""

    def __init__(self, image_processor=None, tokenizer=None, chat_template=None, **_unused):
        Qwen2VLProcessor.__init__(self, image_processor, tokenizer, None, chat_template=chat_template)

    @property
    def model_input_names(self):
        return ["input_ids", "attention_mask", "pixel_values", "image_grid_thw"]


# Saved pipelines record the class by name: it has to be the public one.
_ProcessorWithoutVideo.__name__ = _ProcessorWithoutVideo.__qualname__ = "Qwen2VLProcessor"
_ProcessorWithoutVideo.__module__ = "transformers.models.qwen2_vl.processing_qwen2_vl"


def new_processor(tokenizer: Qwen2Tokenizer) -> Qwen2VLProcessor:
    """Processor for pictures of the native size: 6 x 6 patches, 9 tokens."""
    area = creatures.SIZE * creatures.SIZE
    images = Qwen2VLImageProcessorPil(min_pixels=area, max_pixels=area, patch_size=PATCH, merge_size=MERGE)
    return _ProcessorWithoutVideo(images, tokenizer, chat_template=CHAT_TEMPLATE)


def picture_prompt(pictures: int, instruction: str) -> str:
    """The user part of an edit prompt, as QwenImageEditPlusPipeline writes it."""
    return "".join(f"Picture {i + 1}: {_picture(PICTURE_TOKENS)}" for i in range(pictures)) + instruction


def question_prompt(question: str, pads: int = PICTURE_TOKENS) -> str:
    """A chat turn that asks the text encoder about one picture."""
    return f"<|im_start|>user\n{_picture(pads)}{question}<|im_end|>\n<|im_start|>assistant\n"


def _picture(pads: int) -> str:
    return f"<|vision_start|>{'<|image_pad|>' * pads}<|vision_end|>"
