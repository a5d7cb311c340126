"""What drew a picture, and whether it comes out the same: judged by the pixels of the tiny model."""

import hashlib
import io
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
import pytest_asyncio
from PIL import Image, PngImagePlugin
from typer.testing import CliRunner

from gateway import cli
from modal_app.contract import RECIPE_FIELD, seal, unseal
from tests.support.stack import Stack, User, stack

SECRET, OLD_SECRET = "of the tests", "of the tests before"
RED = "a red round creature with a blue hat, front view, on a beach"
SMALL: dict[str, Any] = {"prompt": RED, "size": "96x96", "num_inference_steps": 6}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def studio(new_database: Callable[[], str], new_folder: Callable[[], Path]) -> AsyncIterator[Stack]:
    gpu = {"GPU_MODELS": "tiny-qwen,instant", "GPU_PRELOAD": "tiny-qwen", "RECIPE_SECRET": SECRET}
    secrets = {"recipe_secret": SECRET, "recipe_secret_previous": OLD_SECRET}
    async with stack(new_database(), new_folder(), gpu=gpu, **secrets) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def red(studio: Stack) -> dict[str, Any]:
    """A picture that the user has drawn; with its bytes."""
    job = await studio.user.create(**SMALL, style="Anime", seed=7, num_images=2, wait=60)
    image = dict(job["images"][1])
    return {**image, "file": await content(studio.user, image)}


async def content(user: User, image: dict[str, Any]) -> bytes:
    return (await user.http.get(f"/v1/images/{image['id']}/content")).content


async def replay(user: User, file: bytes, wait: int = 60, **headers: str) -> httpx.Response:
    preference = {"Prefer": f"wait={wait}", **headers}
    return await user.http.post("/v1/replay", files={"file": ("a.png", file)}, headers=preference)


def pixels_sha256(file: bytes) -> str:
    with Image.open(io.BytesIO(file)) as image:
        return hashlib.sha256(image.convert("RGB").tobytes()).hexdigest()


def sealed_of(file: bytes) -> str:
    with Image.open(io.BytesIO(file)) as image:
        return str(image.info[RECIPE_FIELD])


def with_note(file: bytes, note: str | None, **changes: Any) -> bytes:
    """The same pixels, unless ``edit`` changes them, with another recipe."""
    image = Image.open(io.BytesIO(file)).convert("RGB")
    if "edit" in changes:
        image.putpixel((48, 48), (1, 2, 3))
    info = PngImagePlugin.PngInfo()
    if note is not None:
        info.add_itxt(RECIPE_FIELD, note)
    kept = io.BytesIO()
    image.save(kept, "PNG", pnginfo=info)
    return kept.getvalue()


def changed(file: bytes, secret: str = SECRET, **changes: Any) -> bytes:
    """The picture with a recipe that says something else, signed."""
    return with_note(file, seal(unseal(sealed_of(file), [SECRET]) | changes, secret))


# What is refused


async def test_a_file_without_a_recipe_is_refused(studio: Stack, red: dict[str, Any]) -> None:
    answer = await replay(studio.user, with_note(red["file"], None))
    assert (answer.status_code, answer.json()["code"]) == (400, "recipe_missing")


@pytest.mark.parametrize(
    "note",
    ["", "{}", "[" * 50_000, '{"recipe": 1, "signature": "x"}', '{"recipe": {}, "signature": null}', "NaN"],
)
async def test_what_is_no_recipe_of_ours_is_refused(studio: Stack, red: dict[str, Any], note: str) -> None:
    answer = await replay(studio.user, with_note(red["file"], note))
    assert answer.status_code == 400
    assert answer.json()["code"] == ("recipe_signature_invalid" if note else "recipe_missing")


async def test_an_altered_recipe_is_refused(studio: Stack, red: dict[str, Any]) -> None:
    for file in (
        with_note(red["file"], sealed_of(red["file"]).replace('"seed":8', '"seed":9')),
        changed(red["file"], secret="of somebody else"),
    ):
        answer = await replay(studio.user, file)
        assert (answer.status_code, answer.json()["code"]) == (400, "recipe_signature_invalid")


async def test_an_edited_picture_is_refused(studio: Stack, red: dict[str, Any]) -> None:
    edited = with_note(red["file"], sealed_of(red["file"]), edit=True)
    see_through = io.BytesIO()
    image = Image.open(io.BytesIO(red["file"])).convert("RGBA")
    image.putpixel((0, 0), (*image.getpixel((0, 0))[:3], 0))  # type: ignore[index]
    info = PngImagePlugin.PngInfo()
    info.add_itxt(RECIPE_FIELD, sealed_of(red["file"]))
    image.save(see_through, "PNG", pnginfo=info)
    for file in (edited, see_through.getvalue()):
        answer = await replay(studio.user, file)
        assert (answer.status_code, answer.json()["code"]) == (400, "picture_altered")


