"""FLUX.1 and Stable Diffusion through the real pipelines, on checkpoints of random weights."""

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from modal_app import catalog
from modal_app.catalog import HubFolder, Model
from modal_app.contract import ImageRequest
from modal_app.engine import Canceled, Drawing, UnsupportedParameter, flux, placement, stable_diffusion
from modal_app.engine.watch import Watch
from tests.modal_app import random_checkpoints

STEPS = 2
SHA256 = "0" * 64
MODULES: dict[str, Any] = {"flux": flux, "sdxl": stable_diffusion, "sd1": stable_diffusion}


class Request(ImageRequest):
    """With what only some families understand."""

    sampler: str | None = None
    clip_skip: int | None = None


def request(**changes: Any) -> Request:
    values: dict[str, Any] = {
        "model": "any",
        "prompt": "a red cat",
        "width": 64,
        "height": 64,
        "seed": 7,
        "num_inference_steps": STEPS,
    }
    return Request(**{**values, **changes})


def run(engine: Any, cancelled: Callable[[], bool] = lambda: False, **changes: Any) -> Drawing:
    drawing: Drawing = engine.run(request(**changes), {}, lambda step, steps: None, cancelled)
    return drawing


def first(engine: Any, **changes: Any) -> bytes:
    """The raw pixels of the first picture."""
    return run(engine, **changes).pictures[0].image.tobytes()


def row(model_id: str, folder: Path, **changes: Any) -> Model:
    """The catalog's row, over a small checkpoint."""
    model = catalog.find(model_id)
    assert model
    return replace(model, checkpoint=str(folder), native_sizes=((64, 64), (48, 64)), **changes)


def load(model: Model) -> Any:
    return MODULES[model.family].load(model)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("checkpoints")
    made = {name: root / name for name in ("flux1-dev", "flux1-schnell", "sdxl", "sd15")}
    random_checkpoints.flux(made["flux1-dev"], guided=True)
    random_checkpoints.flux(made["flux1-schnell"], guided=False)
    random_checkpoints.sdxl(made["sdxl"])
    random_checkpoints.sd1(made["sd15"])
    return made


@pytest.fixture(scope="module")
def engines(folders: dict[str, Path]) -> dict[str, Any]:
    return {model_id: load(row(model_id, folder)) for model_id, folder in folders.items()}


@pytest.fixture(params=["flux1-dev", "flux1-schnell", "sdxl", "sd15"])
def engine(request: pytest.FixtureRequest, engines: dict[str, Any]) -> Any:
    return engines[request.param]


# What is refused


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("references", [{"url": "http://a/b", "sha256": SHA256}]),
        ("mask", {"url": "http://a/b", "sha256": SHA256}),
        ("strength", 0.0),
    ],
)
def test_what_a_family_does_not_draw_with_is_refused_by_name(engine: Any, field: str, value: Any) -> None:
    with pytest.raises(UnsupportedParameter, match=field) as refused:
        run(engine, **{field: value})
    assert refused.value.field == field


def test_an_unknown_sampler_is_refused_and_the_known_ones_are_told(engines: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedParameter, match=r"DPM\+\+ 2M Karras, Euler, Euler a") as refused:
        run(engines["sdxl"], sampler="Heun")
    assert refused.value.field == "sampler"


def test_a_pickled_checkpoint_is_not_opened(folders: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "old.ckpt").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    config = HubFolder(repository=str(folders["sd15"]), revision=None)
    with pytest.raises(ValueError, match="not a safetensors file"):
        load(row("sd15", tmp_path, file="old.ckpt", config=config))


@pytest.mark.parametrize("model_id", ["flux1-dev", "sdxl", "sd15"])
def test_pickled_weights_in_a_folder_are_not_opened(model_id: str, tmp_path: Path) -> None:
    make: dict[str, Callable[[Path], None]] = {
        "flux1-dev": lambda folder: random_checkpoints.flux(folder, guided=True),
        "sdxl": random_checkpoints.sdxl,
        "sd15": random_checkpoints.sd1,
    }
    make[model_id](tmp_path)
    weights = next((tmp_path / "vae").glob("*.safetensors"))
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(OSError, match="safetensors"):
        load(row(model_id, tmp_path))


def test_a_missing_checkpoint_does_not_load_from_elsewhere(tmp_path: Path) -> None:
    for model_id in ("flux1-dev", "sdxl", "sd15"):
        with pytest.raises((OSError, ValueError)):
            load(row(model_id, tmp_path / "nothing"))


# Cancellation


