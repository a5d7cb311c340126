"""The rows, and which weights of them run where."""

import datetime
import re
from dataclasses import replace

import pytest

from modal_app import catalog
from modal_app.catalog import CATALOG, GPUS, RUNS_ON, Gpu, Model, UnsupportedHardware, Variant
from modal_app.contract import ImageRequest

QUANTS = list(RUNS_ON)
ROWS = pytest.mark.parametrize("model", CATALOG, ids=lambda model: model.id)
GPU_ROWS = pytest.mark.parametrize("gpu", GPUS, ids=lambda gpu: gpu.name)
LATER = datetime.date(2026, 11, 21)

NOT_PINNED = {
    "qwen-image",
    "qwen-image-fast",
    "qwen-image-edit",
    "qwen-image-edit-fast",
    "flux1-dev",
    "flux1-schnell",
    "pony",
}
"""Rows some of whose weights have no verified commit: whoever fetches them records what came."""


def found(model_id: str) -> Model:
    model = catalog.find(model_id)
    assert model
    return model


def capability(name: str) -> tuple[int, int]:
    gpu = catalog.find_gpu(name)
    assert gpu
    return gpu.capability


# Which weights run where

SVDQ_4_BIT = {"svdq-int4-r32", "svdq-int4-r128"}
AMPERE_OR_ADA = {"L4", "A10", "L40S", "A100-40GB", "A100-80GB"}
WITH_FP8 = {"L4", "L40S", "RTX-PRO-6000", "H100", "H200"}
WITH_BF16 = AMPERE_OR_ADA | {"RTX-PRO-6000", "H100", "H200"}


def expected(quant: str) -> set[str]:
    """GPUs on which weights of a kind run, written down a second time by hand."""
    if quant in SVDQ_4_BIT:
        return AMPERE_OR_ADA
    plain = {"svdq-nvfp4": {"RTX-PRO-6000"}, "fp8": WITH_FP8, "int8": WITH_BF16, "bf16": WITH_BF16}
    return plain.get(quant, WITH_BF16 | {"T4"})


@pytest.mark.parametrize("quant", QUANTS)
@GPU_ROWS
@ROWS
def test_every_pair_is_served_or_refused_with_a_sentence(model: Model, gpu: Gpu, quant: str) -> None:
    exists = quant in {variant.quant for variant in model.variants}
    if exists and gpu.name in expected(quant):
        assert catalog.choose_variant(model, gpu.capability, quant=quant).quant == quant
        return
    with pytest.raises(UnsupportedHardware) as refused:
        catalog.choose_variant(model, gpu.capability, quant=quant)
    sentence = str(refused.value)
    assert model.id in sentence and quant in sentence and gpu.name in sentence
    assert "it runs" in sentence or not model.variants


@pytest.mark.parametrize(
    ("model_id", "gpu", "quality", "quant"),
    [
        ("qwen-image", "L40S", "auto", "svdq-int4-r32"),
        ("qwen-image", "L40S", "high", "svdq-int4-r32"),
        ("qwen-image", "L40S", "xhigh", "svdq-int4-r128"),
        ("qwen-image", "A10", "max", "svdq-int4-r128"),
        ("qwen-image", "A100-80GB", "low", "svdq-int4-r32"),
        ("qwen-image", "RTX-PRO-6000", "max", "svdq-nvfp4"),
        ("qwen-image", "H100", "max", "bf16"),
        ("qwen-image-edit", "L40S", "max", "svdq-int4-r32"),
        ("qwen-image-edit-fast", "L4", "low", "svdq-int4-r32"),
        ("qwen-image-2.1", "L40S", "auto", "bf16"),
        ("flux1-dev", "A10", "auto", "svdq-int4-r32"),
        ("flux1-schnell", "H200", "auto", "bf16"),
        ("sdxl", "T4", "auto", "fp16"),
        ("pony", "H100", "auto", "fp16"),
        ("sd15", "RTX-PRO-6000", "auto", "fp16"),
        ("tiny-qwen", "L40S", "auto", "bf16"),
        ("tiny-qwen", "T4", "auto", "fp32"),
    ],
)
def test_weights_are_chosen_by_gpu_and_quality(model_id: str, gpu: str, quality: str, quant: str) -> None:
    chosen = catalog.choose_variant(found(model_id), capability(gpu), quality=quality)
    assert chosen.quant == quant


