"""The fake engine: quick, honest about cancels, and never on anybody's behalf."""

import io
import time

import pytest
from PIL import Image

from modal_app import catalog
from modal_app.contract import OutputFormat
from modal_app.engine import Canceled
from modal_app.engine.pictures import encode
from tests.modal_app.conftest import image_request, load, run


def test_a_simulated_picture_is_canceled_within_a_slice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INSTANT_SECONDS", "10")
    started = time.monotonic()
    with pytest.raises(Canceled):
        run(load("instant"), lambda: time.monotonic() - started > 0.1, model="instant")
    assert time.monotonic() - started < 5


def test_a_simulated_picture_takes_its_time_step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INSTANT_SECONDS", "0.2")
    seen: list[float] = []
    started = time.monotonic()
    load("instant").run(
        image_request(model="instant", num_inference_steps=4),
        {},
        lambda step, steps: seen.append(time.monotonic() - started),
        lambda: False,
    )
    assert all(at >= due for at, due in zip(seen, (0.05, 0.1, 0.15, 0.2), strict=True))
    assert seen[-1] < 2


def test_only_its_own_row_names_it() -> None:
    assert [model.id for model in catalog.CATALOG if model.family == "instant"] == ["instant"]


def test_a_card_takes_milliseconds() -> None:
    instant = load("instant")
    taken = []
    for _ in range(10):
        started = time.thread_time()
        run(instant, model="instant", width=1024, height=1024)
        taken.append(time.thread_time() - started)
    assert min(taken) < 0.01


def test_the_seed_is_the_colour_and_the_prompt_stands_on_the_card() -> None:
    instant = load("instant")
    cards = run(instant, model="instant", num_images=2, width=256, height=128).pictures
    assert [card.image.size for card in cards] == [(256, 128)] * 2
    corners = [card.image.getpixel((0, 0)) for card in cards]
    assert corners[0] != corners[1]
    again = run(instant, model="instant", width=256, height=128).pictures[0].image
    other = run(instant, model="instant", width=256, height=128, prompt="other words").pictures[0].image
    assert again.tobytes() == cards[0].image.tobytes()
    assert other.getpixel((0, 0)) == corners[0]
    assert other.tobytes() != again.tobytes()


@pytest.mark.parametrize("size", [(16, 16), (16, 4096)])
@pytest.mark.parametrize("prompt", ["", "\n\t", "word " * 5000, "x" * 5000, "夜の森 🌙"])
def test_any_text_fits_on_any_card(prompt: str, size: tuple[int, int]) -> None:
    card = run(load("instant"), model="instant", prompt=prompt, width=size[0], height=size[1])
    assert card.pictures[0].image.size == size


@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp"])
def test_files_are_of_their_format_and_always_the_same_bytes(output_format: OutputFormat) -> None:
    image = run(load("instant"), model="instant").pictures[0].image
    content = encode(image, output_format, 90)
    assert content == encode(image, output_format, 90)
    with Image.open(io.BytesIO(content)) as file:
        assert (file.format, file.size, file.mode) == (output_format.upper(), (96, 96), "RGB")
        assert not file.info.keys() & {"exif", "icc_profile"}


def test_png_is_lossless_and_the_others_obey_the_compression() -> None:
    image = Image.effect_mandelbrot((128, 128), (-2, -1.5, 1, 1.5), 60).convert("RGB")
    with Image.open(io.BytesIO(encode(image, "png", 0))) as file:
        assert file.tobytes() == image.tobytes()
    for output_format in ("jpeg", "webp"):
        sizes = [len(encode(image, output_format, quality)) for quality in (0, 50, 100)]
        assert sizes == sorted(sizes) and sizes[0] < sizes[2]
