"""Stable Diffusion 1 and XL, and the checkpoints made from them: words to pictures.

A checkpoint is a folder in diffusers' layout, or one file as it is passed around, which needs
configurations and tokenizers from elsewhere.  Pickled checkpoints are refused: opening one runs its code.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from PIL import Image

from modal_app import catalog
from modal_app.catalog import SAMPLERS, Family, Model, Size
from modal_app.contract import ImageRequest
from modal_app.engine import (
    Drawing,
    Files,
    OnStep,
    UnsupportedParameter,
    checkpoint_folder,
    hub_folder,
)
from modal_app.engine.fingerprint import fingerprint
from modal_app.engine.frame import drawn_one_by_one, quieten, settle_threads
from modal_app.engine.loras.attach import attached, backend_for
from modal_app.engine.loras.requested import uses_of
from modal_app.engine.placement import dtype, place
from modal_app.engine.watch import Watch

NOT_DRAWN_WITH = ("references", "mask", "strength")
"""Fields of a request that nothing here acts on: they are refused rather than ignored."""

_PIPELINES: dict[Family, Any] = {"sdxl": StableDiffusionXLPipeline, "sd1": StableDiffusionPipeline}

_WITHOUT: dict[Family, dict[str, Any]] = {
    # The bytes of a picture must not depend on whether an optional library is installed.
    "sdxl": {"add_watermarker": False},
    # It paints pictures black without a word, and checkpoints in one file come without it.
    "sd1": {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False},
}
"""Parts of a pipeline that are left out."""

_CLIP_SKIP_OF_NONE: dict[Family, int] = {"sdxl": 2, "sd1": 1}
"""The layer, as Civitai counts, that diffusers reads when it is told to skip none: the text encoders of
XL are read one layer before the last to begin with."""

_EMBEDDINGS: dict[Family, tuple[str, ...]] = {
    "sdxl": (
        *("prompt_embeds", "negative_prompt_embeds"),
        *("pooled_prompt_embeds", "negative_pooled_prompt_embeds"),
    ),
    "sd1": ("prompt_embeds", "negative_prompt_embeds"),
}
"""What ``encode_prompt`` gives, in order."""


def load(model: Model) -> "StableDiffusionEngine":
    """Load the row's checkpoint, in float16 onto a CUDA device or in float32 onto the CPU.

    ValueError for a file that is not safetensors.
    """
    quieten()
    folder = checkpoint_folder(model)
    pipeline = _from_file(model, folder / model.file) if model.file else _from_folder(model, folder)
    pipeline.set_progress_bar_config(disable=True)
    offload = place(pipeline, model)
    made_of = fingerprint(model, folder / model.file, pipeline)
    return StableDiffusionEngine(model, pipeline, {**made_of, "offload": offload})


def _from_folder(model: Model, folder: Path) -> Any:
    halves = any(folder.rglob("*.fp16.safetensors"))
    return _PIPELINES[model.family].from_pretrained(
        str(folder),
        dtype=dtype(model),
        local_files_only=True,
        use_safetensors=True,
        variant="fp16" if halves else None,
        **_WITHOUT[model.family],
    )


def _from_file(model: Model, file: Path) -> Any:
    if file.suffix != ".safetensors":
        raise ValueError(f"{file.name} is not a safetensors file")
    assert model.config is not None
    config = hub_folder(model.config.repository)
    return _PIPELINES[model.family].from_single_file(
        str(file), config=str(config), dtype=dtype(model), local_files_only=True, **_WITHOUT[model.family]
    )


class StableDiffusionEngine:
    """A loaded pipeline.  Pictures are drawn one by one, each from a generator of its own."""

    def __init__(self, model: Model, pipeline: Any, fingerprint: dict[str, Any]) -> None:
        self.pipeline = pipeline
        self._device = pipeline._execution_device  # kept: to find it, diffusers looks at every layer
        self._loras = backend_for(pipeline)
        self._model = model
        self._fingerprint = fingerprint
        self._scheduler_config = dict(pipeline.scheduler.config)

    def run(
        self, request: ImageRequest, files: Files, on_step: OnStep, cancelled: Callable[[], bool]
    ) -> Drawing:
        """Draw at the trained size nearest in shape, then resample to the requested size.

        A negative prompt acts only with ``true_cfg_scale`` above 1, which doubles the work.
        """
        self._refuse(request)
        settle_threads(self._device)
        native_size = catalog.native_size(self._model, request.width, request.height)
        watch = Watch(request.num_inference_steps, request.num_images, on_step, cancelled)
        with attached(self._loras, uses_of(self._model, request, files)):
            embeddings = self._encode(request, watch)
            return drawn_one_by_one(
                request,
                native_size,
                lambda n: self._draw(request, n, native_size, embeddings, watch),
                {**self._fingerprint, **self._sampled_by(request)},
            )

    def _refuse(self, request: ImageRequest) -> None:
        for name in NOT_DRAWN_WITH:
            if getattr(request, name) not in (None, []):
                raise UnsupportedParameter(name, f"{self._model.id} does not support {name}")
        if self._sampler(request) not in self._model.samplers:
            known = ", ".join(sorted(self._model.samplers))
            raise UnsupportedParameter("sampler", f"{self._model.id} knows the samplers {known}")

    def _encode(self, request: ImageRequest, watch: Watch) -> dict[str, torch.Tensor]:
        """Embeddings of the prompts, once for all pictures, as arguments of the pipeline."""
        watch.check()
        with torch.no_grad(), _nested(self.pipeline.text_encoder):
            encoded = self.pipeline.encode_prompt(
                request.prompt,
                device=self._device,
                num_images_per_prompt=1,
                do_classifier_free_guidance=request.true_cfg_scale > 1,
                negative_prompt=request.negative_prompt or None,
                clip_skip=self._clip_skip(request),
            )
        return dict(zip(_EMBEDDINGS[self._model.family], encoded, strict=True))

    def _draw(
        self, request: ImageRequest, n: int, native_size: Size, embeddings: dict[str, Any], watch: Watch
    ) -> Image.Image:
        watch.check()
        width, height = native_size
        self.pipeline.scheduler = self._scheduler(request)
        output = self.pipeline(
            **embeddings,
            width=width,
            height=height,
            num_inference_steps=request.num_inference_steps,
            guidance_scale=request.true_cfg_scale,
            # On the CPU whatever the device: equal seeds start from equal noise on every GPU.
            generator=torch.Generator("cpu").manual_seed(request.seed + n),
            callback_on_step_end=watch.step_of(n),
        )
        image: Image.Image = output.images[0]
        return image

    def _scheduler(self, request: ImageRequest) -> Any:
        """A new one for every picture: schedulers keep what they computed for the steps before."""
        sampler = SAMPLERS[self._sampler(request)]
        scheduler: type[Any] = getattr(diffusers, sampler.scheduler)
        return scheduler.from_config(self._scheduler_config, **sampler.options)

    def _sampled_by(self, request: ImageRequest) -> dict[str, str]:
        """Of the fingerprint, what the request chose."""
        name = self._sampler(request)
        return {"scheduler": SAMPLERS[name].scheduler, "sampler": name}

    def _sampler(self, request: ImageRequest) -> str:
        return str(request.sampler or self._model.sampler)

    def _clip_skip(self, request: ImageRequest) -> int | None:
        """diffusers' count of layers to skip; None for its own default."""
        asked = request.clip_skip or self._model.clip_skip
        skipped = (asked or 0) - _CLIP_SKIP_OF_NONE[self._model.family]
        return skipped if asked and skipped else None


@contextmanager
def _nested(text_encoder: Any) -> Iterator[None]:
    """A text encoder in which diffusers finds its layers.

    transformers 5.6 made ``CLIPTextModel`` flat; diffusers 0.42 still takes the last norm from its
    ``text_model`` when it skips layers.  Not for longer than that: others tell the two shapes apart by it.
    """
    if hasattr(text_encoder, "text_model"):
        yield
        return
    # Past torch's own setter, for which a module that contains itself would be a tree without an end
    object.__setattr__(text_encoder, "text_model", text_encoder)
    try:
        yield
    finally:
        object.__delattr__(text_encoder, "text_model")
