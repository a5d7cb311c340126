"""Every picture carries its recipe, sealed, in each format."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from modal_app.contract import OutputFormat, seal, unseal
from modal_app.engine import Engine, pictures
from modal_app.engine.recipe import parameters, pixels_sha256, recipe
from tests.modal_app.conftest import image_request, run, service

SECRET = "secret-of-the-tests"


def opened(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content))


@pytest.mark.parametrize("sealed", ["", "{", "[]", "{}", '{"recipe": 1}', '{"recipe": {}, "signature": 5}'])
def test_what_is_no_sealed_recipe_is_refused(sealed: str) -> None:
    with pytest.raises(ValueError, match="recipe"):
        unseal(sealed, [SECRET])


def test_an_altered_recipe_is_refused_and_so_is_a_strangers() -> None:
    sealed = seal({"seed": 7, "prompt": "größe ☃"}, SECRET)
    assert sealed.isascii()
    assert unseal(sealed, ["another", SECRET]) == {"seed": 7, "prompt": "größe ☃"}
    for altered in (sealed.replace("7", "8"), seal({"seed": 7}, "another")):
        with pytest.raises(ValueError, match="altered"):
            unseal(altered, [SECRET])


def test_the_same_recipe_is_sealed_the_same_way_in_whatever_order_it_was_written() -> None:
    assert seal({"a": 1, "b": 2.5}, SECRET) == seal({"b": 2.5, "a": 1}, SECRET)


@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp"])
def test_a_picture_of_each_format_gives_its_recipe_back(tiny: Engine, output_format: OutputFormat) -> None:
    request = image_request(prompt="a red round creature ☃", negative_prompt="fog", true_cfg_scale=2.0)
    drawing = tiny.run(request, {}, lambda step, steps: None, lambda: False)
    known = recipe(request, drawing, 0)
    notes = pictures.Notes(parameters(known), seal(known, SECRET))
    content = pictures.encode(drawing.pictures[0].image, output_format, 90, notes)
    found = pictures.sealed_recipe(opened(content))
    assert found is not None
    assert unseal(found, [SECRET]) == json.loads(json.dumps(known))
    assert known["pixels_sha256"] == pixels_sha256(drawing.pictures[0].image)
    assert pictures.encode(drawing.pictures[0].image, output_format, 90, notes) == content
    if output_format == "png":
        assert pixels_sha256(opened(content)) == known["pixels_sha256"]
        assert (
            opened(content)
            .info["parameters"]
            .startswith("a red round creature ☃\nNegative prompt: fog\nSteps: 6,")
        )
    else:
        comment = opened(content).getexif().get_ifd(pictures.EXIF_IFD)[pictures.USER_COMMENT]
        assert comment.removeprefix(b"UNICODE\0").decode("utf-16-be") == parameters(known)


def test_the_recipe_draws_the_picture_again(tiny: Engine) -> None:
    request = image_request(num_images=2, seed=20)
    drawing = tiny.run(request, {}, lambda step, steps: None, lambda: False)
    known = recipe(request, drawing, 1)
    fields: dict[str, Any] = {name: known[name] for name in ("prompt", "seed", "num_inference_steps")}
    assert pixels_sha256(run(tiny, **fields).pictures[0].image) == known["pixels_sha256"]


def test_a_file_without_notes_has_no_recipe() -> None:
    content = pictures.encode(Image.new("RGB", (16, 16)), "png", 90)
    assert pictures.sealed_recipe(opened(content)) is None


async def test_a_service_with_a_secret_seals_and_one_without_does_not(tmp_path: Path) -> None:
    found = []
    for secret in (SECRET, ""):
        async with service(tmp_path / (secret or "none"), recipe_secret=secret) as gpu:
            call = await gpu.ended(await gpu.accepted())
            content = (await gpu.http.get(f"/calls/{call.call_id}/images/0")).content
            found.append(pictures.sealed_recipe(opened(content)))
    assert found[1] is None
    assert found[0] is not None
    assert unseal(found[0], [SECRET])["model"] == "instant"
