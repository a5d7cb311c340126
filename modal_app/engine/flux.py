"""The FLUX.1 family: words to pictures through diffusers' ``FluxPipeline``.

Guidance is a number that the model was distilled to read: one forward a step, and no negative prompt.
"""

from collections.abc import Callable
from typing import Any

import torch
from diffusers import FluxPipeline
from PIL import Image

from modal_app import catalog
from modal_app.catalog import Model, Size
from modal_app.contract import ImageRequest
from modal_app.engine import Drawing, Files, OnStep, UnsupportedParameter, checkpoint_folder
from modal_app.engine.fingerprint import fingerprint
from modal_app.engine.frame import drawn_one_by_one, quieten, settle_threads
from modal_app.engine.loras.attach import attached, backend_for
from modal_app.engine.loras.requested import uses_of
from modal_app.engine.placement import dtype, place
from modal_app.engine.watch import Watch

NOT_DRAWN_WITH = ("references", "mask", "strength")
"""Fields of a request that nothing here acts on: they are refused rather than ignored."""


def load(model: Model) -> "FluxEngine":
    """Load the row's checkpoint folder, in bfloat16 onto a CUDA device or in float32 onto the CPU."""
    quieten()
    folder = checkpoint_folder(model)
    pipeline = FluxPipeline.from_pretrained(
        str(folder), dtype=dtype(model), local_files_only=True, use_safetensors=True
    )
    pipeline.set_progress_bar_config(disable=True)
    offload = place(pipeline, model)
    return FluxEngine(model, pipeline, {**fingerprint(model, folder, pipeline), "offload": offload})


class FluxEngine:
    """A loaded pipeline.  Pictures are drawn one by one, each from a generator of its own."""

    def __init__(self, model: Model, pipeline: FluxPipeline, fingerprint: dict[str, Any]) -> None:
        self.pipeline = pipeline
        self._device = pipeline._execution_device  # kept: to find it, diffusers looks at every layer
        self._loras = backend_for(pipeline)
        self._model = model
        self._fingerprint = fingerprint

    def run(
        self, request: ImageRequest, files: Files, on_step: OnStep, cancelled: Callable[[], bool]
    ) -> Drawing:
        """Draw at the trained size nearest in shape, then resample to the requested size."""
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
                self._fingerprint,
            )

    def _refuse(self, request: ImageRequest) -> None:
        for name in NOT_DRAWN_WITH:
            if getattr(request, name) not in (None, []):
                raise UnsupportedParameter(name, f"{self._model.id} does not support {name}")

    def _encode(self, request: ImageRequest, watch: Watch) -> dict[str, torch.Tensor]:
        """Embeddings of the prompt, once for all pictures, as arguments of the pipeline."""
        watch.check()
        with torch.no_grad():
            embeds, pooled, _ = self.pipeline.encode_prompt(
                request.prompt,
                device=self._device,
                max_sequence_length=self._model.max_sequence_length,
            )
        return {"prompt_embeds": embeds, "pooled_prompt_embeds": pooled}

    def _draw(
        self, request: ImageRequest, n: int, native_size: Size, embeddings: dict[str, Any], watch: Watch
    ) -> Image.Image:
        watch.check()
        width, height = native_size
        asked = request.guidance_scale
        output = self.pipeline(
            **embeddings,
            width=width,
            height=height,
            num_inference_steps=request.num_inference_steps,
            guidance_scale=(self._model.guidance_scale or 0.0) if asked is None else asked,
            # On the CPU whatever the device: equal seeds start from equal noise on every GPU.
            generator=torch.Generator("cpu").manual_seed(request.seed + n),
            max_sequence_length=self._model.max_sequence_length,
            callback_on_step_end=watch.step_of(n),
        )
        image: Image.Image = output.images[0]
        return image