@pytest.mark.parametrize("quant", ["int8", "fp8", "bf16"])
def test_other_weights_can_be_insisted_on(quant: str) -> None:
    chosen = catalog.choose_variant(found("qwen-image"), capability("L40S"), quant=quant)
    assert (chosen.quant, chosen.repository) == (quant, "Qwen/Qwen-Image")


def test_what_would_work_is_told() -> None:
    with pytest.raises(UnsupportedHardware) as refused:
        catalog.choose_variant(found("qwen-image"), capability("H100"), quant="svdq-int4-r128")
    assert str(refused.value) == (
        "qwen-image does not run as svdq-int4-r128 on H100 or H200 (compute capability 9.0); "
        "there it runs as bf16, fp8, int8."
    )


@pytest.mark.parametrize(
    ("model_id", "gpu"), [("qwen-image", "T4"), ("qwen-image", "B200"), ("flux1-dev", "T4")]
)
def test_gpus_without_any_weights_are_refused_and_others_are_named(model_id: str, gpu: str) -> None:
    with pytest.raises(UnsupportedHardware, match=f"on {gpu} .*; it runs on L4, A10, L40S"):
        catalog.choose_variant(found(model_id), capability(gpu))


def test_a_gpu_that_nobody_rents_is_named_by_its_capability() -> None:
    with pytest.raises(UnsupportedHardware, match=r"a GPU of compute capability 6\.1"):
        catalog.choose_variant(found("sd15"), (6, 1))
    assert catalog.choose_variant(found("qwen-image"), (12, 1)).quant == "svdq-nvfp4"


@ROWS
def test_a_cpu_runs_bundled_weights_only(model: Model) -> None:
    if any(variant.bundled for variant in model.variants):
        assert catalog.choose_variant(model, None).quant == "fp32"
        assert catalog.choose_variant(model, None, quant="bf16").quant == "bf16"
        return
    with pytest.raises(UnsupportedHardware, match="on the CPU"):
        catalog.choose_variant(model, None)


# Whether they fit


@pytest.mark.parametrize(
    ("model_id", "quant", "memory_gb", "policy"),
    [
        ("qwen-image", "svdq-int4-r32", 48, "none"),
        ("qwen-image", "svdq-int4-r32", 24, "none"),
        ("qwen-image", "svdq-int4-r128", 24, "model"),
        ("qwen-image", "svdq-int4-r32", 16, "model"),
        ("qwen-image", "svdq-int4-r32", 12, "sequential"),
        ("qwen-image", "bf16", 80, "none"),
        ("qwen-image", "bf16", 48, "model"),
        ("qwen-image", "bf16", 24, "sequential"),
        ("qwen-image", "fp8", 48, "none"),
        ("flux1-dev", "bf16", 40, "none"),
        ("sdxl", "fp16", 16, "none"),
        ("sd15", "fp16", 5, "model"),
    ],
)
def test_parts_wait_in_main_memory_as_far_as_the_gpu_is_too_small(
    model_id: str, quant: str, memory_gb: float, policy: str
) -> None:
    model = found(model_id)
    (variant,) = [variant for variant in model.variants if variant.quant == quant]
    assert catalog.offload(model, variant, memory_gb) == policy


def test_weights_of_another_model_are_not_judged() -> None:
    with pytest.raises(ValueError, match="sdxl has no such weights"):
        catalog.offload(found("sdxl"), found("sd15").variants[0], 24)


