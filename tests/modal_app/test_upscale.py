"""Upscaling: tiles that cover the picture, seams that nobody sees, what is drawn judged from pixels."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from modal_app.contract import UpscaleRequest
from modal_app.engine import Canceled, Drawing, Engine, UnsupportedParameter
from modal_app.engine.upscale import Tile, blended, tiles_of, upscale
from modal_app.work import carry_out
from scripts.tiny import creatures, drawing
from tests.judge import judge
from tests.modal_app.conftest import CREATURE, kept, load

BLUE = creatures.Picture((creatures.Creature("round", "red", "blue"),), "front", "beach")


def request(sha256: str, **changes: Any) -> UpscaleRequest:
    values = {
        **{"model": "tiny-qwen", "prompt": CREATURE, "width": 192, "height": 192, "seed": 7},
        **{"num_inference_steps": 12, "references": [{"url": "", "sha256": sha256, "role": "init"}]},
    }
    return UpscaleRequest.model_validate(values | changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"references": []},
        {"references": [{"url": "", "sha256": "0" * 64}]},
        {"references": [{"url": "", "sha256": "0" * 64, "role": "init"}] * 2},
        {"num_images": 2},
        {"strength": 0},
        {"mask": {"url": "", "sha256": "0" * 64}},
    ],
)
def test_a_request_without_one_picture_to_draw_over_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        request("0" * 64, **changes)


def test_a_model_that_cannot_draw_over_a_picture_is_refused(tmp_path: Path) -> None:
    sha256, files = kept(tmp_path, Image.new("RGB", (96, 96)))
    with pytest.raises(UnsupportedParameter, match="instant"):
        upscale(load("instant"), request(sha256, model="instant"), files, lambda *_: None, lambda: False)


def test_a_canceled_upscale_ends_between_tiles(tiny: Engine, tmp_path: Path) -> None:
    sha256, files = kept(tmp_path, Image.new("RGB", (96, 96)))
    seen: list[int] = []
    with pytest.raises(Canceled):
        upscale(tiny, request(sha256), files, lambda step, steps: seen.append(step), lambda: len(seen) >= 3)
    assert len(seen) < 9


@settings(deadline=None)  # a tile of 16 pixels makes many of a large picture
@given(
    size=st.tuples(st.integers(4, 200), st.integers(4, 200)),
    tile=st.tuples(st.sampled_from([16, 32, 96]), st.sampled_from([16, 32, 96])),
)
def test_tiles_cover_the_picture_and_lie_within_it(size: tuple[int, int], tile: tuple[int, int]) -> None:
    size = (size[0] * 16, size[1] * 16)
    tile = (min(tile[0], size[0]), min(tile[1], size[1]))
    covered = np.zeros((size[1], size[0]), bool)
    for each in tiles_of(size, tile):
        left, top, right, bottom = each.box
        assert 0 <= left < right <= size[0]
        assert 0 <= top < bottom <= size[1]
        covered[top:bottom, left:right] = True
    assert covered.all()


def test_tiles_of_one_picture_blend_into_that_picture() -> None:
    rng = np.random.default_rng(7)
    picture = Image.fromarray(rng.integers(0, 256, (208, 304, 3), dtype=np.uint8))
    tiles = list(tiles_of(picture.size, (96, 96)))
    back = blended(picture.size, [(tile, picture.crop(tile.box)) for tile in tiles])
    assert np.array_equal(np.asarray(back), np.asarray(picture))


def test_a_seam_between_two_tiles_fades() -> None:
    black, white = (Image.new("RGB", (96, 96), colour) for colour in ("black", "white"))
    row = np.asarray(blended((160, 96), [(Tile(0, 0, (96, 96)), black), (Tile(64, 0, (96, 96)), white)]))[
        48, :, 0
    ].astype(int)
    assert row[60] == 0
    assert row[100] == 255
    assert np.abs(np.diff(row)).max() < 30


def test_an_upscaled_creature_is_the_same_one_and_larger(tiny: Engine, tmp_path: Path) -> None:
    small = drawing.draw(BLUE)
    sha256, files = kept(tmp_path, small)
    steps: list[tuple[int, int]] = []
    drawn = carry_out(
        tiny, request(sha256), files, lambda step, total: steps.append((step, total)), lambda: False
    )
    assert isinstance(drawn, Drawing)
    large = drawn.pictures[0].image
    assert large.size == (192, 192)
    assert steps[-1][0] == steps[-1][1]
    plain = small.resize((192, 192), Image.Resampling.LANCZOS)
    assert not np.array_equal(np.asarray(large), np.asarray(plain))
    assert judge(large) == BLUE.facts
