"""Looks at a picture that is still being drawn."""

import base64
import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from modal_app.callback import body_of
from modal_app.contract import EVENT_LIMIT_BYTES, PREVIEW_LIMIT_BYTES, Call, CallEvent, Preview
from modal_app.engine import Engine, Item
from modal_app.previews import Looks, preview
from tests.modal_app.conftest import image_request, load


class Viewer:
    """Looks at every step."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.seen: list[tuple[int, Image.Image]] = []

    def __call__(self, step: int, steps: int) -> None:
        self.steps.append(step)

    def look(self, n: int, picture: Callable[[], Image.Image]) -> None:
        self.seen.append((n, picture()))


def opened(look: Preview) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(look.b64_json)))


def distance(one: Image.Image, other: Image.Image) -> float:
    """Mean difference of two pictures' pixels, 0 to 255."""
    small = other.resize(one.size)
    return float(np.abs(np.asarray(one, np.float32) - np.asarray(small, np.float32)).mean())


def noise(size: tuple[int, int]) -> Image.Image:
    return Image.fromarray(np.random.default_rng(1).integers(0, 256, (*size, 3), np.uint8))


@pytest.fixture(scope="module")
def tiny() -> Engine:
    return load("tiny-qwen")


def test_a_look_fits_into_an_event_whatever_it_shows() -> None:
    look = preview(0, noise((2304, 1728)))
    assert len(base64.b64decode(look.b64_json)) <= PREVIEW_LIMIT_BYTES
    key = f"{'0' * 8}-0000-0000-0000-{'0' * 12}:0:0"
    call = Call(call_id="a", key=key, task="image", status="running", preview=look)
    body = body_of(CallEvent(type="call.progress", seq=1, call=call))
    assert len(body) < EVENT_LIMIT_BYTES
    assert CallEvent.model_validate_json(body).call.preview == look


def test_a_look_is_small_and_keeps_its_shape() -> None:
    assert opened(preview(0, Image.new("RGB", (1000, 500), "red"))).size == (256, 128)


def test_an_event_that_is_too_long_leaves_the_look_behind() -> None:
    key = f"{'0' * 8}-0000-0000-0000-{'0' * 12}:0:0"
    look = preview(0, noise((256, 256)))
    call = Call(
        call_id="a", key=key, task="image", status="running", preview=look, fingerprint={"a": "b" * 19_000}
    )
    body = body_of(CallEvent(type="call.progress", seq=1, call=call))
    assert len(body) < EVENT_LIMIT_BYTES
    assert CallEvent.model_validate_json(body).call.preview is None


def test_looks_are_taken_when_it_is_time_and_a_broken_one_costs_nothing() -> None:
    taken: list[Preview] = []

    def broken() -> Image.Image:
        raise ValueError("no picture")

    impatient = Looks(taken.append, seconds=0)
    impatient.look(0, broken)
    impatient.look(1, lambda: Image.new("RGB", (8, 8)))
    Looks(taken.append, seconds=60).look(2, broken)
    assert [look.n for look in taken] == [1]


def test_the_pictures_bytes_do_not_depend_on_who_looks(tiny: Engine) -> None:
    viewer = Viewer()
    request = image_request(seed=3)
    alone = tiny.run(request, {}, lambda step, steps: None, lambda: False)
    watched = tiny.run(request, {}, viewer, lambda: False)
    assert watched.pictures[0].image.tobytes() == alone.pictures[0].image.tobytes()
    assert len(viewer.seen) == request.num_inference_steps - 1


def test_looks_come_closer_to_the_picture(tiny: Engine) -> None:
    viewer = Viewer()
    drawn = tiny.run(image_request(seed=3), {}, viewer, lambda: False).pictures[0].image
    away = [distance(look, drawn) for _, look in viewer.seen]
    assert away[-1] < 8 and away[-1] < away[len(away) // 2] < away[0]


def test_every_request_of_a_batch_sees_its_own(tiny: Engine) -> None:
    viewers = [Viewer(), Viewer()]
    items = [
        Item(image_request(seed=seed, prompt="a red round creature"), {}, viewer, lambda: False)
        for seed, viewer in zip((1, 2), viewers, strict=True)
    ]
    drawings = tiny.run_batch(items)  # type: ignore[attr-defined]
    for own, (viewer, drawing) in enumerate(zip(viewers, drawings, strict=True)):
        other = drawings[1 - own].pictures[0].image
        _, last = viewer.seen[-1]
        assert distance(last, drawing.pictures[0].image) < distance(last, other)


def test_the_instant_engine_shows_its_card() -> None:
    viewer = Viewer()
    request = image_request(model="instant", num_images=2, num_inference_steps=2)
    drawn = load("instant").run(request, {}, viewer, lambda: False)
    assert [n for n, _ in viewer.seen] == [0, 0, 1, 1]
    assert viewer.seen[-1][1].tobytes() == drawn.pictures[1].image.tobytes()