@ROWS
@GPU_ROWS
def test_a_gpu_is_allowed_if_some_weights_run_and_fit_whole(model: Model, gpu: Gpu) -> None:
    fits = [
        variant
        for variant in model.variants
        if gpu.name in expected(variant.quant) and variant.est_vram_gb + 1 <= gpu.memory_gb
    ]
    assert (gpu.name in catalog.allowed_gpus(model)) == (gpu.offered and bool(fits))


def test_the_default_and_the_economy_gpu_draw_every_model_but_the_large_research_one() -> None:
    for model in CATALOG:
        if model.variants:
            assert catalog.DEFAULT_GPU in catalog.allowed_gpus(model)
            assert (catalog.ECONOMY_GPU in catalog.allowed_gpus(model)) == (model.id != "qwen-image-2.1")


@GPU_ROWS
def test_a_gpu_has_a_price_and_a_reason_if_it_is_not_offered(gpu: Gpu) -> None:
    assert catalog.price(gpu.name, LATER).usd_micros_per_hour > 0
    assert gpu.offered or len(gpu.not_offered) > 20
    assert catalog.find_gpu(gpu.name) is gpu


def test_unknown_gpus_are_unknown() -> None:
    assert catalog.find_gpu("H20") is None


# Prices


def test_prices_that_calls_were_charged_at_stay() -> None:
    rows = {(row.gpu, row.effective_from): row.usd_micros_per_hour for row in catalog.PRICES}
    first, may = datetime.date(2026, 1, 1), datetime.date(2026, 5, 1)
    assert rows[("T4", first)] == 600_000
    assert rows[("A10", first)] == 1_100_000
    assert rows[("A100", first)] == 4_000_000
    assert rows[("L40S", may)] == 1_950_000
    assert len(rows) == len(catalog.PRICES)


@pytest.mark.parametrize(
    ("gpu", "usd_micros_per_second"), [("L4", 222), ("A100-80GB", 694), ("H100", 1097), ("RTX-PRO-6000", 842)]
)
def test_a_second_costs_what_the_price_page_says(gpu: str, usd_micros_per_second: int) -> None:
    assert catalog.cost_usd_micros(gpu, 1, LATER) == usd_micros_per_second


def test_there_is_no_price_before_the_first() -> None:
    with pytest.raises(KeyError, match="no price for H100"):
        catalog.price("H100", datetime.date(2026, 4, 30))


# Base models


@pytest.mark.parametrize(
    ("name", "group", "model_id"),
    [
        ("Flux.1 D", "Flux1", "flux1-dev"),
        ("Flux.1 S", "Flux1", "flux1-schnell"),
        ("SDXL 1.0", "SDXL", "sdxl"),
        ("Pony", "Pony", "pony"),
        ("Illustrious", "Illustrious", "sdxl"),
        ("SD 1.5", "SD1", "sd15"),
        ("Qwen", "Qwen", "qwen-image"),
    ],
)
def test_the_checkpoint_follows_from_the_base_model(name: str, group: str, model_id: str) -> None:
    assert catalog.base_model_group(name) == catalog.base_model_group(group) == group
    assert catalog.default_model(name) == found(model_id)


def test_a_group_has_the_default_of_its_first_base_model() -> None:
    assert catalog.default_model("Flux1") == found("flux1-dev")
    assert catalog.default_model("SD1") == found("sd15")


@pytest.mark.parametrize("name", ["", "Hunyuan Video", "flux.1 d", "SD 3.5"])
def test_an_unknown_base_model_is_unknown(name: str) -> None:
    assert catalog.base_model_group(name) is None
    assert catalog.default_model(name) is None
    assert catalog.lora_fits(name, found("sdxl")) is None