async def test_a_model_that_is_not_served_any_more_is_refused(studio: Stack, red: dict[str, Any]) -> None:
    fingerprint = unseal(sealed_of(red["file"]), [SECRET])["fingerprint"]
    for changes in (
        {"model": "tiny-qwen-edit"},
        {"model": "gone"},
        {"fingerprint": {**fingerprint, "revision": "0"}},
    ):
        answer = await replay(studio.user, changed(red["file"], **changes))
        assert (answer.status_code, answer.json()["code"]) == (400, "model_unavailable"), changes


async def test_a_reference_that_the_caller_does_not_have_is_named(studio: Stack, red: dict[str, Any]) -> None:
    reference = {"sha256": hashlib.sha256(red["file"]).hexdigest(), "role": "init"}
    file = changed(red["file"], references=[reference])
    answer = await replay(studio.new_user(), file)
    assert (answer.status_code, answer.json()["code"]) == (400, "reference_missing")
    assert reference["sha256"] in answer.json()["detail"]
    own = await replay(studio.user, file, wait=0)
    assert own.status_code == 202, own.text
    assert own.json()["params"]["references"] == [{"image_id": red["id"], "role": "init"}]


async def test_a_picture_of_somebody_else_is_like_one_that_does_not_exist(
    studio: Stack, red: dict[str, Any]
) -> None:
    stranger = studio.new_user()
    answers = [
        await stranger.http.post("/v1/replay", json={"image_id": i}) for i in (red["id"], str(uuid4()))
    ]
    assert [answer.json()["code"] for answer in answers] == ["not_found", "not_found"]


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        ({"json": {}}, 422),
        ({"json": {"image_id": "x"}}, 422),
        ({"json": {"image_id": str(uuid4()), "more": 1}}, 422),
        ({"content": b"{", "headers": {"content-type": "application/json"}}, 422),
        ({"content": b"x", "headers": {"content-type": "multipart/form-data; boundary=b"}}, 422),
        ({"content": b"x", "headers": {"content-type": "image/png"}}, 415),
        ({"files": {"picture": b"x"}}, 422),
        ({"files": {"file": b"x"}, "data": {"more": "1"}}, 422),
        ({"files": [("file", b"x"), ("file", b"y")]}, 422),
        ({"files": {"file": (None, "x")}}, 422),
        ({"files": {"file": b"not a picture"}}, 400),
        ({"files": {"file": b"GIF89a"}}, 415),
        ({"files": {"file": bytes(64_000_001)}}, 413),
    ],
)
async def test_a_body_that_is_none_is_refused(studio: Stack, sent: dict[str, Any], status: int) -> None:
    answer = await studio.user.http.post("/v1/replay", **sent)
    assert answer.status_code == status, answer.text


# What comes out


async def test_a_recipe_says_what_drew_a_picture(studio: Stack, red: dict[str, Any]) -> None:
    answer = await studio.user.http.get(f"/v1/images/{red['id']}/recipe")
    assert answer.status_code == 200, answer.text
    told, sealed = answer.json(), unseal(sealed_of(red["file"]), [SECRET])
    assert {name: told[name] for name in sealed if name != "schema"} == {
        name: value for name, value in sealed.items() if name != "schema"
    }
    assert told["prompts"]["input"] == RED
    assert told["prompt"] == told["prompts"]["final"] != RED
    assert told["style"] == {"id": "design/anime", "version": 1}
    assert (told["seed"], told["sha256"]) == (8, red["sha256"])
    assert told["pixels_sha256"] == pixels_sha256(red["file"])
    assert (told["revision"], told["quantisation"], told["scheduler"]) == (
        sealed["fingerprint"]["revision"],
        sealed["fingerprint"]["quant"],
        sealed["fingerprint"]["scheduler"],
    )


async def test_a_file_tells_its_settings_and_whose_picture_it_is(studio: Stack, red: dict[str, Any]) -> None:
    async def read(user: User, file: bytes) -> httpx.Response:
        return await user.http.post("/v1/recipes", files={"file": ("a.png", file)})

    strange = with_note(red["file"], None)
    assert (await read(studio.user, strange)).json()["code"] == "recipe_missing"
    assert (await studio.user.http.post("/v1/recipes", json={})).status_code == 415
    own = (await read(studio.user, red["file"])).json()
    assert (own["image_id"], own["job_id"], own["seed"]) == (red["id"], red["job_id"], 8)
    theirs = (await read(studio.new_user(), red["file"])).json()
    assert (theirs["checked"], theirs["image_id"], theirs["job_id"]) == ("pixels", None, None)
    assert [theirs[name] for name in ("prompt", "model", "seed")] == [own["prompt"], "tiny-qwen", 8]


async def test_the_file_alone_draws_the_same_pixels_again(studio: Stack, red: dict[str, Any]) -> None:
    somebody = studio.new_user()
    answer = await replay(somebody, red["file"])
    job = answer.json()
    assert (answer.status_code, job["status"], job["task"]) == (200, "completed", "replay"), job
    expected = pixels_sha256(red["file"])
    assert job["replay"] == {
        "checked": "pixels",
        "equal": True,
        "pixels_sha256": expected,
        "expected_pixels_sha256": expected,
        "fingerprint_differences": [],
    }
    assert pixels_sha256(await content(somebody, job["images"][0])) == expected
    assert (await somebody.job(job["id"]))["replay"] == job["replay"]
    asset = studio.rows(
        "select visibility from public.generated_assets where id = %s", job["images"][0]["id"]
    )
    assert asset[0]["visibility"] == "private"


