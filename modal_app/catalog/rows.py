"""The models.  Every number of a real one is for one picture on an L40S with its first variant.

Where a comment names no source, it says how the figure was estimated; nothing here was measured by this
project but the bundled models.  Memory is in 10^9 bytes: published 21 GiB are 22.5.
"""

import math
from typing import Any

from modal_app.catalog.model import (
    HALF_FILES,
    SAMPLERS,
    HubFile,
    HubFolder,
    Model,
    Quant,
    Variant,
    as_variant,
)

FAST_QUALITIES = ("low", "medium")
"""Qualities that a row with a ``fast`` sibling leaves to it."""

_TINY_FIELDS = frozenset(
    {"negative_prompt", "true_cfg_scale", "num_inference_steps", "loras", "mask", "strength"}
)
_TINY_STEPS = {"low": 6, "medium": 8, "high": 12, "xhigh": 20, "max": 50}
_TINY = tuple(
    Variant(
        quant=quant,
        repository="tiny",
        revision="1",
        est_vram_gb=0.5,  # estimate: 11.5 MB of weights, the rest is what any CUDA program takes
        largest_part_gb=0.5,
        bundled=True,
    )
    for quant in ("fp32", "bf16")
)

_QWEN_SIZES = (
    *((1328, 1328), (1664, 928), (928, 1664), (1472, 1104), (1104, 1472), (1584, 1056), (1056, 1584)),
)
_QWEN_FIELDS = _TINY_FIELDS
_LIGHTNING_FIELDS = _QWEN_FIELDS - {"negative_prompt", "true_cfg_scale"}
_QWEN_STEPS = {"low": 4, "medium": 8, "high": 50, "xhigh": 50, "max": 100}
_LIGHTNING_STEPS = {"low": 4, "medium": 8}
_LIGHTNING_SCHEDULER: dict[str, Any] = {
    "base_shift": math.log(3),
    "max_shift": math.log(3),
    "shift": 1.0,
    "shift_terminal": None,
    "use_dynamic_shifting": True,
    "time_shift_type": "exponential",
    "base_image_seq_len": 256,
    "max_image_seq_len": 8192,
}
"""The steps that Lightning was distilled for."""

_LIGHTNING_REVISION = "e74da8d4e71a54b341de86aa9f8d2509165aa513"
_EDIT_REVISION = "d3968ef930e841f4c73640fb8afa3b306a78167e"


def _lightning(path: str) -> dict[int, HubFile]:
    return {
        steps: HubFile(
            repository="lightx2v/Qwen-Image-Lightning",
            revision=_LIGHTNING_REVISION,
            path=path.format(steps=steps),
        )
        for steps in (4, 8)
    }


def _svdq(
    quant: Quant, repository: str, est_vram_gb: float, largest_part_gb: float, *, fused: bool = False
) -> Variant:
    """Quantized weights with their own 4-bit text encoder; no commit of these could be verified."""
    return Variant(
        quant=quant,
        repository=f"lite-infer/{repository}-bnb4-text-encoder",
        revision=None,
        est_vram_gb=est_vram_gb,
        largest_part_gb=largest_part_gb,
        lightning_fused=fused,
    )


def _qwen_full(repository: str, revision: str) -> tuple[Variant, ...]:
    """The 16-bit weights, and what is made of them while loading."""
    # bf16: 60 GB published for an H100 and an L20; the transformer alone is 40.9 GB.
    # fp8, int8 estimates: half the transformer, the 16.6 GB text encoder in 16 bits, 3 GB to work in.
    memory: tuple[tuple[Quant, float, float], ...] = (
        *(("bf16", 60.0, 44.0), ("fp8", 40.0, 23.5), ("int8", 40.0, 23.5)),
    )
    return tuple(
        Variant(
            quant=quant,
            repository=repository,
            revision=revision,
            est_vram_gb=peak,
            largest_part_gb=part,
        )
        for quant, peak, part in memory
    )