@pytest.mark.parametrize(
    ("lora", "model_id", "fit"),
    [
        ("SDXL 1.0", "sdxl", "yes"),
        ("Pony", "sdxl", "warn"),
        ("SDXL 1.0", "pony", "warn"),
        ("Illustrious", "pony", "warn"),
        ("Pony", "pony", "yes"),
        ("Flux.1 D", "flux1-dev", "yes"),
        ("Flux.1 D", "flux1-schnell", "yes"),
        ("Flux.1", "flux1-schnell", "yes"),
        ("SDXL", "pony", "warn"),
        ("Flux.1 D", "sdxl", "no"),
        ("SD 1.5", "sdxl", "no"),
        ("SDXL 1.0", "sd15", "no"),
        ("Qwen", "qwen-image-edit-fast", "yes"),
        ("Qwen", "qwen-image-2.1", "no"),
        ("tiny", "tiny-qwen-edit", "yes"),
        ("tiny", "qwen-image", "no"),
        ("Qwen", "instant", "no"),
    ],
)
def test_a_lora_fits_its_own_architecture(lora: str, model_id: str, fit: str) -> None:
    assert catalog.lora_fits(lora, found(model_id)) == fit


@ROWS
def test_a_row_that_takes_loras_says_which(model: Model) -> None:
    assert ("loras" in model.supports) == bool(catalog.lora_groups(model))


# Qualities


@pytest.mark.parametrize(
    ("model_id", "quality", "drawn_by", "steps"),
    [
        ("qwen-image", "low", "qwen-image-fast", 4),
        ("qwen-image", "medium", "qwen-image-fast", 8),
        ("qwen-image", "high", "qwen-image", 50),
        ("qwen-image", "xhigh", "qwen-image", 50),
        ("qwen-image", "max", "qwen-image", 100),
        ("qwen-image", "auto", "qwen-image", None),
        ("qwen-image-edit", "low", "qwen-image-edit-fast", 4),
        ("qwen-image-edit", "medium", "qwen-image-edit-fast", 8),
        ("qwen-image-fast", "low", "qwen-image-fast", 4),
        ("sdxl", "low", "sdxl", 15),
        ("tiny-qwen", "low", "tiny-qwen", 6),
    ],
)
def test_low_qualities_are_drawn_by_the_fast_row(
    model_id: str, quality: str, drawn_by: str, steps: int | None
) -> None:
    model = catalog.at_quality(found(model_id), quality)
    assert (model.id, model.steps_by_quality.get(quality)) == (drawn_by, steps)


def test_four_steps_are_at_least_five_times_as_fast_as_fifty() -> None:
    for model in (found("qwen-image"), found("qwen-image-edit")):
        fast = catalog.at_quality(model, "low")
        assert fast.est_seconds * 5 <= model.est_seconds


# Rows


@ROWS
def test_a_row_keeps_to_the_contract(model: Model) -> None:
    assert model.supports <= set(ImageRequest.model_fields)
    assert model.license
    assert model.needs_acceptance == (not model.commercial_use)
    assert model.est_seconds > 0
    assert 1 <= model.num_inference_steps <= model.max_inference_steps <= 200
    assert max(model.steps_by_quality.values(), default=1) <= model.max_inference_steps
    assert 0 <= model.true_cfg_scale <= 30
    assert bool(model.roles) == (model.max_references > 0)
    assert model.max_references <= 10


@ROWS
def test_a_row_draws_at_sizes_that_can_be_asked_for(model: Model) -> None:
    for width, height in model.native_sizes:
        assert width % catalog.SIZE_MULTIPLE == height % catalog.SIZE_MULTIPLE == 0
        assert max(width, height) <= catalog.SIZE_MAX
        assert max(width / height, height / width) <= catalog.ASPECT_MAX
    for wanted in catalog.NAMED_SIZES.values() if len(model.native_sizes) > 1 else ():
        width, height = catalog.native_size(model, *wanted)
        assert width / height == pytest.approx(wanted[0] / wanted[1], rel=0.1)


@ROWS
def test_guidance_of_a_row_agrees_with_what_it_supports(model: Model) -> None:
    assert ("negative_prompt" in model.supports) == ("true_cfg_scale" in model.supports)
    assert "guidance_scale" not in model.supports or model.guidance_scale
    if "true_cfg_scale" not in model.supports:
        assert model.true_cfg_scale == 1


