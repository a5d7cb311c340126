"""Qwen-Image's edit pipeline as a service needs it: budgets as parameters, references encoded once."""

import hashlib
import inspect
from pathlib import Path
from types import FunctionType
from typing import Any

import torch
from diffusers import QwenImageEditPlusPipeline
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit_plus as stock
from PIL import Image
from transformers import Qwen2Tokenizer, Qwen2VLProcessor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.utils import is_torchvision_available

from modal_app.engine.caches import TensorCache

REFERENCE_CACHE_BYTES = 64 * 1024 * 1024
"""About a hundred references of a megapixel: 16 x 128 x 128 latents in bfloat16 are half a megabyte."""


def edit_pipeline(components: dict[str, Any], reference_pixels: int) -> QwenImageEditPlusPipeline:
    """The edit pipeline over loaded parts.

    ``reference_pixels`` is the area to which the VAE's view of each reference is brought.  diffusers keeps it
    as a global of the pipeline's module, one for all models of a process; this pipeline has its own.
    """
    call = inspect.unwrap(QwenImageEditPlusPipeline.__call__)
    seen = {**stock.__dict__, "VAE_IMAGE_SIZE": reference_pixels}
    own = FunctionType(call.__code__, seen, call.__name__, call.__defaults__, call.__closure__)
    kind = type("QwenImageEditPlusPipeline", (_CachedReferences,), {"__call__": torch.no_grad()(own)})
    pipeline = kind(**components)
    pipeline.references = TensorCache(REFERENCE_CACHE_BYTES)
    assert isinstance(pipeline, QwenImageEditPlusPipeline)
    return pipeline


class _CachedReferences(QwenImageEditPlusPipeline):  # type: ignore[misc]
    """A reference's latents depend on its pixels alone: a character's are encoded once for many pictures."""

    references: TensorCache

    def _encode_vae_image(self, image: torch.Tensor, generator: Any) -> torch.Tensor:
        """image [1, 3, 1, H, W] to its normalised latents [1, C, 1, H/8, W/8]; the mode, never a sample."""
        key = (tuple(image.shape), _digest(image))
        return self.references.get(key, image.device, lambda: (self._encoded(image, generator),))[0]

    def _encoded(self, image: torch.Tensor, generator: Any) -> torch.Tensor:
        latents: torch.Tensor = super()._encode_vae_image(image, generator)
        return latents


def _digest(tensor: torch.Tensor) -> bytes:
    content = tensor.detach().cpu().contiguous().view(torch.uint8).numpy()
    return hashlib.blake2b(content, digest_size=16).digest()


def condition_images(
    pipeline: QwenImageEditPlusPipeline, references: list[Image.Image], condition_pixels: int
) -> list[Image.Image]:
    """What the vision-language model sees of the references: each with an area of ``condition_pixels``."""
    seen = []
    for image in references:
        width, height = stock.calculate_dimensions(condition_pixels, image.width / image.height)
        seen.append(pipeline.image_processor.resize(image, height, width))
    return seen


def load_processor(folder: Path) -> Qwen2VLProcessor | None:
    """The checkpoint's processor, or None where it has none and can only read text."""
    if not (folder / "processor").is_dir():
        return None
    if is_torchvision_available():
        return Qwen2VLProcessor.from_pretrained(folder / "processor", local_files_only=True)
    images = Qwen2VLImageProcessorPil.from_pretrained(folder / "processor", local_files_only=True)
    tokenizer = Qwen2Tokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
    template = folder / "processor" / "chat_template.jinja"
    return _PicturesOnly(images, tokenizer, chat_template=template.read_text() if template.exists() else None)


class _PicturesOnly(Qwen2VLProcessor):  # type: ignore[misc]
    """The stock processor without its video half, which cannot be imported without torchvision."""

    def __init__(
        self, image_processor: Any = None, tokenizer: Any = None, chat_template: str | None = None, **_: Any
    ) -> None:
        Qwen2VLProcessor.__init__(self, image_processor, tokenizer, None, chat_template=chat_template)

    @property
    def model_input_names(self) -> list[str]:
        return ["input_ids", "attention_mask", "pixel_values", "image_grid_thw"]


# The base class looks its parts up by the names of the public class.
_PicturesOnly.__name__ = _PicturesOnly.__qualname__ = "Qwen2VLProcessor"
_PicturesOnly.__module__ = "transformers.models.qwen2_vl.processing_qwen2_vl"
