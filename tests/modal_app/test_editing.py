"""Pictures that go in: references, the picture to start from, masks; judged from pixels."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import QwenImageEditPlusPipeline, QwenImageImg2ImgPipeline, QwenImageInpaintPipeline
from PIL import Image

from modal_app import catalog, engine
from modal_app.engine import Canceled, Engine, UnsupportedParameter
from scripts.tiny import creatures, drawing
from tests.judge import judge
from tests.modal_app.conftest import image_request, kept, load, run

RED = "a red round creature with a blue hat, front view, on a beach"


@pytest.fixture(scope="module")
def edit() -> Engine:
    return load("tiny-qwen-edit")


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("references")


@pytest.fixture(scope="module")
def red(tiny: Engine) -> Image.Image:
    return run(tiny, prompt=RED, num_inference_steps=12).pictures[0].image


def reference(sha256: str, role: str = "reference") -> dict[str, str]:
    return {"url": "https://example.com/", "sha256": sha256, "role": role}


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image, dtype=int)


def top_half(size: int = 96) -> Image.Image:
    mask = Image.new("L", (size, size), 0)
    mask.paste(255, (0, 0, size, size // 3))
    return mask


@pytest.mark.parametrize(
    ("model", "changes", "field"),
    [
        ("tiny-qwen", {"references": [reference("0" * 64)]}, "references"),
        ("tiny-qwen", {"references": [reference("0" * 64, "style")]}, "references"),
        ("tiny-qwen-edit", {"references": [reference("0" * 64)] * 4}, "references"),
        ("tiny-qwen-edit", {"references": [reference("0" * 64, "init")] * 2}, "references"),
        ("tiny-qwen", {"strength": 0.5}, "strength"),
        ("tiny-qwen", {"mask": reference("0" * 64)}, "mask"),
        ("instant", {"references": [reference("0" * 64)] * 4}, "references"),
        ("instant", {"references": [reference("0" * 64, "style")]}, "references"),
        ("instant", {"loras": [{"url": "https://example.com/", "sha256": "0" * 64}]}, "loras"),
    ],
)
def test_pictures_that_a_model_cannot_use_are_refused_by_name(
    model: str, changes: dict[str, Any], field: str
) -> None:
    row = catalog.find(model)
    assert row
    with pytest.raises(UnsupportedParameter) as refused:
        engine.check(row, image_request(model=model, **changes))
    assert refused.value.field == field


def test_a_file_that_is_no_picture_fails_the_run_and_nothing_else(edit: Engine, shelf: Path) -> None:
    before = run(edit, model="tiny-qwen-edit").pictures[0].image.tobytes()
    path = shelf / "text"
    path.write_text("this is no picture")
    with pytest.raises(engine.EngineError) as refused:
        run(edit, files={"1" * 64: path}, model="tiny-qwen-edit", references=[reference("1" * 64)])
    assert refused.value.code == "invalid_picture"
    assert run(edit, model="tiny-qwen-edit").pictures[0].image.tobytes() == before


def test_a_cancel_at_any_step_leaves_no_trace(edit: Engine, shelf: Path, red: Image.Image) -> None:
    sha256, files = kept(shelf, red)
    asked: dict[str, Any] = {
        "model": "tiny-qwen-edit",
        "prompt": "make the creature green",
        "references": [reference(sha256)],
    }
    before = run(edit, files=files, **asked).pictures[0].image.tobytes()
    for step in range(6):
        asks = iter(range(100))
        with pytest.raises(Canceled):
            run(edit, lambda asks=asks, step=step: next(asks) > step, files, **asked)  # type: ignore[misc]
        assert run(edit, files=files, **asked).pictures[0].image.tobytes() == before


def test_a_strength_of_nothing_keeps_the_picture(tiny: Engine, shelf: Path, red: Image.Image) -> None:
    sha256, files = kept(shelf, red)
    kept_as_is = run(tiny, files=files, references=[reference(sha256, "init")], strength=0.0)
    assert kept_as_is.pictures[0].image.tobytes() == red.tobytes()


def test_more_strength_leaves_the_picture_further_behind(tiny: Engine, shelf: Path, red: Image.Image) -> None:
    sha256, files = kept(shelf, red)
    asked: dict[str, Any] = {
        "prompt": "a green square creature, front view, in a forest",
        "references": [reference(sha256, "init")],
        "num_inference_steps": 12,
    }
    away = [
        np.abs(pixels(run(tiny, files=files, strength=s, **asked).pictures[0].image) - pixels(red)).mean()
        for s in (0.1, 0.5, 0.9)
    ]
    assert away == sorted(away)
    drawn = run(tiny, files=files, strength=1.0, **asked).pictures[0].image
    assert drawn.tobytes() == run(tiny, **{**asked, "references": []}).pictures[0].image.tobytes()


def stock(tiny: Engine, kind: Any, prompt: str, **arguments: Any) -> np.ndarray:
    """What diffusers' own pipeline draws with the parts of our engine.

    It would draw the picture's latents from their distribution, which takes random numbers; ours is the mode.
    """
    pipeline = kind(**tiny._words.components)  # type: ignore[attr-defined]
    pipeline._encode_vae_image = lambda image, generator: QwenImageEditPlusPipeline._encode_vae_image(
        pipeline, image, None
    )
    pipeline.set_progress_bar_config(disable=True)
    output = pipeline(
        prompt=prompt,
        **{"width": 96, "height": 96, "num_inference_steps": 12, "true_cfg_scale": 1.0, **arguments},
        generator=torch.Generator().manual_seed(7),
    )
    return pixels(output.images[0])


@pytest.mark.parametrize("strength", [0.3, 0.6, 1.0])
def test_image_to_image_is_that_of_diffusers(
    tiny: Engine, shelf: Path, red: Image.Image, strength: float
) -> None:
    sha256, files = kept(shelf, red)
    prompt = "a red round creature with a yellow hat, front view, on a beach"
    ours = run(
        tiny,
        files=files,
        prompt=prompt,
        num_inference_steps=12,
        strength=strength,
        references=[reference(sha256, "init")],
    )
    theirs = stock(tiny, QwenImageImg2ImgPipeline, prompt, image=red, strength=strength)
    assert np.abs(pixels(ours.pictures[0].image) - theirs).max() <= 1


def test_inpainting_is_that_of_diffusers_inside_the_mask_and_exact_outside(
    tiny: Engine, shelf: Path, red: Image.Image
) -> None:
    prompt = "a red round creature with a yellow hat, front view, on a beach"
    picture, files = kept(shelf, red)
    mask, more = kept(shelf, top_half())
    ours = run(
        tiny,
        files={**files, **more},
        prompt=prompt,
        num_inference_steps=12,
        references=[reference(picture, "init")],
        mask={"url": "https://example.com/", "sha256": mask},
    )
    seen = pixels(ours.pictures[0].image)
    assert (seen[32:] == pixels(red)[32:]).all()
    assert judge(ours.pictures[0].image)["hat"] == "yellow"
    theirs = stock(tiny, QwenImageInpaintPipeline, prompt, image=red, mask_image=top_half(), strength=1.0)
    assert np.abs(seen[:32] - theirs[:32]).max() <= 1


def test_transparent_pixels_of_a_mask_are_the_ones_to_change(
    tiny: Engine, shelf: Path, red: Image.Image
) -> None:
    see_through = red.convert("RGBA")
    see_through.putalpha(top_half().point(lambda white: 255 - white))
    picture, files = kept(shelf, red)
    drawn = []
    for mask in (top_half(), see_through):
        sha256, more = kept(shelf, mask)
        drawn.append(
            run(
                tiny,
                files={**files, **more},
                references=[reference(picture, "init")],
                mask={"url": "https://example.com/", "sha256": sha256},
            )
        )
    assert drawn[0].pictures[0].image.tobytes() == drawn[1].pictures[0].image.tobytes()


def test_a_mask_with_a_reference_changes_the_reference_inside_it_only(
    edit: Engine, shelf: Path, red: Image.Image
) -> None:
    large = red.resize((512, 512), Image.Resampling.LANCZOS)
    picture, files = kept(shelf, large)
    mask, more = kept(shelf, top_half(512))
    drawn = run(
        edit,
        files={**files, **more},
        model="tiny-qwen-edit",
        prompt="give the creature a yellow hat",
        width=512,
        height=512,
        num_inference_steps=12,
        references=[reference(picture)],
        mask={"url": "https://example.com/", "sha256": mask},
    )
    image = drawn.pictures[0].image
    assert (pixels(image)[171:] == pixels(large)[171:]).all()
    assert judge(image)["hat"] == "yellow"


@pytest.mark.parametrize("size", [(832, 1216), (1728, 2304), (300, 100)], ids=str)
def test_a_reference_that_was_stretched_is_seen_in_the_shape_that_the_model_draws(
    edit: Engine, shelf: Path, size: tuple[int, int]
) -> None:
    mila = creatures.Creature("round", "red", "blue")
    sha256, files = kept(shelf, drawing.draw(creatures.Picture((mila,))).resize(size))
    asked = {"model": "tiny-qwen-edit", "references": [reference(sha256)], "num_inference_steps": 12}
    for seed, (words, scene) in enumerate((("on a beach", "beach"), ("in a forest", "forest"))):
        drawn = run(edit, files=files, prompt=f"the same creature {words}", seed=seed, **asked)
        facts = judge(drawn.pictures[0].image)
        assert {name: facts[name] for name in ("body", "color", "hat", "scene")} == {
            **{"body": "round", "color": "red", "hat": "blue"},
            "scene": scene,
        }


def test_references_go_in_in_their_order(edit: Engine, shelf: Path, red: Image.Image) -> None:
    other = drawing.draw(creatures.random_picture(random.Random(3)))
    (first, files), (second, more) = kept(shelf, red), kept(shelf, other)

    def together(*order: str) -> bytes:
        asked = {"prompt": "both creatures side by side, by day", "references": [reference(s) for s in order]}
        return run(edit, files={**files, **more}, model="tiny-qwen-edit", **asked).pictures[0].image.tobytes()

    assert together(first, second) != together(second, first)


def test_both_models_have_one_text_encoder_and_one_vae_in_memory(tiny: Engine, edit: Engine) -> None:
    words, pictures = tiny._words, edit._words  # type: ignore[attr-defined]
    assert words.text_encoder is pictures.text_encoder
    assert words.vae is pictures.vae
    assert words.transformer is not pictures.transformer, "each attaches LoRAs of its own"


def test_a_reference_is_encoded_once_for_many_pictures(
    edit: Engine, shelf: Path, red: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded = []
    pipeline = edit._edit  # type: ignore[attr-defined]
    inner = pipeline.vae.encode
    monkeypatch.setattr(pipeline.vae, "encode", lambda *a, **k: encoded.append(1) or inner(*a, **k))
    sha256, files = kept(shelf, red.transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    for prompt in ("make the creature green", "make the creature blue"):
        run(edit, files=files, model="tiny-qwen-edit", prompt=prompt, references=[reference(sha256)])
    assert len(encoded) == 1


def test_the_budgets_of_one_model_are_no_other_models() -> None:
    from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit_plus as module

    assert (module.VAE_IMAGE_SIZE, module.CONDITION_IMAGE_SIZE) == (1024 * 1024, 384 * 384)