def test_a_run_that_nobody_wants_reads_no_prompt(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    monkeypatch.setattr(engine.pipeline, "encode_prompt", lambda prompt, **_: read.append(prompt))
    with pytest.raises(Canceled):
        run(engine, cancelled=lambda: True)
    assert read == []


def test_a_cancel_ends_the_run_at_its_step_and_the_next_picture_is_as_ever(engine: Any) -> None:
    before = first(engine)
    for last in range(1, 2 * STEPS + 1):
        steps: list[int] = []
        with pytest.raises(Canceled):
            engine.run(
                request(num_images=2, true_cfg_scale=2.0, prompt="two dogs"),
                {},
                lambda step, _, steps=steps: steps.append(step),
                lambda steps=steps, last=last: len(steps) == last,
            )
        assert steps == list(range(1, last + 1))
        assert first(engine) == before


def test_a_cancel_after_the_last_step_decodes_nothing(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[Any] = []
    steps: list[int] = []
    monkeypatch.setattr(engine.pipeline.vae, "decode", lambda *latents, **_: decoded.append(latents))
    with pytest.raises(Canceled):
        engine.run(request(), {}, lambda step, _: steps.append(step), lambda: len(steps) == STEPS)
    assert decoded == []


def test_a_watch_counts_over_all_pictures_and_hands_tensors_on() -> None:
    seen: list[tuple[int, int]] = []
    watch = Watch(4, 3, lambda *step: seen.append(step), lambda: False)
    assert watch.step_of(2)(None, 1, None, {"latents": 5}) == {"latents": 5}
    assert seen == [(10, 12)]


# Pictures


def test_steps_are_counted_over_all_pictures(engine: Any) -> None:
    seen: list[tuple[int, int]] = []
    engine.run(request(num_images=2), {}, lambda *step: seen.append(step), lambda: False)
    assert seen == [(n, 2 * STEPS) for n in range(1, 2 * STEPS + 1)]


def test_the_same_seed_draws_the_same_picture_and_another_seed_another(engine: Any) -> None:
    assert first(engine) == first(engine)
    assert len({first(engine), first(engine, seed=8), first(engine, prompt="two dogs")}) == 3


def test_picture_n_is_the_one_that_its_own_seed_draws_alone(engine: Any) -> None:
    many = run(engine, num_images=3).pictures
    assert [picture.seed for picture in many] == [7, 8, 9]
    for picture in many:
        assert picture.image.tobytes() == first(engine, seed=picture.seed)


def test_prompts_are_read_once_for_all_pictures(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    encoders = [engine.pipeline.text_encoder, getattr(engine.pipeline, "text_encoder_2", None)]
    calls: list[Any] = []
    hooks = [part.register_forward_hook(lambda *_: calls.append(1)) for part in encoders if part is not None]
    run(engine, num_images=3)
    for hook in hooks:
        hook.remove()
    assert len(calls) == len(hooks)


@pytest.mark.parametrize(
    ("size", "native"), [((64, 64), (64, 64)), ((1024, 1024), (64, 64)), ((832, 1216), (48, 64))]
)
def test_a_picture_has_exactly_the_requested_size(
    engine: Any, size: tuple[int, int], native: tuple[int, int]
) -> None:
    drawing = run(engine, width=size[0], height=size[1], num_inference_steps=1)
    assert drawing.pictures[0].image.size == size
    assert drawing.pictures[0].image.mode == "RGB"
    assert (drawing.native_size, drawing.resampling) == (native, "none" if size == native else "lanczos")


@pytest.mark.parametrize("prompt", ["", "<|endoftext|>{}", "word " * 2000, "ночь 🌙"])
def test_any_text_is_a_prompt(engine: Any, prompt: str) -> None:
    assert first(engine, prompt=prompt, num_inference_steps=1)


def test_the_fingerprint_names_the_weights_and_fits_into_a_message(
    engines: dict[str, Any], folders: dict[str, Path]
) -> None:
    parts = {"flux1-dev": 4, "flux1-schnell": 4, "sdxl": 4, "sd15": 3}
    for model_id, engine in engines.items():
        fingerprint = run(engine, num_inference_steps=1).fingerprint
        for name, sha256 in fingerprint["weights_sha256"].items():
            assert hashlib.sha256((folders[model_id] / name).read_bytes()).hexdigest() == sha256
        assert len(fingerprint["weights_sha256"]) == parts[model_id]
        assert (fingerprint["dtype"], fingerprint["offload"]) == ("float32", "none")
        assert len(json.dumps(fingerprint)) < 2000


# Flux


def test_guidance_is_a_number_that_dev_reads_and_schnell_does_not(engines: dict[str, Any]) -> None:
    dev, schnell = engines["flux1-dev"], engines["flux1-schnell"]
    assert first(dev, guidance_scale=9.0) != first(dev) == first(dev, guidance_scale=3.5)
    assert first(schnell, guidance_scale=9.0) == first(schnell)


@pytest.mark.parametrize(("model_id", "tokens"), [("flux1-dev", 512), ("flux1-schnell", 256)])
def test_as_many_tokens_count_as_the_model_was_trained_on(
    engines: dict[str, Any], model_id: str, tokens: int
) -> None:
    seen: list[int] = []
    engine = engines[model_id]
    hook = engine.pipeline.text_encoder_2.register_forward_hook(
        lambda _, __, output: seen.append(output[0].shape[1])
    )
    first(engine, num_inference_steps=1)
    hook.remove()
    assert seen == [tokens]


# Stable Diffusion


@pytest.fixture(params=["sdxl", "sd15"])
def classic(request: pytest.FixtureRequest, engines: dict[str, Any]) -> Any:
    return engines[request.param]


def test_a_negative_prompt_changes_the_picture_and_so_does_guidance_without_one(classic: Any) -> None:
    plain = first(classic)
    guided = first(classic, true_cfg_scale=6.0)
    averse = first(classic, true_cfg_scale=6.0, negative_prompt="a dog")
    assert len({plain, guided, averse}) == 3
    assert first(classic, true_cfg_scale=6.0, negative_prompt="") == guided
    assert first(classic, negative_prompt="a dog") == plain


def test_each_sampler_draws_another_picture_and_leaves_no_trace(classic: Any) -> None:
    before = first(classic)
    drawn = {name: first(classic, sampler=name) for name in catalog.SAMPLERS}
    assert len(set(drawn.values())) == len(catalog.SAMPLERS)
    assert drawn[classic._model.sampler] == before == first(classic)


def test_the_fingerprint_tells_which_sampler_drew(classic: Any) -> None:
    fingerprint = run(classic, sampler="Euler", num_inference_steps=1).fingerprint
    assert (fingerprint["sampler"], fingerprint["scheduler"]) == ("Euler", "EulerDiscreteScheduler")


@pytest.mark.parametrize("name", list(catalog.SAMPLERS))
def test_a_sampler_takes_one_step_per_step(classic: Any, name: str) -> None:
    steps: list[int] = []
    classic.run(request(sampler=name), {}, lambda step, _: steps.append(step), lambda: False)
    assert steps == [1, 2]


@pytest.mark.parametrize(("model_id", "ordinary"), [("sdxl", 2), ("sd15", 1)])
def test_layers_of_clip_are_skipped_as_civitai_counts(
    engines: dict[str, Any], model_id: str, ordinary: int
) -> None:
    engine = engines[model_id]
    drawn = {skip: first(engine, clip_skip=skip) for skip in (1, 2, 3)}
    assert len(set(drawn.values())) == 3
    assert drawn[ordinary] == first(engine)


def test_nothing_paints_pictures_black_or_marks_them(engines: dict[str, Any]) -> None:
    assert engines["sd15"].pipeline.safety_checker is None
    assert engines["sdxl"].pipeline.watermark is None


@pytest.mark.parametrize("model_id", ["sdxl", "sd15"])
def test_one_file_draws_what_its_folder_draws(
    engines: dict[str, Any], folders: dict[str, Path], model_id: str, tmp_path: Path
) -> None:
    random_checkpoints.single_file(engines[model_id].pipeline, tmp_path / "all.safetensors")
    config = HubFolder(repository=str(folders[model_id]), revision=None)
    engine = load(row(model_id, tmp_path, file="all.safetensors", config=config))
    pixels = [
        np.frombuffer(first(each, true_cfg_scale=3.0), np.uint8) for each in (engine, engines[model_id])
    ]
    # Where weights lie in memory decides how some kernels round.
    assert np.abs(pixels[0].astype(int) - pixels[1]).max() <= 1
    assert list(run(engine, num_inference_steps=1).fingerprint["weights_sha256"]) == ["all.safetensors"]


def test_weights_in_half_precision_are_found_under_their_own_name(tmp_path: Path) -> None:
    random_checkpoints.sdxl(tmp_path, variant="fp16")
    assert not [path for path in tmp_path.rglob("*.safetensors") if ".fp16." not in path.name]
    assert first(load(row("sdxl", tmp_path)), num_inference_steps=1)


# On a GPU


@pytest.mark.parametrize(
    ("model_id", "wanted"),
    [("flux1-dev", torch.bfloat16), ("sdxl", torch.float16), ("sd15", torch.float16)],
)
def test_a_gpu_computes_in_what_the_weights_are_in(
    model_id: str, wanted: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = catalog.find(model_id)
    assert model
    assert placement.dtype(model) == torch.float32
    monkeypatch.setattr(placement, "device", lambda: torch.device("cuda"))
    assert placement.dtype(model) == wanted


@pytest.mark.parametrize(
    ("memory_gb", "policy", "call"),
    [(24, "none", "to"), (12, "model", "enable_model_cpu_offload"), (8, "sequential", "sequential")],
)
def test_a_pipeline_waits_in_main_memory_as_far_as_the_gpu_is_too_small(
    memory_gb: float, policy: str, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    pipeline = SimpleNamespace(
        to=lambda _: calls.append("to"),
        enable_model_cpu_offload=lambda: calls.append("enable_model_cpu_offload"),
        enable_sequential_cpu_offload=lambda: calls.append("sequential"),
    )
    card = SimpleNamespace(total_memory=memory_gb * 1e9)
    monkeypatch.setattr(placement, "device", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: card)
    model = catalog.find("flux1-dev")
    assert model
    assert placement.place(pipeline, model) == policy
    assert calls == [call]


def test_loading_is_silent(
    folders: dict[str, Path], capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        run(load(row("sd15", folders["sd15"])), num_inference_steps=1)
    assert "it/s" not in capfd.readouterr().err
