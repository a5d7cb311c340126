"""The Qwen-Image family: words and pictures to pictures, through diffusers' own pipelines.

A row that understands reference pictures is served by ``QwenImageEditPlusPipeline`` where a request has some,
every other request by ``QwenImagePipeline``; both draw with the same parts.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from diffusers import QwenImagePipeline
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image

from modal_app import catalog, engine
from modal_app.catalog import Model, Offload
from modal_app.contract import ImageRequest, LanguageRequest, LanguageResult
from modal_app.engine import (
    Canceled,
    Drawing,
    Files,
    Item,
    OnStep,
    checkpoint_folder,
    hub_folder,
    language,
    repaint,
)
from modal_app.engine.acceleration import accelerate, step_cache
from modal_app.engine.batching import independent_rows
from modal_app.engine.caches import TensorCache
from modal_app.engine.fingerprint import fingerprint
from modal_app.engine.frame import drawing_of, quieten, settle_threads
from modal_app.engine.language.vlm import Vlm
from modal_app.engine.loras.attach import Use, attached, backend_for
from modal_app.engine.loras.requested import uses_of
from modal_app.engine.placement import dtype, place, quantized_while_loading, store_small
from modal_app.engine.qwen_edit import condition_images, edit_pipeline, load_processor
from modal_app.engine.qwen_parts import parts_in_use, remember_parts
from modal_app.engine.qwen_vae import use_single_frame_short_cuts
from modal_app.engine.qwen_work import Plan, Work, stacked, stepper, tokens

BATCH = 4
"""Pictures that are drawn at once, if nothing but their noise and words differs."""
VIEW_PIXELS = 256
"""Longest side of a look at a picture that is being drawn."""
EMBEDDING_CACHE_BYTES = 256 * 1024 * 1024
"""At least 70 prompts: 512 tokens x 3584 x 2 bytes are 3.7 MB at most."""


def load(model: Model) -> "QwenEngine":
    """Load the row's checkpoint folder, in bfloat16 onto a CUDA device or in float32 onto the CPU."""
    quieten()
    folder = checkpoint_folder(model)
    shared = parts_in_use(folder, dtype(model))
    pipeline = QwenImagePipeline.from_pretrained(
        folder, dtype=dtype(model), local_files_only=True, **quantized_while_loading(model), **shared
    )
    remember_parts(pipeline, folder, dtype(model))
    store_small(pipeline, model)
    pipeline.scheduler = type(pipeline.scheduler).from_config(pipeline.scheduler.config, **model.scheduler)
    offload = place(pipeline, model)
    if pipeline._execution_device.type == "cpu":
        use_single_frame_short_cuts(pipeline.vae)
    return QwenEngine(model, pipeline, load_processor(folder), folder, offload)


