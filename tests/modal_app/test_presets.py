"""What each family makes of the settings that frontends know by name."""

import pytest

from modal_app import catalog
from modal_app.catalog import CATALOG, NAMED_SIZES, PRESETS, Model, apply_preset
from modal_app.contract import ImageRequest

REFERENCE_VIEW, LORA_PANEL = PRESETS["reference_view"], PRESETS["lora_panel"]


def found(model_id: str) -> Model:
    model = catalog.find(model_id)
    assert model
    return model


@pytest.mark.parametrize("model_id", ["sdxl", "pony"])
def test_xl_and_pony_take_sampler_steps_and_guidance(model_id: str) -> None:
    values, dropped = apply_preset(REFERENCE_VIEW, found(model_id))
    assert values == {
        "sampler": "Euler",
        "num_inference_steps": 25,
        "true_cfg_scale": 7.0,
        "width": 832,
        "height": 1216,
    }
    assert dropped == {}


def test_stable_diffusion_1_draws_smaller() -> None:
    values, dropped = apply_preset(REFERENCE_VIEW, found("sd15"))
    assert (values["width"], values["height"]) == (512, 768)
    assert values["sampler"] == "Euler"
    assert dropped == {}


def test_other_sizes_of_stable_diffusion_1_stay() -> None:
    values, _ = apply_preset({"width": 512, "height": 512}, found("sd15"))
    assert values == {"width": 512, "height": 512}


def test_flux_has_no_sampler_no_guidance_beside_its_own_and_no_negative_prompt() -> None:
    preset = {**REFERENCE_VIEW, "negative_prompt": "blurry", "clip_skip": 2}
    values, dropped = apply_preset(preset, found("flux1-dev"))
    assert values == {"num_inference_steps": 25, "width": 832, "height": 1216}
    assert set(dropped) == {"sampler", "true_cfg_scale", "negative_prompt", "clip_skip"}
    assert all("flux1-dev" in reason for reason in dropped.values())


@pytest.mark.parametrize(
    ("model_id", "most"), [("flux1-schnell", 8), ("qwen-image-fast", 8), ("qwen-image-edit-fast", 8)]
)
def test_more_steps_than_a_fast_model_takes_are_left_out(model_id: str, most: int) -> None:
    values, dropped = apply_preset(REFERENCE_VIEW, found(model_id))
    assert "num_inference_steps" not in values
    assert dropped["num_inference_steps"] == f"{model_id} takes at most {most} steps"


def test_qwen_keeps_its_own_guidance() -> None:
    values, dropped = apply_preset(REFERENCE_VIEW, found("qwen-image"))
    assert values == {"num_inference_steps": 25, "width": 832, "height": 1216}
    assert dropped == {
        "sampler": "qwen-image draws with its own scheduler",
        "true_cfg_scale": "7 is on Stable Diffusion's scale; qwen-image draws with 4",
    }


def test_an_unknown_sampler_is_left_out() -> None:
    _, dropped = apply_preset({"sampler": "Heun"}, found("sdxl"))
    assert dropped == {"sampler": "sdxl does not know the sampler Heun"}


def test_panels_are_single_pictures_from_words() -> None:
    values, dropped = apply_preset(LORA_PANEL, found("sdxl"))
    assert values["num_images"] == 1
    assert set(dropped) == {"workflow"}


@pytest.mark.parametrize("name", list(PRESETS))
@pytest.mark.parametrize("model", CATALOG, ids=lambda model: model.id)
def test_every_value_is_taken_or_left_out_with_a_reason(name: str, model: Model) -> None:
    values, dropped = apply_preset(PRESETS[name], model)
    assert values.keys() | dropped.keys() == PRESETS[name].keys()
    assert not values.keys() & dropped.keys()
    assert all(len(reason) > 10 for reason in dropped.values())
    assert values.keys() <= {*ImageRequest.model_fields, *(["sampler"] if model.samplers else [])}


def test_applying_leaves_the_preset_alone() -> None:
    before = dict(REFERENCE_VIEW)
    apply_preset(REFERENCE_VIEW, found("sd15"))
    assert before == REFERENCE_VIEW


def test_presets_are_drawn_at_the_named_size() -> None:
    for preset in PRESETS.values():
        assert (preset["width"], preset["height"]) == NAMED_SIZES["ref_portrait"]


def test_panels_with_references_have_one_model() -> None:
    model = found(catalog.PANEL_MODEL)
    assert "reference" in model.roles and model.max_references >= 3 and model.commercial_use
