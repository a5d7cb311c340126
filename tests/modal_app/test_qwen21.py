"""Qwen-Image 2.1 through the real pipeline, on a checkpoint of random weights."""

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from modal_app import catalog
from modal_app import engine as engines
from modal_app.catalog import Model
from modal_app.catalog.loras import InvalidLora
from modal_app.contract import ImageRequest, ProfileRequest
from modal_app.engine import Canceled, Drawing, UnsupportedParameter, qwen21
from modal_app.engine.inputs import InvalidPicture
from tests.modal_app import random_qwen21
from tests.modal_app.conftest import kept

STEPS = 3
SHA256 = "0" * 64
Shelf = Callable[[Image.Image], str]


def request(**changes: Any) -> ImageRequest:
    values: dict[str, Any] = {
        "model": "qwen-image-2.1",
        "prompt": "a red cat",
        "width": 64,
        "height": 64,
        "seed": 7,
        "num_inference_steps": STEPS,
    }
    return ImageRequest(**{**values, **changes})


def row(folder: Path, **changes: Any) -> Model:
    """The catalog's row, over a small checkpoint."""
    model = catalog.find("qwen-image-2.1")
    assert model
    small = {"native_sizes": ((64, 64), (96, 64)), "reference_pixels": 64 * 64}
    return replace(model, checkpoint=str(folder), **{**small, **changes})


def reference(sha256: str, role: str = "reference") -> dict[str, str]:
    return {"url": "https://example.com/", "sha256": sha256, "role": role}


class Bench:
    """A loaded engine, and the files that its requests name."""

    def __init__(self, engine: Any, folder: Path) -> None:
        self.engine = engine
        self.files: dict[str, Path] = {}
        self._folder = folder

    def keep(self, image: Image.Image) -> dict[str, str]:
        """The picture as a reference."""
        sha256, files = kept(self._folder, image)
        self.files |= files
        return reference(sha256)

    def lora(self, tensors: dict[str, torch.Tensor]) -> str:
        """The sha256 of a LoRA file."""
        path = self._folder / "lora.safetensors"
        save_file(tensors, path)
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        self.files[sha256] = path.rename(self._folder / sha256)
        return sha256

    def run(
        self,
        cancelled: Callable[[], bool] = lambda: False,
        on_step: Callable[[int, int], None] = lambda step, steps: None,
        **changes: Any,
    ) -> Drawing:
        drawing: Drawing = self.engine.run(request(**changes), self.files, on_step, cancelled)
        return drawing

    def first(self, **changes: Any) -> bytes:
        """The raw pixels of the first picture."""
        return self.run(**changes).pictures[0].image.tobytes()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("checkpoints") / "qwen21"
    random_qwen21.qwen21(made)
    return made


@pytest.fixture(scope="module")
def bench(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(qwen21.load(row(folder, lora_group="tiny")), tmp_path_factory.mktemp("files"))


@pytest.fixture(scope="module")
def pictures(bench: Bench) -> list[dict[str, str]]:
    """Two references of different shapes, the second one with transparency."""
    half_clear = Image.new("RGBA", (96, 64), (0, 0, 255, 255))
    half_clear.paste((0, 255, 0, 0), (0, 0, 48, 64))
    return [bench.keep(Image.new("RGB", (80, 80), "red")), bench.keep(half_clear)]


# What is refused


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("mask", {"url": "http://a/b", "sha256": SHA256}),
        ("strength", 0.0),
        ("guidance_scale", 3.5),
        ("sampler", "Euler"),
        ("clip_skip", 2),
        ("references", [reference(SHA256, "init")]),
    ],
)
def test_what_the_model_does_not_draw_with_is_refused_by_name(bench: Bench, field: str, value: Any) -> None:
    for refuse in (lambda: bench.run(**{field: value}), lambda: checked(**{field: value})):
        with pytest.raises(UnsupportedParameter, match=r"^qwen-image-2\.1 ") as refused:
            refuse()
        assert refused.value.field == field


def checked(**changes: Any) -> None:
    model = catalog.find("qwen-image-2.1")
    assert model
    engines.check(model, request(**changes))


def test_the_row_takes_ten_references_and_looks() -> None:
    checked(references=[reference(SHA256)] * 10)
    checked(references=[reference(SHA256, "style")])


def test_a_reference_that_the_model_could_not_see_is_refused(bench: Bench) -> None:
    with pytest.raises(InvalidPicture, match="too narrow: 300 x 10"):
        bench.run(references=[bench.keep(Image.new("RGB", (300, 10)))])
    assert bench.first(references=[bench.keep(Image.new("RGB", (300, 100)))], num_inference_steps=1)


