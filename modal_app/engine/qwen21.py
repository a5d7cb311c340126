"""Qwen-Image 2.1: words and ordered reference pictures to pictures, by diffusers' ``QwenImage21Pipeline``.

The model paints with transparency.  Nobody asked for it here: what is transparent comes out white, which is
also how the vision-language model is shown a transparent reference.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import isqrt
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import QwenImage21Pipeline
from diffusers.pipelines.qwenimage21.pipeline_qwenimage21 import calculate_dimensions
from PIL import Image
from transformers import AutoTokenizer, Qwen3VLProcessor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.utils import is_torchvision_available

from modal_app import catalog
from modal_app.catalog import Model, Offload, Size
from modal_app.contract import ImageRequest, LanguageRequest, LanguageResult
from modal_app.engine import (
    Drawing,
    Files,
    OnStep,
    UnsupportedParameter,
    checkpoint_folder,
    language,
)
from modal_app.engine.fingerprint import fingerprint
from modal_app.engine.frame import drawn_one_by_one, quieten, settle_threads
from modal_app.engine.inputs import InvalidPicture, open_picture
from modal_app.engine.language.vlm import Vlm
from modal_app.engine.loras.attach import attached, backend_for
from modal_app.engine.loras.requested import uses_of
from modal_app.engine.placement import dtype, place
from modal_app.engine.watch import Watch

NOT_DRAWN_WITH = ("mask", "strength", "guidance_scale", "sampler", "clip_skip")
"""Fields of a request that nothing here acts on: they are refused rather than ignored."""
GRID = 32
"""Sides are multiples of it: a latent covers 16 pixels, and the transformer takes latents two by two."""
MAX_ASPECT = 200
"""Longer side of a reference, as the model sees it, over its shorter; Qwen3-VL's processor takes no more."""

_MARKS = re.compile(r"<\|[a-z_]*\|>")
"""How the template marks turns and pictures; in words from outside they would stand for a picture that is
not there."""


def load(model: Model) -> "Qwen21Engine":
    """Load the row's checkpoint folder, in bfloat16 onto a CUDA device or in float32 onto the CPU."""
    quieten()
    folder = checkpoint_folder(model)
    pipeline = _ReadingOnce.from_pretrained(
        str(folder),
        processor=_load_processor(folder / "processor"),
        dtype=dtype(model),
        local_files_only=True,
        use_safetensors=True,
    )
    pipeline.set_progress_bar_config(disable=True)
    offload = place(pipeline, model)
    return Qwen21Engine(model, pipeline, folder, offload)


class Qwen21Engine:
    """A loaded pipeline.  Pictures are drawn one by one, each from a generator of its own."""

    def __init__(self, model: Model, pipeline: "_ReadingOnce", folder: Path, offload: Offload) -> None:
        self.pipeline = pipeline
        self._device = pipeline._execution_device  # kept: to find it, diffusers looks at every layer
        self._loras = backend_for(pipeline)
        self._model = model
        self._fingerprint = {**fingerprint(model, folder, pipeline), "offload": offload}
        processor = pipeline.processor
        self._vlm = (
            Vlm(
                *(pipeline.text_encoder, processor.tokenizer, processor, model.language),
                checkpoint=folder / "text_encoder",
                likeness=model.likeness,
            )
            if model.language
            else None
        )

    def run(
        self, request: ImageRequest, files: Files, on_step: OnStep, cancelled: Callable[[], bool]
    ) -> Drawing:
        """Draw at the trained size nearest in shape, then resample to the requested size.

        A negative prompt acts only with ``true_cfg_scale`` above 1, which doubles the work.
        """
        self._refuse(request)
        settle_threads(self._device)
        native_size = _on_grid(catalog.native_size(self._model, request.width, request.height))
        watch = Watch(request.num_inference_steps, request.num_images, on_step, cancelled)
        with attached(self._loras, uses_of(self._model, request, files)), self.pipeline.reading_once(watch):
            given = self._given(request, files)
            return drawn_one_by_one(
                request,
                native_size,
                lambda n: self._draw(request, n, native_size, given, watch),
                self._fingerprint,
            )

    def answer(self, request: LanguageRequest, files: Files, cancelled: Callable[[], bool]) -> LanguageResult:
        """A language task, done by the pipeline's own text encoder as far as that can."""
        return language.answer(self._vlm, request, files, cancelled)

    def _refuse(self, request: ImageRequest) -> None:
        names = [name for name in NOT_DRAWN_WITH if getattr(request, name) is not None]
        if any(use.role == "init" for use in request.references):
            names.append("references")  # a picture to draw over; this model looks at pictures only
        for name in names:
            raise UnsupportedParameter(name, f"{self._model.id} does not support {name}")

    def _given(self, request: ImageRequest, files: Files) -> dict[str, Any]:
        """Words and pictures as arguments of the pipeline; InvalidPicture for a reference it cannot use."""
        given: dict[str, Any] = {"prompt": self._words(request.prompt)}
        if request.true_cfg_scale > 1:
            # Without a negative prompt the pipeline would skip the guidance; it reads "" as a blank.
            given["negative_prompt"] = self._words(request.negative_prompt or "")
        if request.references:
            pixels = self._model.reference_pixels
            given["image"] = [_reference(files[use.sha256], pixels) for use in request.references]
        return given

    def _words(self, prompt: str) -> str:
        """The prompt as words alone, as many as the row says; the pipeline itself cuts nothing off."""
        words = _MARKS.sub(" ", prompt)
        offsets = self.pipeline.processor.tokenizer(words, return_offsets_mapping=True)["offset_mapping"]
        limit = self._model.max_sequence_length
        return words if len(offsets) <= limit else words[: offsets[limit - 1][1]]

    def _draw(
        self, request: ImageRequest, n: int, native_size: Size, given: dict[str, Any], watch: Watch
    ) -> Image.Image:
        watch.check()
        width, height = native_size
        output = self.pipeline(
            **given,
            width=width,
            height=height,
            num_inference_steps=request.num_inference_steps,
            sigmas=self._sigmas(request.num_inference_steps),
            true_cfg_scale=request.true_cfg_scale,
            output_resolution=isqrt(self._model.reference_pixels),
            # On the CPU whatever the device: equal seeds start from equal noise on every GPU.
            generator=torch.Generator("cpu").manual_seed(request.seed + n),
            use_kv_cache=True,  # said aloud, as without it other pictures come out
            callback_on_step_end=watch.step_of(n),
        )
        return _opaque(output.images[0])

    def _sigmas(self, steps: int) -> Any:
        """Noise levels, from 1 on, where the checkpoint brings its own for another number of steps.

        Of its own the pipeline would take as many steps as those are, whatever it is asked for.
        """
        own = self.pipeline.config.sample_sigmas
        return np.linspace(1.0, 1 / steps, steps) if own and len(own) != steps else None


