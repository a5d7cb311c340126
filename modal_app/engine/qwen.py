"""The Qwen-Image family: text to pictures through diffusers' ``QwenImagePipeline``."""

import hashlib
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import PIL
import torch
import transformers
from diffusers import QwenImagePipeline

from modal_app import catalog
from modal_app.catalog import Model
from modal_app.contract import ImageRequest
from modal_app.engine import Canceled, Drawing, OnStep, Picture, checkpoint_folder
from modal_app.engine.pictures import resample
from modal_app.engine.qwen_vae import use_single_frame_short_cuts

MAX_SEQUENCE_LENGTH = 512
"""Tokens of a prompt that count, diffusers' default; the pipeline cuts the rest off."""


def load(model: Model) -> "QwenEngine":
    """Load the row's checkpoint folder, in bfloat16 onto a CUDA device or in float32 onto the CPU."""
    _quieten()
    folder = checkpoint_folder(model)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    pipeline = QwenImagePipeline.from_pretrained(folder, dtype=dtype, local_files_only=True).to(device)
    pipeline.set_progress_bar_config(disable=True)
    if device.type == "cpu":
        use_single_frame_short_cuts(pipeline.vae)
    return QwenEngine(model, pipeline, _fingerprint(model, folder, pipeline))


class QwenEngine:
    """A loaded pipeline.  Pictures are drawn one by one, each from a generator of its own."""

    def __init__(self, model: Model, pipeline: QwenImagePipeline, fingerprint: dict[str, Any]) -> None:
        self._model = model
        self._pipeline = pipeline
        self._fingerprint = fingerprint

    def run(self, request: ImageRequest, on_step: OnStep, cancelled: Callable[[], bool]) -> Drawing:
        """Draw at the trained size nearest in shape, then resample to the requested size.

        A negative prompt acts only with ``true_cfg_scale`` above 1, which doubles the work.
        """
        if self._pipeline.device.type == "cpu":
            torch.set_num_threads(1)  # of this thread; more make models small enough for a CPU slower
        size = (request.width, request.height)
        native_size = catalog.native_size(self._model, *size)
        watch = _Watch(request.num_inference_steps, request.num_images, on_step, cancelled)
        embeddings = self._encode(request, watch)
        pictures = []
        for n in range(request.num_images):
            image = self._draw(request, n, native_size, embeddings, watch)
            pictures.append(Picture(resample(image, size), request.seed + n))
        return Drawing(
            pictures=pictures,
            native_size=native_size,
            resampling="none" if native_size == size else "lanczos",
            fingerprint=self._fingerprint,
        )

    def _encode(self, request: ImageRequest, watch: "_Watch") -> dict[str, Any]:
        """Embeddings of the prompts, once for all pictures, as arguments of the pipeline."""
        embeddings = self._embeddings("", request.prompt, watch)
        if request.true_cfg_scale > 1:
            # Without a negative prompt the pipeline would skip the guidance; a blank stands for none.
            embeddings |= self._embeddings("negative_", request.negative_prompt or " ", watch)
        return embeddings

    def _embeddings(self, prefix: str, prompt: str, watch: "_Watch") -> dict[str, Any]:
        watch.check()
        with torch.no_grad():
            embeds, mask = self._pipeline.encode_prompt(prompt, max_sequence_length=MAX_SEQUENCE_LENGTH)
        return {f"{prefix}prompt_embeds": embeds, f"{prefix}prompt_embeds_mask": mask}

    def _draw(
        self,
        request: ImageRequest,
        n: int,
        native_size: catalog.Size,
        embeddings: dict[str, Any],
        watch: "_Watch",
    ) -> PIL.Image.Image:
        watch.check()
        width, height = native_size
        output = self._pipeline(
            **embeddings,
            width=width,
            height=height,
            num_inference_steps=request.num_inference_steps,
            true_cfg_scale=request.true_cfg_scale,
            guidance_scale=request.guidance_scale,
            # On the CPU whatever the device: equal seeds start from equal noise on every GPU.
            generator=torch.Generator("cpu").manual_seed(request.seed + n),
            max_sequence_length=MAX_SEQUENCE_LENGTH,
            callback_on_step_end=watch.step_of(n),
        )
        image: PIL.Image.Image = output.images[0]
        return image


class _Watch:
    """Reports steps and ends the run by raising, after which the pipeline is as it was.

    diffusers' own ``pipeline._interrupt`` would skip the steps, but decode a picture of noise.  The
    callback of the last step runs right before the VAE decodes, so that is covered as well.
    """

    def __init__(self, steps: int, pictures: int, on_step: OnStep, cancelled: Callable[[], bool]) -> None:
        self._steps = steps
        self._pictures = pictures
        self._on_step = on_step
        self._cancelled = cancelled

    def check(self) -> None:
        """Canceled if nobody wants the pictures any more."""
        if self._cancelled():
            raise Canceled("canceled")

    def step_of(self, n: int) -> Callable[..., dict[str, Any]]:
        """The step callback for picture ``n``."""

        def stepped(pipeline: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            self._on_step(n * self._steps + step + 1, self._pictures * self._steps)
            self.check()
            return tensors

        return stepped


def _quieten() -> None:
    """No bars, and no warnings about call patterns that are meant."""
    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()


def _fingerprint(model: Model, folder: Path, pipeline: QwenImagePipeline) -> dict[str, Any]:
    return {
        "model": model.id,
        "checkpoint": model.checkpoint,
        "revision": model.revision,
        "weights_sha256": _weights_sha256(folder),
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "transformers": transformers.__version__,
        "pillow": PIL.__version__,
        "device": _device_name(pipeline.device),
        "dtype": str(pipeline.transformer.dtype).removeprefix("torch."),
        "scheduler": type(pipeline.scheduler).__name__,
    }


def _weights_sha256(folder: Path) -> dict[str, str]:
    """Hash of every weights file, by its path in the checkpoint."""
    found = {}
    for path in sorted(folder.rglob("*.safetensors")):
        with path.open("rb") as file:
            found[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def _device_name(device: torch.device) -> str:
    """CPUs are told apart by their instruction set: that is what decides how sums are rounded."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