@ROWS
def test_samplers_and_layers_of_clip_go_together(model: Model) -> None:
    assert bool(model.samplers) == bool(model.sampler) == bool(model.clip_skip)
    assert model.samplers <= set(catalog.SAMPLERS)
    assert model.sampler is None or model.sampler in model.samplers


@ROWS
def test_weights_come_at_a_commit_or_are_known_not_to(model: Model) -> None:
    files = [*model.variants, *model.step_loras.values(), *([model.config] if model.config else [])]
    for file in files:
        bundled = isinstance(file, Variant) and file.bundled
        assert bundled or file.revision is None or re.fullmatch(r"[0-9a-f]{40}", file.revision)
        assert bundled or re.fullmatch(r"[\w.-]+/[\w.-]+", file.repository)
    assert model.pinned == (model.id not in NOT_PINNED)


@ROWS
def test_variants_of_a_row_are_plausible(model: Model) -> None:
    assert len({variant.quant for variant in model.variants}) == len(model.variants)
    for variant in model.variants:
        assert 0 < variant.largest_part_gb <= variant.est_vram_gb
        assert variant.file.endswith(".safetensors") or not variant.file
        assert not [pattern for pattern in variant.files if pattern.endswith((".ckpt", ".bin", ".pt", "*"))]
        assert not variant.file or model.config
        assert not variant.lightning_fused or model.step_loras
    assert model.est_vram_gb > 0 or not model.variants


@ROWS
def test_a_fast_row_has_weights_for_each_of_its_step_counts(model: Model) -> None:
    if model.step_loras:
        counts = {model.num_inference_steps, *model.steps_by_quality.values()}
        assert counts <= set(model.step_loras)
        assert model.true_cfg_scale == 1
        assert model.scheduler["shift_terminal"] is None
    fast = catalog.find(model.fast) if model.fast else None
    assert fast is None or (fast.lora_group, fast.roles) == (model.lora_group, model.roles)


@pytest.mark.parametrize(("steps", "file"), [(1, 4), (4, 4), (5, 8), (8, 8), (9, 8)])
def test_few_steps_take_the_lora_that_was_distilled_for_them(steps: int, file: int) -> None:
    lora = catalog.step_lora(found("qwen-image-fast"), steps)
    assert lora and lora.path == f"Qwen-Image-Lightning-{file}steps-V2.0-bf16.safetensors"
    assert catalog.step_lora(found("qwen-image"), steps) is None


def test_weights_that_contain_the_lora_need_none() -> None:
    model = found("qwen-image-edit-fast")
    assert catalog.step_lora(model, 4) is None
    full = catalog.choose_variant(model, capability("H100"))
    lora = catalog.step_lora(catalog.as_variant(model, full), 4)
    assert lora and "Edit-2509-Lightning-4steps" in lora.path


@ROWS
def test_a_row_starts_with_its_first_variant_and_can_take_any(model: Model) -> None:
    assert model.checkpoint == (model.variants[0].repository if model.variants else "")
    for variant in model.variants:
        chosen = catalog.as_variant(model, variant)
        assert (chosen.checkpoint, chosen.revision) == (variant.repository, variant.revision)
        assert (chosen.quant, chosen.file) == (variant.quant, variant.file)
        assert replace(chosen, **_first(model)) == model


def _first(model: Model) -> dict[str, str | None]:
    first = model.variants[0]
    return {
        "checkpoint": first.repository,
        "revision": first.revision,
        "quant": first.quant,
        "file": first.file,
    }


def test_ids_are_unique_and_found() -> None:
    ids = [model.id for model in CATALOG]
    assert len(set(ids)) == len(ids)
    assert all(found(model_id).id == model_id for model_id in ids)
    assert catalog.find("sd3") is None


def test_research_weights_are_not_for_sale() -> None:
    closed = {model.id for model in CATALOG if not model.commercial_use}
    assert closed == {"qwen-image-2.1", "flux1-dev", "pony"}