# int4 r32: 21 GiB published for the edit model; the transformer is 11.6 GB, 3 GB to work in.
# r128 estimate: 96 more ranks on 20 B parameters of matrices 3072 wide are 2 GB in 16 bits.
# nvfp4 estimate: 4 bits like int4, with scales for groups of 16 in place of 64.
_QWEN_VARIANTS = (
    _svdq("svdq-int4-r32", "Qwen-Image-nunchaku-lite-int4_r32", 22.5, 14.6),
    _svdq("svdq-int4-r128", "Qwen-Image-nunchaku-lite-int4_r128", 24.5, 16.6),
    _svdq("svdq-nvfp4", "Qwen-Image-nunchaku-lite-nvfp4_r32", 23.0, 15.1),
    *_qwen_full("Qwen/Qwen-Image", "75e0b4be04f60ec59a75f475837eced720f823b6"),
)
_EDIT = "qwen-image-edit-2509"
_EDIT_FULL = _qwen_full("Qwen/Qwen-Image-Edit-2509", _EDIT_REVISION)
_EDIT_VARIANTS = (
    _svdq("svdq-int4-r32", f"{_EDIT}-nunchaku-lite-int4_r32", 22.5, 14.6),
    _svdq("svdq-nvfp4", f"{_EDIT}-nunchaku-lite-nvfp4_r32", 23.0, 15.1),
    *_EDIT_FULL,
)
_EDIT_FAST_VARIANTS = (
    _svdq("svdq-int4-r32", f"{_EDIT}-lightning-4steps-nunchaku-lite-int4_r32", 22.5, 14.6, fused=True),
    _svdq("svdq-nvfp4", f"{_EDIT}-lightning-4steps-nunchaku-lite-nvfp4_r32", 23.0, 15.1, fused=True),
    *_EDIT_FULL,
)


def _flux_variants(name: str, repository: str, revision: str) -> tuple[Variant, ...]:
    # Estimates from 11.9 B parameters of the transformer and 4.8 B of T5: 2 bytes each in bf16;
    # half a byte each and the 16-bit branch of rank 32 in 4 bits; 2 to 4 GB to work in.
    full = Variant(
        quant="bf16", repository=repository, revision=revision, est_vram_gb=36.0, largest_part_gb=26.0
    )
    return (
        _svdq("svdq-int4-r32", f"{name}-nunchaku-lite-int4_r32", 14.0, 9.5),
        _svdq("svdq-nvfp4", f"{name}-nunchaku-lite-nvfp4_r32", 14.5, 10.0),
        full,
    )


_FLUX_SIZES = ((1024, 1024), (1152, 896), (896, 1152), (1216, 832), (832, 1216), (1344, 768), (768, 1344))
_SDXL_SIZES = (*_FLUX_SIZES, (1536, 640), (640, 1536))
_SD1_SIZES = ((512, 512), (512, 640), (640, 512), (512, 768), (768, 512))
_SD_FIELDS = frozenset({"negative_prompt", "true_cfg_scale", "num_inference_steps", "loras"})
_SD_STEPS = {"low": 15, "medium": 20, "high": 28, "xhigh": 40, "max": 60}
_SDXL_BASE = "stabilityai/stable-diffusion-xl-base-1.0"
_SDXL_REVISION = "462165984030d82259a11f4367a4eed129e94a7b"


def _half(
    repository: str, revision: str | None, est_vram_gb: float, largest_part_gb: float, file: str = ""
) -> tuple[Variant, ...]:
    """Weights in 16 bits; float16, which every GPU of the table multiplies."""
    return (
        Variant(
            quant="fp16",
            repository=repository,
            revision=revision,
            est_vram_gb=est_vram_gb,
            largest_part_gb=largest_part_gb,
            file=file,
            files=(file,) if file else HALF_FILES,
        ),
    )


