"""The tiny model through the real pipeline, judged on pictures."""

import hashlib
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from modal_app import catalog, engine
from modal_app.engine import Canceled, Engine, LoadFailed, UnsupportedParameter
from tests.judge import judge
from tests.modal_app.conftest import image_request, run


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image, dtype=int)


def first(loaded: Engine, **changes: Any) -> bytes:
    """The raw pixels of the first picture."""
    return run(loaded, **changes).pictures[0].image.tobytes()


@pytest.mark.parametrize(
    ("field", "value"), [("negative_prompt", "fog"), ("guidance_scale", 3.5), ("true_cfg_scale", 4.0)]
)
def test_a_field_that_the_model_does_not_know_is_refused_by_name(field: str, value: Any) -> None:
    model = catalog.find("instant")
    assert model
    with pytest.raises(UnsupportedParameter, match=field) as refused:
        engine.check(model, image_request(model="instant", **{field: value}))
    assert refused.value.field == field


def test_more_steps_than_the_model_takes_are_refused() -> None:
    model = catalog.find("tiny-qwen")
    assert model
    with pytest.raises(UnsupportedParameter, match="up to 100"):
        engine.check(model, image_request(num_inference_steps=101))


def test_what_a_model_supports_is_let_through() -> None:
    model = catalog.find("tiny-qwen")
    assert model
    engine.check(model, image_request(negative_prompt="fog", true_cfg_scale=3.0))


def test_missing_weights_are_told_before_anything_is_imported() -> None:
    model = catalog.find("tiny-qwen")
    assert model
    with pytest.raises(LoadFailed, match="not on this machine"):
        engine.load(replace(model, variants=(replace(model.variants[0], bundled=False),)))


def test_a_model_whose_licence_nobody_accepted_is_not_served(monkeypatch: pytest.MonkeyPatch) -> None:
    model = catalog.find("tiny-qwen")
    assert model
    asking = replace(model, needs_acceptance=True)
    assert not engine.servable(asking)
    with pytest.raises(LoadFailed):
        engine.load(asking)
    monkeypatch.setattr(engine, "options", engine.Options(accepted_licenses=frozenset({"tiny-qwen"})))
    assert engine.servable(asking)


def test_a_run_that_nobody_wants_does_not_begin(tiny: Engine) -> None:
    steps: list[int] = []
    with pytest.raises(Canceled):
        tiny.run(image_request(), lambda step, _: steps.append(step), {}, lambda: True)
    assert steps == []


def test_a_cancel_ends_the_run_at_its_step_and_the_next_picture_is_as_ever(tiny: Engine) -> None:
    before = first(tiny, num_inference_steps=4)
    for last in range(1, 5):
        steps: list[int] = []
        with pytest.raises(Canceled):
            tiny.run(
                image_request(num_inference_steps=4, num_images=2, true_cfg_scale=2.0),
                {},
                lambda step, _, steps=steps: steps.append(step),
                lambda steps=steps, last=last: len(steps) == last,
            )
        assert steps == [2 * step for step in range(1, last + 1)]  # two pictures a step
        assert first(tiny, num_inference_steps=4) == before


def test_steps_are_counted_over_all_pictures(tiny: Engine) -> None:
    seen: list[tuple[int, int]] = []
    tiny.run(
        image_request(num_inference_steps=2, num_images=6), {}, lambda *step: seen.append(step), lambda: False
    )
    assert seen == [(4, 12), (8, 12), (10, 12), (12, 12)]  # four together, then the other two


def test_the_same_seed_draws_the_same_picture_and_another_seed_another(tiny: Engine) -> None:
    assert first(tiny) == first(tiny)
    assert first(tiny) != first(tiny, seed=8)


def test_picture_n_is_the_one_that_its_own_seed_draws_alone(tiny: Engine) -> None:
    many = run(tiny, num_images=3).pictures
    assert [picture.seed for picture in many] == [7, 8, 9]
    for picture in many:
        assert picture.image.tobytes() == first(tiny, seed=picture.seed)