class QwenEngine:
    """Loaded parts, and the pipelines over them.  Each picture is drawn from a generator of its own."""

    def __init__(
        self, model: Model, pipeline: QwenImagePipeline, processor: Any, folder: Path, offload: Offload
    ) -> None:
        self._model = model
        self._words = pipeline
        self._device = pipeline._execution_device  # kept: to find it, diffusers looks at every layer
        self._edit = (
            edit_pipeline({**pipeline.components, "processor": processor}, model.reference_pixels)
            if processor is not None and "reference" in model.roles
            else None
        )
        for each in (self._words, self._edit):
            if each is not None:
                each.set_progress_bar_config(disable=True)
        # Where parts wait in main memory, a look would send the denoiser there in the middle of its work.
        self._view = self._viewed if offload == "none" else None
        self._loras = backend_for(pipeline)
        self._embeddings = TensorCache(EMBEDDING_CACHE_BYTES)
        accelerated = accelerate(pipeline.transformer, engine.options)
        self._fingerprint = {**fingerprint(model, folder, pipeline), "offload": offload, **accelerated}
        self._vlm = (
            Vlm(
                *(pipeline.text_encoder, pipeline.tokenizer, processor, model.language),
                checkpoint=folder / "text_encoder",
                likeness=model.likeness,
            )
            if model.language
            else None
        )

    def batch_key(self, request: ImageRequest) -> tuple[Any, ...] | None:
        """Requests of one key may run as one batch; None may not be joined by any."""
        if request.references or request.mask:
            return None
        return (
            *(request.width, request.height, request.num_inference_steps),
            *(request.true_cfg_scale, request.guidance_scale),
            tuple(sorted((lora.sha256, lora.scale) for lora in request.loras)),
        )

    def run(
        self, request: ImageRequest, files: Files, on_step: OnStep, cancelled: Callable[[], bool]
    ) -> Drawing:
        """Draw at the trained size nearest in shape, then resample to the requested size.

        A negative prompt acts only with ``true_cfg_scale`` above 1, which doubles the work.
        """
        (result,) = self.run_batch([Item(request, files, on_step, cancelled)])
        if isinstance(result, Canceled):
            raise result
        return result

    def run_batch(self, items: Sequence[Item]) -> list[Drawing | Canceled]:
        """What ``run`` would give for each of the items, whose ``batch_key`` is the same."""
        settle_threads(self._device)
        uses = self._uses(items[0])
        works = [Work(item) for item in items]
        if any([work.wanted() for work in works]):
            with attached(self._loras, uses), self._cached_steps(works[0]):
                self._draw(works)
        return [Canceled("canceled") if work.canceled else self._drawing(work) for work in works]

    def remember(self, prompt: str, embedding: torch.Tensor) -> None:
        """Take [1, tokens, width] for a prompt without pictures instead of asking the text encoder."""
        self._embeddings.get((prompt, ()), self._device, lambda: (embedding,))

    def _cached_steps(self, work: Work) -> AbstractContextManager[None]:
        steps = work.item.request.num_inference_steps
        return step_cache(self._words.transformer, steps, engine.options.step_cache_threshold)

    def _uses(self, item: Item) -> list[Use]:
        """The request's LoRAs, and the one that the row itself needs to draw in few steps."""
        uses = uses_of(self._model, item.request, item.files)
        own = catalog.step_lora(self._model, item.request.num_inference_steps)
        return [*uses, (own.path, hub_folder(own.repository) / own.path, 1.0)] if own else uses

    def answer(self, request: LanguageRequest, files: Files, cancelled: Callable[[], bool]) -> LanguageResult:
        """A language task, done by the pipeline's own text encoder as far as that can."""
        return language.answer(self._vlm, request, files, cancelled)

    def _draw(self, works: list[Work]) -> None:
        """Draw every picture of every work that is still wanted; a work that no longer is ends alone."""
        plans: list[Plan] = []
        for work in works:
            with suppress(Canceled):
                plans += self._planned(work)
        for _, alike in groupby(sorted(plans, key=tokens), key=tokens):
            group = list(alike)
            size = 1 if any(plan.work.pictures_in for plan in group) else BATCH
            for start in range(0, len(group), size):
                with suppress(Canceled):
                    self._draw_together([p for p in group[start : start + size] if not p.work.canceled])

    def _planned(self, work: Work) -> list[Plan]:
        """One plan a picture; text encoding, once for all of them, is done here."""
        request = work.item.request
        work.prepare(self._model)
        embeddings = self._encode(work)
        return [Plan(work, n, request.seed + n, embeddings) for n in range(request.num_images)]

    def _encode(self, work: Work) -> dict[str, torch.Tensor]:
        """Embeddings of the prompts as arguments of the pipeline."""
        request = work.item.request
        embeddings = {"prompt_embeds": self._embedding(work, request.prompt)}
        if request.true_cfg_scale > 1:
            # Without a negative prompt the pipeline would skip the guidance; a blank stands for none.
            negative = request.negative_prompt or " "
            embeddings["negative_prompt_embeds"] = self._embedding(work, negative)
        return embeddings

    def _embedding(self, work: Work, prompt: str) -> torch.Tensor:
        """[1, tokens, width] of a prompt and of the references that it talks about."""
        work.check()
        key = (prompt, tuple(work.condition_keys))
        return self._embeddings.get(key, self._device, lambda: (self._embedded(work, prompt),))[0]

    def _embedded(self, work: Work, prompt: str) -> torch.Tensor:
        with torch.no_grad():
            if work.conditions:
                assert self._edit is not None
                seen = condition_images(self._edit, work.conditions, self._model.condition_pixels)
                embeds, mask = self._edit.encode_prompt(prompt, image=seen, device=self._device)
            else:
                embeds, mask = self._words.encode_prompt(
                    prompt, device=self._device, max_sequence_length=self._model.max_sequence_length
                )
        assert mask is None, "a single prompt has no padding"
        embedding: torch.Tensor = embeds
        return embedding

    def _draw_together(self, plans: list[Plan]) -> None:
        """Pictures of one pipeline call; each is decoded alone."""
        if not plans:
            return
        if not plans[0].work.steps:  # a strength of 0: the picture stays as it is
            plans[0].work.keep(plans[0])
            return
        with independent_rows(self._words.transformer) if len(plans) > 1 else nullcontext():
            denoised = self._denoised(plans)
        for plan, latents in zip(plans, denoised, strict=True):
            if plan.work.wanted():
                plan.work.finished(plan, self._decoded(latents[None], plan.work))

    def _denoised(self, plans: list[Plan]) -> torch.Tensor:
        """Packed latents [pictures, tokens, channels]."""
        work = plans[0].work
        request = work.item.request
        pipeline: Any = self._edit if work.conditions else self._words
        width, height = work.native_size
        generators = [torch.Generator("cpu").manual_seed(plan.seed) for plan in plans]
        start, sigmas, after = self._start(work, generators[0])
        output = pipeline(
            **stacked(plans),
            **({"image": work.conditions} if work.conditions else {}),
            **({"latents": start, "sigmas": sigmas} if work.over else {}),
            width=width,
            height=height,
            num_inference_steps=work.steps,
            true_cfg_scale=request.true_cfg_scale,
            guidance_scale=request.guidance_scale,
            # On the CPU whatever the device: equal seeds start from equal noise on every GPU.
            generator=generators,
            max_sequence_length=self._model.max_sequence_length,
            output_type="latent",
            callback_on_step_end=stepper(plans, after, self._view),
        )
        latents: torch.Tensor = output.images
        return latents

    def _start(self, work: Work, generator: torch.Generator) -> tuple[Any, list[float] | None, Any]:
        """(latents, noise levels, what to do after a step) where a picture is drawn over, else nothing."""
        if work.over is None:
            return None, None, None
        pipeline = self._words
        width, height = work.native_size
        scale, channels = pipeline.vae_scale_factor, pipeline.transformer.config.in_channels // 4
        shape = (1, 1, channels, height // scale, width // scale)
        noise = randn_tensor(shape, generator, self._device, pipeline.transformer.dtype)
        packed = pipeline._pack_latents(noise, 1, channels, *shape[3:])
        latents = repaint.Latents(work.over, pipeline, work.native_size, packed)
        sigmas = work.over.sigmas(work.item.request.num_inference_steps)
        return latents.start(sigmas), sigmas, latents.after

    def _decoded(self, latents: torch.Tensor, work: Work) -> Image.Image:
        """latents [1, tokens, channels] to the picture at its native size, as the pipelines do it."""
        return self._pixels(self._unpacked(latents, work))

    def _viewed(self, latents: torch.Tensor, work: Work) -> Image.Image:
        """A small picture of latents [1, tokens, channels]: decoded after they were made smaller."""
        unpacked = self._unpacked(latents, work)
        factor = -(-max(unpacked.shape[-2:]) // (VIEW_PIXELS // self._words.vae_scale_factor))
        return self._pixels(torch.nn.functional.avg_pool3d(unpacked, (1, factor, factor)))

    def _unpacked(self, latents: torch.Tensor, work: Work) -> torch.Tensor:
        """[1, channels, 1, height, width]"""
        pipeline, (width, height) = self._words, work.native_size
        unpacked = pipeline._unpack_latents(latents, height, width, pipeline.vae_scale_factor)
        return unpacked.to(pipeline.vae.dtype)

    def _pixels(self, unpacked: torch.Tensor) -> Image.Image:
        vae, pipeline = self._words.vae, self._words
        mean, std = (
            torch.tensor(values).view(1, -1, 1, 1, 1).to(unpacked)
            for values in (vae.config.latents_mean, vae.config.latents_std)
        )
        with torch.no_grad():
            pixels = vae.decode(unpacked / (1.0 / std) + mean, return_dict=False)[0][:, :, 0]
        image: Image.Image = pipeline.image_processor.postprocess(pixels, output_type="pil")[0]
        return image

    def _drawing(self, work: Work) -> Drawing:
        request = work.item.request
        pictures = [work.drawn[n] for n in range(request.num_images)]
        return drawing_of(request, work.native_size, pictures, self._fingerprint)