_ROWS: tuple[Model, ...] = (
    Model(
        id="tiny-qwen",
        family="qwen",
        variants=_TINY,
        native_sizes=((96, 96),),
        num_inference_steps=12,
        max_inference_steps=100,
        true_cfg_scale=1.0,
        supports=_TINY_FIELDS,
        steps_by_quality=_TINY_STEPS,
        roles=frozenset({"init"}),
        max_references=1,
        lora_group="tiny",
        language="describe",
        license="Apache-2.0",
        commercial_use=True,
        est_seconds=0.3,  # 12 steps on one CPU thread, 96 x 96, resampled to 1024 x 1024
    ),
    Model(
        id="tiny-qwen-edit",
        family="qwen",
        variants=_TINY,
        native_sizes=((96, 96),),
        num_inference_steps=12,
        max_inference_steps=100,
        true_cfg_scale=1.0,
        supports=_TINY_FIELDS,
        steps_by_quality=_TINY_STEPS,
        roles=frozenset({"reference", "style", "init"}),
        max_references=3,
        # Trained on one picture a creature: of a second and third it draws further creatures, and one of
        # three pictures keeps colour, body and hat, where of one reference all do.
        max_references_per_subject=1,
        reference_pixels=96 * 96,
        condition_pixels=96 * 96,
        likeness=(0.9, 0.985),
        consistency_threshold=70.0,  # scripts.calibrate_consistency: AUC 0.99
        lora_group="tiny",
        language="describe",
        license="Apache-2.0",
        commercial_use=True,
        est_seconds=0.4,
    ),
    Model(
        id="instant",
        family="instant",
        revision="1",
        native_sizes=(),
        num_inference_steps=1,
        max_inference_steps=200,
        true_cfg_scale=1.0,
        supports=frozenset({"num_inference_steps"}),
        roles=frozenset({"reference"}),  # fetched as for any model, and not looked at
        max_references=3,
        license="Apache-2.0",
        commercial_use=True,
        est_seconds=0.01,
    ),
    Model(
        id="qwen-image",
        family="qwen",
        variants=_QWEN_VARIANTS,
        native_sizes=_QWEN_SIZES,
        num_inference_steps=50,
        max_inference_steps=100,
        true_cfg_scale=4.0,
        supports=_QWEN_FIELDS,
        steps_by_quality=_QWEN_STEPS,
        fast="qwen-image-fast",
        roles=frozenset({"init"}),
        max_references=1,
        lora_group="Qwen",
        language="chat",
        license="Apache-2.0",
        commercial_use=True,
        est_seconds=71.0,  # published for fp8 on an RTX 4090D, a chip like the L40S's; none for int4
    ),
    Model(
        id="qwen-image-fast",
        family="qwen",
        variants=_QWEN_VARIANTS,
        native_sizes=_QWEN_SIZES,
        num_inference_steps=8,
        max_inference_steps=8,
        true_cfg_scale=1.0,
        supports=_LIGHTNING_FIELDS,
        steps_by_quality=_LIGHTNING_STEPS,
        step_loras=_lightning("Qwen-Image-Lightning-{steps}steps-V2.0-bf16.safetensors"),
        scheduler=_LIGHTNING_SCHEDULER,
        roles=frozenset({"init"}),
        max_references=1,
        lora_group="Qwen",
        language="chat",
        license="Apache-2.0",
        commercial_use=True,
        est_seconds=8.0,  # estimate: 8 of the 100 forwards of 71 s, and 2 s for text encoder and VAE
    ),
    Model(
        id="qwen-image-edit",
        family="qwen",
        variants=_EDIT_VARIANTS,
        native_sizes=_QWEN_SIZES,
        num_inference_steps=40,
        max_inference_steps=100,
        true_cfg_scale=4.0,
        supports=_QWEN_FIELDS,
        steps_by_quality=_QWEN_STEPS,
        fast="qwen-image-edit-fast",
        roles=frozenset({"reference", "style", "init"}),
        max_references=3,
        lora_group="Qwen",
        language="chat",
        license="Apache-2.0",
        commercial_use=True,
        est_seconds=214.0,  # estimate: 80 forwards of 2.65 s, each a quarter of the fast row's less 2 s
    ),
    Model(
        id="qwen-image-edit-fast",
        family="qwen",
        variants=_EDIT_FAST_VARIANTS,
        native_sizes=_QWEN_SIZES,
        num_inference_steps=4,
        max_inference_steps=8,
        true_cfg_scale=1.0,
        supports=_LIGHTNING_FIELDS,
        steps_by_quality=_LIGHTNING_STEPS,
        step_loras=_lightning(
            "Qwen-Image-Edit-2509/Qwen-Image-Edit-2509-Lightning-{steps}steps-V1.0-bf16.safetensors"
        ),
        scheduler=_LIGHTNING_SCHEDULER,
        roles=frozenset({"reference", "style", "init"}),
        max_references=3,
        lora_group="Qwen",
        language="chat",
        license="Apache-2.0",
        commercial_use=True,
        est_seconds=12.6,  # published for these weights at 1248 x 832; the GPU is not named
    ),
    Model(
        id="qwen-image-2.1",
        family="qwen21",
        # Estimate: 33.1 GB of weights in the repository, 14.2 the transformer, 17.5 the text encoder.
        variants=(
            Variant(
                quant="bf16",
                repository="Qwen/Qwen-Image-2.1",
                revision="d26bb61231c349cf6b7896fa83353113880e1ba3",
                est_vram_gb=37.0,
                largest_part_gb=20.0,
            ),
        ),
        native_sizes=_FLUX_SIZES,  # it draws at multiples of 32 only
        num_inference_steps=40,
        max_inference_steps=50,
        true_cfg_scale=1.0,
        supports=frozenset({"num_inference_steps", "loras", "negative_prompt", "true_cfg_scale"}),
        steps_by_quality={"low": 20, "medium": 30, "high": 40, "xhigh": 50, "max": 50},
        roles=frozenset({"reference", "style"}),
        max_references=10,
        lora_group="Qwen 2.1",
        language="chat",
        license="Qwen Research License",
        commercial_use=False,
        needs_acceptance=True,
        # Estimate: 5 times the 0.96 s published for 8 Turbo steps in nvfp4 on an RTX PRO 6000, and 3
        # times that for 16 bits on an L40S.
        est_seconds=14.4,
    ),
    Model(
        id="flux1-dev",
        family="flux",
        variants=_flux_variants(
            "flux.1-dev", "black-forest-labs/FLUX.1-dev", "3de623fc3c33e44ffbe2bad470d0f45bccf2eb21"
        ),
        native_sizes=_FLUX_SIZES,
        num_inference_steps=28,
        max_inference_steps=50,
        true_cfg_scale=1.0,
        guidance_scale=3.5,
        supports=frozenset({"guidance_scale", "num_inference_steps", "loras"}),
        steps_by_quality={"low": 14, "medium": 20, "high": 28, "xhigh": 40, "max": 50},
        lora_group="Flux.1 D",
        license="FLUX.1 [dev] Non-Commercial License",
        commercial_use=False,
        needs_acceptance=True,
        est_seconds=16.0,  # published for an L40S, compiled: 9.2 to 16 s
    ),
    Model(
        id="flux1-schnell",
        family="flux",
        variants=_flux_variants(
            "flux.1-schnell", "black-forest-labs/FLUX.1-schnell", "741f7c3ce8b383c54771c7003378a50191e9efe9"
        ),
        native_sizes=_FLUX_SIZES,
        num_inference_steps=4,
        max_inference_steps=8,
        true_cfg_scale=1.0,
        guidance_scale=0.0,
        supports=frozenset({"num_inference_steps", "loras"}),
        steps_by_quality={"low": 2, "medium": 4, "high": 4, "xhigh": 6, "max": 8},
        max_sequence_length=256,
        lora_group="Flux.1 S",
        license="Apache-2.0",
        commercial_use=True,
        est_seconds=3.3,  # estimate: 4 of the 28 steps of 16 s, and 1 s for text encoders and VAE
    ),
    Model(
        id="sdxl",
        family="sdxl",
        # Estimate: 3.5 B parameters in 16 bits, 5.1 GB the UNet, 3 GB for the VAE, which works in 32.
        variants=_half(_SDXL_BASE, _SDXL_REVISION, 10.0, 8.0),
        native_sizes=_SDXL_SIZES,
        num_inference_steps=28,
        max_inference_steps=100,
        true_cfg_scale=6.0,
        supports=_SD_FIELDS,
        steps_by_quality=_SD_STEPS,
        sampler="Euler a",
        samplers=frozenset(SAMPLERS),
        clip_skip=2,
        max_sequence_length=77,
        lora_group="SDXL 1.0",
        license="CreativeML Open RAIL++-M",
        commercial_use=True,
        # Estimate: 56 forwards of 6 TFLOP at a third of an L40S's 362 TFLOP/s are 2.8 s; the rest is
        # for the VAE in 32 bits and what is lost between.
        est_seconds=5.0,
    ),
    Model(
        id="pony",
        family="sdxl",
        variants=_half(
            *("LyliaEngine/Pony_Diffusion_V6_XL", None),
            *(10.0, 8.0),  # the same layers as sdxl
            file="ponyDiffusionV6XL_v6StartWithThisOne.safetensors",
        ),
        config=HubFolder(
            repository=_SDXL_BASE, revision=_SDXL_REVISION, files=("*.json", "*/*.json", "*/*.txt")
        ),
        native_sizes=_SDXL_SIZES,
        num_inference_steps=28,
        max_inference_steps=100,
        true_cfg_scale=6.0,
        supports=_SD_FIELDS,
        steps_by_quality=_SD_STEPS,
        sampler="Euler a",
        samplers=frozenset(SAMPLERS),
        clip_skip=2,
        max_sequence_length=77,
        prompt_prefix="score_9, score_8_up, score_7_up, ",
        lora_group="Pony",
        license="Fair AI Public License 1.0-SD, modified by its author",
        commercial_use=False,
        needs_acceptance=True,
        est_seconds=5.0,  # estimate: the same layers as sdxl
    ),
    Model(
        id="sd15",
        family="sd1",
        # Estimate: 1.1 B parameters in 16 bits, 1.7 GB the UNet, and 2 GB to work in.
        variants=_half(
            "stable-diffusion-v1-5/stable-diffusion-v1-5",
            "451f4fe16113bff5a5d2269ed5ad43b0592e9a14",
            *(4.2, 3.7),
        ),
        native_sizes=_SD1_SIZES,
        num_inference_steps=25,
        max_inference_steps=100,
        true_cfg_scale=7.0,
        supports=_SD_FIELDS,
        steps_by_quality=_SD_STEPS | {"high": 25},
        sampler="DPM++ 2M Karras",
        samplers=frozenset(SAMPLERS),
        clip_skip=1,
        max_sequence_length=77,
        lora_group="SD 1.5",
        license="CreativeML Open RAIL-M",
        commercial_use=True,
        est_seconds=2.0,  # estimate: 50 forwards of 0.8 TFLOP are 0.3 s; small layers keep no GPU busy
    ),
)

CATALOG: tuple[Model, ...] = tuple(as_variant(row, row.variants[0]) if row.variants else row for row in _ROWS)

_BY_ID = {model.id: model for model in CATALOG}


def find(model_id: str) -> Model | None:
    """The row of ``model_id``, or None."""
    return _BY_ID.get(model_id)


def at_quality(model: Model, quality: str) -> Model:
    """The row that draws ``model`` at a quality: its fast sibling for the low ones, if it has one."""
    fast = find(model.fast) if model.fast and quality in FAST_QUALITIES else None
    return fast or model