async def test_a_picture_is_drawn_again_by_its_id_in_every_format(studio: Stack) -> None:
    for output_format, checked in (("jpeg", "file"), ("webp", "file"), ("png", "pixels")):
        body = {**SMALL, "output_format": output_format, "seed": 11, "visibility": "private"}
        drawn = (await studio.user.create(**body, wait=60))["images"][0]
        answer = await studio.user.http.post(
            "/v1/replay", json={"image_id": drawn["id"]}, headers={"Prefer": "wait=60"}
        )
        job = answer.json()
        assert (job["replay"]["equal"], job["replay"]["checked"]) == (True, checked)
        assert job["images"][0]["sha256"] == drawn["sha256"]


async def test_a_lossy_file_that_nobody_knows_is_vouched_for_by_its_recipe(studio: Stack) -> None:
    drawn = (await studio.user.create(**SMALL, output_format="jpeg", seed=12, wait=60))["images"][0]
    answer = await replay(studio.new_user(), await content(studio.user, drawn))
    assert answer.json()["replay"]["checked"] == "recipe"
    assert answer.json()["replay"]["equal"] is True


async def test_another_fingerprint_is_told_field_by_field(studio: Stack, red: dict[str, Any]) -> None:
    now = unseal(sealed_of(red["file"]), [SECRET])["fingerprint"]
    weights = {**now["weights_sha256"], "more.safetensors": "0" * 64}
    then = {**now, "torch": "1.0", "weights_sha256": weights}
    file = changed(red["file"], secret=OLD_SECRET, fingerprint=then)
    found = (await replay(studio.user, file)).json()["replay"]
    assert found["equal"] is True
    assert found["fingerprint_differences"] == [
        {"field": "torch", "then": "1.0", "now": now["torch"]},
        {"field": "weights_sha256.more.safetensors", "then": "0" * 64, "now": None},
    ]


async def test_other_pixels_are_told(studio: Stack, red: dict[str, Any]) -> None:
    recipe = unseal(sealed_of(red["file"]), [SECRET])
    file = with_note(red["file"], seal(recipe | {"seed": 99}, SECRET))  # as if the engine drew otherwise now
    found = (await replay(studio.user, file)).json()["replay"]
    assert found["equal"] is False
    assert found["pixels_sha256"] != found["expected_pixels_sha256"] == recipe["pixels_sha256"]


async def test_rows_stand_in_for_a_file_without_a_recipe(studio: Stack, red: dict[str, Any]) -> None:
    row = studio.rows("select bucket, key from public.generated_assets where id = %s", red["id"])[0]
    path = studio.folder / "buckets" / row["bucket"] / row["key"]
    path.write_bytes(with_note(red["file"], None))
    try:
        answer = await studio.user.http.post(
            "/v1/replay", json={"image_id": red["id"]}, headers={"Prefer": "wait=60"}
        )
    finally:
        path.write_bytes(red["file"])
    assert answer.json()["replay"]["checked"] == "rows"
    assert answer.json()["replay"]["equal"] is True


async def test_a_repeat_with_the_same_key_is_one_job(studio: Stack, red: dict[str, Any]) -> None:
    key = {"Idempotency-Key": uuid4().hex}
    first, second = [await replay(studio.user, red["file"], wait=0, **key) for _ in range(2)]
    assert first.json()["id"] == second.json()["id"]
    assert second.headers["idempotent-replayed"] == "true"
    other = await replay(studio.user, changed(red["file"], secret=OLD_SECRET), wait=0, **key)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")


# Without a gateway


def test_a_file_is_verified_offline(
    red: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RECIPE_SECRET", SECRET)
    for file, status, verdict in (
        (red["file"], 0, "every pixel is as it was drawn"),
        (with_note(red["file"], sealed_of(red["file"]), edit=True), 1, "not the one that was drawn"),
        (changed(red["file"], secret="another"), 1, "sealed by somebody else"),
        (with_note(red["file"], None), 1, "carries no recipe"),
        (b"text", 1, "not a picture"),
    ):
        (tmp_path / "picture.png").write_bytes(file)
        found = CliRunner().invoke(cli.app, ["recipe", str(tmp_path / "picture.png")])
        assert found.exit_code == status, found.output
        assert verdict in found.stderr
    monkeypatch.delenv("RECIPE_SECRET")
    (tmp_path / "picture.png").write_bytes(red["file"])
    (tmp_path / "secrets.json").write_text(json.dumps({"RECIPE_SECRET": SECRET}))
    for folder, status in (("nowhere", 1), (str(tmp_path), 0)):
        found = CliRunner().invoke(cli.app, ["recipe", "picture.png", "--data", folder])
        assert found.exit_code == status, found.output
        assert json.loads(found.stdout)["seed"] == 8