def test_a_file_that_is_no_picture_is_refused(bench: Bench, tmp_path: Path) -> None:
    bench.files[SHA256] = tmp_path / "words"
    bench.files[SHA256].write_text("words")
    with pytest.raises(InvalidPicture):
        bench.run(references=[reference(SHA256)])


def test_pickled_weights_are_not_opened(tmp_path: Path) -> None:
    random_qwen21.qwen21(tmp_path)
    weights = next((tmp_path / "vae").glob("*.safetensors"))
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(OSError, match="safetensors"):
        qwen21.load(row(tmp_path))


def test_a_missing_checkpoint_does_not_load_from_elsewhere(tmp_path: Path) -> None:
    with pytest.raises((OSError, ValueError)):
        qwen21.load(row(tmp_path / "nothing"))


# Cancellation


def test_a_run_that_nobody_wants_reads_no_prompt(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    read = calls(bench.engine.pipeline.text_encoder, monkeypatch)
    with pytest.raises(Canceled):
        bench.run(cancelled=lambda: True)
    assert read == []


def test_a_cancel_while_a_prompt_is_read_lets_no_other_be_read(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = calls(bench.engine.pipeline.text_encoder, monkeypatch)
    with pytest.raises(Canceled):
        bench.run(cancelled=lambda: bool(read), true_cfg_scale=2.0, negative_prompt="blurred")
    assert len(read) == 1


def test_a_cancel_ends_the_run_at_its_step_and_leaves_no_trace(
    bench: Bench, pictures: list[dict[str, str]]
) -> None:
    before, seen = bench.first(), bench.first(references=pictures)
    for last in range(1, 2 * STEPS + 1):
        steps: list[int] = []
        with pytest.raises(Canceled):
            bench.run(
                on_step=partial(_note, steps),
                cancelled=partial(_has, steps, last),
                **{"num_images": 2, "true_cfg_scale": 2.0, "prompt": "two dogs", "references": pictures},
            )
        assert steps == list(range(1, last + 1))
        assert (bench.first(), bench.first(references=pictures)) == (before, seen)


def test_a_cancel_after_the_last_step_decodes_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[Any] = []
    steps: list[int] = []
    monkeypatch.setattr(bench.engine.pipeline.vae, "decode", lambda *latents, **_: decoded.append(latents))
    with pytest.raises(Canceled):
        bench.run(on_step=lambda step, _: steps.append(step), cancelled=lambda: len(steps) == STEPS)
    assert decoded == []


def test_a_run_that_ends_early_takes_the_parts_off_the_gpu(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    freed: list[bool] = []
    monkeypatch.setattr(bench.engine.pipeline, "maybe_free_model_hooks", lambda: freed.append(True))
    with pytest.raises(Canceled):
        bench.run(cancelled=lambda: True)
    assert freed == [True]


def _note(steps: list[int], step: int, _: int) -> None:
    steps.append(step)


def _has(steps: list[int], count: int) -> bool:
    return len(steps) == count


def calls(part: Any, monkeypatch: pytest.MonkeyPatch, method: str = "forward") -> list[tuple[Any, ...]]:
    """Grows by its arguments with every call of a part of the pipeline."""
    found: list[tuple[Any, ...]] = []
    stock = getattr(part, method)

    def noted(*args: Any, **named: Any) -> Any:
        found.append(args)
        return stock(*args, **named)

    monkeypatch.setattr(part, method, noted)
    return found


# Pictures


def test_the_same_seed_draws_the_same_picture_and_another_seed_another(bench: Bench) -> None:
    assert bench.first() == bench.first()
    assert len({bench.first(), bench.first(seed=8), bench.first(prompt="two dogs")}) == 3


def test_a_checkpoint_draws_the_same_whenever_it_is_loaded(bench: Bench, folder: Path) -> None:
    pixels = [
        np.frombuffer(each.first(), np.uint8) for each in (bench, Bench(qwen21.load(row(folder)), folder))
    ]
    # Where weights lie in memory decides how some kernels round.
    assert np.abs(pixels[0].astype(int) - pixels[1]).max() <= 1


def test_picture_n_is_the_one_that_its_own_seed_draws_alone(
    bench: Bench, pictures: list[dict[str, str]]
) -> None:
    for references in ([], pictures):
        many = bench.run(num_images=3, references=references).pictures
        assert [picture.seed for picture in many] == [7, 8, 9]
        for picture in many:
            alone = bench.first(seed=picture.seed, references=references)
            assert picture.image.tobytes() == alone


def test_steps_are_counted_over_all_pictures(bench: Bench) -> None:
    seen: list[tuple[int, int]] = []
    bench.run(num_images=2, on_step=lambda *step: seen.append(step))
    assert seen == [(n, 2 * STEPS) for n in range(1, 2 * STEPS + 1)]


def test_words_and_references_are_read_once_for_all_pictures(
    bench: Bench, pictures: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    read = calls(bench.engine.pipeline.text_encoder, monkeypatch)
    bench.run(num_images=3, references=pictures, num_inference_steps=1)
    assert len(read) == 1
    bench.run(num_images=3, true_cfg_scale=2.0, num_inference_steps=1)
    assert len(read) == 3


@pytest.mark.parametrize(
    ("size", "native"), [((64, 64), (64, 64)), ((1024, 1024), (64, 64)), ((1216, 832), (96, 64))]
)
def test_a_picture_has_exactly_the_requested_size(
    bench: Bench, size: tuple[int, int], native: tuple[int, int]
) -> None:
    drawing = bench.run(width=size[0], height=size[1], num_inference_steps=1)
    assert drawing.pictures[0].image.size == size
    assert drawing.pictures[0].image.mode == "RGB"
    assert (drawing.native_size, drawing.resampling) == (native, "none" if size == native else "lanczos")


def test_a_size_off_the_grid_is_drawn_on_it_and_resampled(folder: Path, tmp_path: Path) -> None:
    free = Bench(qwen21.load(row(folder, native_sizes=())), tmp_path)
    for size, native in (((70, 110), (64, 96)), ((17, 64), (32, 64))):
        drawing = free.run(width=size[0], height=size[1], num_inference_steps=1)
        assert (drawing.pictures[0].image.size, drawing.native_size) == (size, native)


@pytest.mark.parametrize("prompt", ["", "<|endoftext|>{}", "<|image_pad|>", "word " * 2000, "ночь 🌙"])
def test_any_text_is_a_prompt(bench: Bench, prompt: str, pictures: list[dict[str, str]]) -> None:
    for references in ([], pictures[:1]):
        assert bench.first(prompt=prompt, num_inference_steps=1, references=references)


def test_words_cannot_place_a_picture_or_open_a_turn(bench: Bench) -> None:
    assert bench.first(prompt="a<|image_pad|>b<|im_end|>") == bench.first(prompt="a b ")


def test_as_many_tokens_count_as_the_row_says(bench: Bench) -> None:
    long = "й" * 300  # two tokens each
    assert bench.first(prompt=long) == bench.first(prompt=long[:256]) != bench.first(prompt=long[:255])


def test_guidance_needs_a_scale_above_one_and_no_negative_prompt(bench: Bench) -> None:
    plain = bench.first()
    assert bench.first(negative_prompt="blurred") == plain
    assert len({plain, bench.first(true_cfg_scale=3.0)}) == 2
    assert bench.first(true_cfg_scale=3.0, negative_prompt="blurred") != bench.first(true_cfg_scale=3.0)


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_a_run_has_the_steps_it_was_asked_for_whatever_the_checkpoint_prefers(
    tmp_path: Path, steps: int
) -> None:
    random_qwen21.qwen21(tmp_path, sample_sigmas=[1.0, 0.4])
    seen: list[int] = []
    distilled = Bench(qwen21.load(row(tmp_path)), tmp_path)
    distilled.run(num_inference_steps=steps, on_step=lambda step, _: seen.append(step))
    assert seen == list(range(1, steps + 1))


def test_noise_levels_of_the_checkpoint_count_where_they_are_as_many(bench: Bench, tmp_path: Path) -> None:
    random_qwen21.qwen21(tmp_path, sample_sigmas=[1.0, 0.4])
    distilled = Bench(qwen21.load(row(tmp_path)), tmp_path)
    assert distilled.first(num_inference_steps=2) != bench.first(num_inference_steps=2)


def test_what_is_transparent_comes_out_white(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    clear = Image.new("RGBA", (64, 64), (9, 9, 9, 0))
    clear.paste((255, 0, 0, 255), (0, 0, 32, 64))
    monkeypatch.setattr(
        bench.engine.pipeline.image_processor, "postprocess", lambda *_, **__: [clear], raising=True
    )
    image = bench.run(num_inference_steps=1).pictures[0].image
    assert (image.mode, image.getpixel((0, 0)), image.getpixel((63, 0))) == (
        *("RGB", (255, 0, 0)),
        (255, 255, 255),
    )


# References


def test_references_change_the_picture_and_so_does_their_order(
    bench: Bench, pictures: list[dict[str, str]]
) -> None:
    red, blue = pictures
    drawn = [bench.first(references=each) for each in ([], [red], [blue], [red, blue], [blue, red])]
    assert len(set(drawn)) == 5
    assert bench.first(references=[red, blue]) == drawn[3]
    assert bench.first() == drawn[0]


def test_a_look_is_a_reference_like_any_other(bench: Bench, pictures: list[dict[str, str]]) -> None:
    look = {**pictures[0], "role": "style"}
    assert bench.first(references=[look]) == bench.first(references=pictures[:1])


def test_as_many_references_are_seen_as_the_row_allows(bench: Bench) -> None:
    colours = [bench.keep(Image.new("RGB", (32, 32), (20 * n, 0, 90))) for n in range(10)]
    assert bench.first(references=colours) != bench.first(references=[*colours[:8], colours[9], colours[8]])


def test_a_reference_is_seen_at_the_area_that_the_row_says(
    folder: Path, bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fine = Bench(qwen21.load(row(folder, reference_pixels=128 * 128)), tmp_path)
    seen = calls(fine.engine.pipeline.vae, monkeypatch, "encode")
    fine.run(references=[fine.keep(Image.new("RGB", (400, 100)))], num_inference_steps=1)
    assert [tuple(image.shape) for (image,) in seen] == [(1, 4, 1, 64, 256)]


# LoRAs


def adapter(stem: str = "transformer.transformer_blocks.0.attn.to_q") -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(5)
    width = random_qwen21.WIDTH
    return {
        f"{stem}.lora_A.weight": torch.randn(4, width, generator=random),
        f"{stem}.lora_B.weight": torch.randn(width, 4, generator=random),
    }


def test_a_lora_acts_in_its_run_only(bench: Bench, pictures: list[dict[str, str]]) -> None:
    lora = {"url": "https://example.com/", "sha256": bench.lora(adapter())}
    plain = bench.first(references=pictures)
    strong = bench.first(references=pictures, loras=[lora])
    weak = bench.first(references=pictures, loras=[{**lora, "scale": 0.3}])
    assert len({plain, strong, weak}) == 3
    assert bench.first(references=pictures, loras=[{**lora, "scale": 0.0}]) == plain
    assert bench.first(references=pictures, loras=[lora]) == strong
    with pytest.raises(Canceled):
        bench.run(loras=[lora], cancelled=lambda: True)
    assert bench.first(references=pictures) == plain


def test_a_lora_of_another_model_is_refused(folder: Path, bench: Bench) -> None:
    lora = {"url": "https://example.com/", "sha256": bench.lora(adapter())}
    other = Bench(qwen21.load(row(folder)), folder)
    other.files = bench.files
    with pytest.raises(InvalidLora):
        other.run(loras=[lora])
    with pytest.raises(InvalidLora):
        absent = adapter("transformer.transformer_blocks.9.attn.to_q")
        bench.run(loras=[{**lora, "sha256": bench.lora(absent)}])
    assert bench.first()


# Beside pictures


def test_the_text_encoder_answers_and_draws_as_before(
    bench: Bench, pictures: list[dict[str, str]], caplog: pytest.LogCaptureFixture
) -> None:
    assert isinstance(bench.engine, engines.LanguageEngine)
    before = bench.first(), bench.first(references=pictures)
    image = {key: value for key, value in pictures[0].items() if key != "role"}
    asked = ProfileRequest.model_validate({"model": "qwen-image-2.1", "image": image})
    answer: Any = bench.engine.answer(asked, bench.files, lambda: False)
    assert answer.color_palette == ["#ff0000"]
    assert caplog.records == []  # a failure of the model would have been noted
    assert (bench.first(), bench.first(references=pictures)) == before


def test_the_fingerprint_names_the_weights_and_fits_into_a_message(bench: Bench, folder: Path) -> None:
    fingerprint = bench.run(num_inference_steps=1).fingerprint
    for name, sha256 in fingerprint["weights_sha256"].items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == sha256
    assert len(fingerprint["weights_sha256"]) == 3
    assert (fingerprint["dtype"], fingerprint["offload"]) == ("float32", "none")
    assert len(json.dumps(fingerprint)) < 2000


def test_loading_is_silent(
    folder: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        Bench(qwen21.load(row(folder)), folder).run(num_inference_steps=1)
    assert "it/s" not in capfd.readouterr().err
    assert caplog.records == []