class _ReadingOnce(QwenImage21Pipeline):  # type: ignore[misc]
    """Reads the words and references of a run once for all of its pictures.

    The stock pipeline cannot be handed what was read beside references: its call has no argument for their
    places among the tokens.
    """

    _read: dict[str, Any]
    _watch: Watch

    @contextmanager
    def reading_once(self, watch: Watch) -> Iterator[None]:
        """Inside, all calls are given the same references; what was read is forgotten at the end."""
        self._read, self._watch = {}, watch
        try:
            yield
        finally:
            self._read = {}
            # The pipeline does so itself, but not when a canceled run leaves it halfway: what waits in
            # main memory would stay on the GPU beside the parts of the next run.
            self.maybe_free_model_hooks()

    def encode_prompt(self, prompt: str, *args: Any, **options: Any) -> Any:
        """(embeddings [1, tokens, width], their mask or None, which tokens are pictures [1, tokens])."""
        if prompt not in self._read:
            self._watch.check()
            self._read[prompt] = super().encode_prompt(prompt, *args, **options)
        return self._read[prompt]


def _on_grid(size: Size) -> Size:
    """What the pipeline makes of a size."""
    width, height = (max(GRID, side // GRID * GRID) for side in size)
    return width, height


def _reference(path: Path, pixels: int) -> Image.Image:
    """RGB or RGBA; InvalidPicture for no picture, or one too narrow to be seen at an area of ``pixels``."""
    image = open_picture(path)
    width, height, _ = calculate_dimensions(pixels, image.width / image.height)
    if max(width, height) > MAX_ASPECT * min(width, height):  # the shorter side may have come out as 0
        raise InvalidPicture(f"the picture is too narrow: {image.width} x {image.height}")
    return image


def _opaque(image: Image.Image) -> Image.Image:
    """RGB, on white where it is transparent."""
    if image.mode == "RGBA":
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _load_processor(folder: Path) -> Qwen3VLProcessor:
    """The checkpoint's processor, on a machine without torchvision without its half for videos."""
    if is_torchvision_available():
        return Qwen3VLProcessor.from_pretrained(folder, local_files_only=True)
    images = Qwen2VLImageProcessorPil.from_pretrained(folder, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return _PicturesOnly(images, tokenizer, chat_template=_chat_template(folder) or tokenizer.chat_template)


def _chat_template(folder: Path) -> str | None:
    file = folder / "chat_template.jinja"
    return file.read_text() if file.exists() else None


class _PicturesOnly(Qwen3VLProcessor):  # type: ignore[misc]
    """The stock processor without its video half, which cannot be imported without torchvision."""

    def __init__(
        self, image_processor: Any = None, tokenizer: Any = None, chat_template: str | None = None, **_: Any
    ) -> None:
        Qwen3VLProcessor.__init__(self, image_processor, tokenizer, None, chat_template=chat_template)

    @property
    def model_input_names(self) -> list[str]:
        return ["input_ids", "attention_mask", "pixel_values", "image_grid_thw", "mm_token_type_ids"]


# The base class looks its parts up by the names of the public class.
_PicturesOnly.__name__ = _PicturesOnly.__qualname__ = "Qwen3VLProcessor"
_PicturesOnly.__module__ = "transformers.models.qwen3_vl.processing_qwen3_vl"