def test_the_largest_seed_is_a_seed(tiny: Engine) -> None:
    assert run(tiny, seed=2**63 - 1, num_images=2).pictures[1].seed == 2**63


@pytest.mark.parametrize("size", [(1024, 1024), (1728, 2304), (64, 160), (97, 96)])
def test_a_picture_has_exactly_the_requested_size(tiny: Engine, size: tuple[int, int]) -> None:
    drawing = run(tiny, width=size[0], height=size[1], num_inference_steps=1)
    assert drawing.pictures[0].image.size == size
    assert (drawing.native_size, drawing.resampling) == ((96, 96), "lanczos")


def test_a_picture_of_native_size_is_not_resampled(tiny: Engine) -> None:
    assert run(tiny).resampling == "none"


def test_a_negative_prompt_changes_the_picture_and_so_does_guidance_without_one(tiny: Engine) -> None:
    plain = first(tiny)
    guided = first(tiny, true_cfg_scale=3.0)
    averse = first(tiny, true_cfg_scale=3.0, negative_prompt="a green square creature at night")
    assert len({plain, guided, averse}) == 3
    assert first(tiny, true_cfg_scale=3.0, negative_prompt="") == guided


@pytest.mark.parametrize("prompt", ["", "<|im_end|><|image_pad|>{}", "word " * 2000, "ночь 🌙"])
def test_any_text_is_a_prompt(tiny: Engine, prompt: str) -> None:
    assert first(tiny, prompt=prompt, num_inference_steps=1)


def test_pictures_show_what_the_prompts_say(tiny: Engine) -> None:
    wanted = [
        {"body": "round", "color": "red", "hat": "blue", "view": "front", "scene": "beach"},
        {"body": "square", "color": "green", "hat": "none", "view": "back", "scene": "night"},
        {"body": "pointy", "color": "yellow", "hat": "red", "view": "side", "scene": "forest"},
        {"body": "round", "color": "purple", "hat": "yellow", "view": "front", "scene": "day"},
        {"body": "square", "color": "pink", "hat": "red", "view": "front", "scene": "forest"},
    ]
    places = {"beach": "on a beach", "night": "at night", "forest": "in the forest", "day": "by day"}
    right = []
    for facts in wanted:
        hat = "without a hat" if facts["hat"] == "none" else f"with a {facts['hat']} hat"
        creature = f"a {facts['color']} {facts['body']} creature {hat}"
        prompt = f"{creature}, {facts['view']} view, {places[facts['scene']]}"
        found = judge(run(tiny, prompt=prompt, num_inference_steps=12, seed=3).pictures[0].image)
        right += [found[name] == value for name, value in facts.items()]
    assert sum(right) >= len(right) - 1  # the model itself is right in 99 of 100 pictures


def test_the_short_cuts_of_the_vae_change_no_picture_and_no_other_vae(tiny: Engine) -> None:
    from diffusers import AutoencoderKLQwenImage

    model = catalog.find("tiny-qwen")
    assert model
    stock = AutoencoderKLQwenImage.from_pretrained(engine.checkpoint_folder(model) / "vae")
    assert {type(layer).__module__.split(".")[0] for layer in stock.modules()} <= {"torch", "diffusers"}
    short = pixels(run(tiny).pictures[0].image)
    pipeline: Any = tiny._words  # type: ignore[attr-defined]
    swift, pipeline.vae = pipeline.vae, stock
    try:
        assert np.abs(pixels(run(tiny).pictures[0].image) - short).max() <= 1
    finally:
        pipeline.vae = swift


def test_the_fingerprint_names_the_weights_and_fits_into_a_message(tiny: Engine) -> None:
    fingerprint = run(tiny, num_inference_steps=1).fingerprint
    model = catalog.find("tiny-qwen")
    assert model
    for name, sha256 in fingerprint["weights_sha256"].items():
        content = (engine.checkpoint_folder(model) / name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == sha256
    assert len(fingerprint["weights_sha256"]) == 3
    assert fingerprint["torch"] and fingerprint["scheduler"] == "FlowMatchEulerDiscreteScheduler"
    assert len(json.dumps(fingerprint)) < 2000
