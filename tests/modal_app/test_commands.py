"""The command line draws with the tiny model, and its pictures are judged; before that, what it refuses."""

import hashlib
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from modal_app import catalog, commands, engine
from modal_app.commands import QWEN, TINY, BadOption, Options, build, generate, local_runner
from modal_app.contract import Call, CallError, ImageRequest, Timing
from tests.judge import judge
from tests.modal_app.conftest import CREATURE, new_key

ROOT = Path(__file__).parents[2]
DRAWN = str(ROOT / "docs/images/drawn.png")
SEPIA = Path(__file__).parents[1] / "data" / "loras" / "sepia" / "pytorch_lora_weights.safetensors"
FRAME = SEPIA.parents[1] / "frame" / SEPIA.name
SMALL: dict[str, Any] = {"width": 96, "height": 96, "seed": 7}


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def drawn_here() -> commands.Runner:
    return local_runner()


@pytest.fixture(autouse=True)
def engines_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading takes longer than drawing, so the tests of this file share the engines."""
    monkeypatch.setattr(engine, "load", lambda model: _engines.setdefault(model.id, _load(model)))


_load = engine.load
_engines: dict[str, engine.Engine] = {}


def answering(**changes: Any) -> tuple[commands.Runner, list[tuple[str, ImageRequest, dict[str, bytes]]]]:
    """A runner that draws one grey byte, and what it was asked for."""
    asked: list[tuple[str, ImageRequest, dict[str, bytes]]] = []
    call = Call(call_id="c", key=new_key(), task="image", status="succeeded", gpu="L40S")
    call = call.model_copy(update={"timing": Timing(gpu_seconds=3.6), **changes})

    def run(task: str, request: dict[str, Any], files: dict[str, bytes]) -> tuple[Call, list[bytes]]:
        asked.append((task, ImageRequest.model_validate(request), files))
        return call, [b"picture"] if call.status == "succeeded" else []

    return run, asked


def never(task: str, request: dict[str, Any], files: dict[str, bytes]) -> tuple[Call, list[bytes]]:
    raise AssertionError("a bad option must cost no GPU")


def pixels(path: str | Path = "test_output.png") -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"), dtype=int)


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model": "no-such-model"}, "--model no-such-model"),
        ({"quality": "superb"}, "--quality superb"),
        ({"width": 100}, "--width 100"),
        ({"height": 4096}, "--height 4096"),
        ({"width": 64, "height": 256}, "1:3"),
        ({"steps": 300}, "num_inference_steps"),
        ({"steps": 101}, "num_inference_steps up to 100"),
        ({"seed": 2**63}, "seed"),
        ({"image": "missing.png"}, "--image missing.png: No such file"),
        ({"lora": "missing:0.5"}, "--lora missing: No such file"),
        ({"lora": f"{SEPIA}:9"}, "scale"),
        ({"style": "missing.toml"}, "--style missing.toml"),
        ({"style": "empty.toml"}, "--style empty.toml"),
        ({"out": "picture.gif"}, "--out picture.gif"),
        ({"out": "nowhere/picture.png"}, "no folder nowhere"),
        ({"model": "instant", "negative_prompt": "fog"}, "instant does not support negative_prompt"),
        ({"model": "instant", "lora": str(SEPIA)}, "instant does not support loras"),
        ({"model": "instant", "image": ",".join([DRAWN] * 4)}, "takes up to 3 references"),
        ({"model": "qwen-image-fast", "negative_prompt": "fog"}, "does not support negative_prompt"),
    ],
)
def test_a_bad_option_is_named_in_one_line_and_costs_nothing(
    desk: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], named: str
) -> None:
    (desk / "empty.toml").write_text("label = 'x'")
    assert generate(Options(prompt=CREATURE, **changes), never, TINY) == 1
    said = capsys.readouterr()
    assert named in said.err and said.err.count("\n") == 1 and said.out == ""
    assert not (desk / "test_output.png").exists()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"status": "failed", "error": CallError(code="out_of_memory", message="Too large.")},
            "out_of_memory",
        ),
        ({"status": "canceled"}, "canceled"),
    ],
)
def test_a_call_without_a_picture_says_why(
    desk: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], reason: str
) -> None:
    assert generate(Options(prompt=CREATURE), answering(**changes)[0]) == 1
    said = capsys.readouterr()
    assert reason in said.err and said.out == "" and not (desk / "test_output.png").exists()


@pytest.mark.parametrize("wrong", ["lora", "image"])
def test_a_file_that_is_not_what_it_should_be_fails_the_call(
    desk: Path, capsys: pytest.CaptureFixture[str], drawn_here: commands.Runner, wrong: str
) -> None:
    (desk / "file").write_bytes(b"neither a picture nor weights")
    assert generate(Options(prompt=CREATURE, **SMALL, **{wrong: "file"}), drawn_here, TINY) == 1
    assert f"(invalid_{'picture' if wrong == 'image' else 'lora'})" in capsys.readouterr().err


def test_weights_that_are_not_here_are_told(
    desk: Path,
    capsys: pytest.CaptureFixture[str],
    drawn_here: commands.Runner,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engine, "load", _load)
    monkeypatch.setattr(engine, "options", engine.Options(model_cache=desk))
    assert generate(Options(prompt=CREATURE, model="sdxl"), drawn_here) == 1
    assert "(model_load_failed): the weights of sdxl" in capsys.readouterr().err


def test_a_picture_that_cannot_be_saved_is_told(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (desk / "taken.png").mkdir()
    assert generate(Options(prompt=CREATURE, out="taken.png"), answering()[0]) == 1
    assert "--out taken.png: Is a directory" in capsys.readouterr().err


# ---------------------------------------------------------------- requests


def request_of(models: commands.Models = QWEN, **changes: Any) -> ImageRequest:
    return build(Options(prompt="a dragon", **changes), models)[0]


@pytest.mark.parametrize(
    ("changes", "model", "steps"),
    [
        ({}, "qwen-image-fast", 8),
        ({"quality": "low"}, "qwen-image-fast", 4),
        ({"quality": "high"}, "qwen-image", 50),
        ({"model": "qwen-image"}, "qwen-image", 50),
        ({"model": "qwen-image", "quality": "medium"}, "qwen-image-fast", 8),
        ({"model": "sdxl", "quality": "low"}, "sdxl", 15),
        ({"model": "sdxl", "quality": "low", "steps": 33}, "sdxl", 33),
        ({"image": DRAWN}, "qwen-image-edit-fast", 4),
        ({"image": DRAWN, "quality": "max"}, "qwen-image-edit", 100),
    ],
)
def test_quality_and_pictures_choose_the_row_and_its_steps(
    changes: dict[str, Any], model: str, steps: int
) -> None:
    request = request_of(**changes)
    assert (request.model, request.num_inference_steps) == (model, steps)
    row = catalog.find(model)
    assert row and (request.true_cfg_scale, request.guidance_scale) == (
        row.true_cfg_scale,
        row.guidance_scale,
    )


def test_files_are_named_by_their_hash_in_order_and_go_along_as_bytes(desk: Path) -> None:
    (desk / "a.safetensors").write_bytes(b"lora a")
    (desk / ".data/loras").mkdir(parents=True)
    (desk / ".data/loras/b.safetensors").write_bytes(b"lora b")
    for name in ("second", "first"):
        (desk / f"{name}.png").write_bytes(name.encode())
    options = Options(prompt="x", image="second.png, first.png", lora="a:0.8,b.safetensors:-0.5,a")
    request, files = build(options, TINY)
    assert [files[each.sha256] for each in request.references] == [b"second", b"first"]
    assert [(files[each.sha256], each.scale) for each in request.loras] == [
        *((b"lora a", 0.8), (b"lora b", -0.5), (b"lora a", 1.0))
    ]
    assert all(hashlib.sha256(content).hexdigest() == sha256 for sha256, content in files.items())
    assert request.references[0].url == (desk / "second.png").as_uri()


def test_a_model_that_paints_over_a_picture_takes_it_for_that() -> None:
    request = request_of(model="tiny-qwen", image=DRAWN)
    assert [each.role for each in request.references] == ["init"]


def test_a_style_is_a_house_style_a_file_or_words(desk: Path) -> None:
    keywords = tomllib.loads((ROOT / "styles/design/anime.toml").read_text())["keywords"]
    (desk / "mine.toml").write_text('keywords = "in chalk"')
    prompts = [request_of(style=style).prompt for style in ("design/anime", "mine.toml", "in ink", " ")]
    assert prompts == [f"a dragon, {keywords}", "a dragon, in chalk", "a dragon, in ink", "a dragon"]


def test_a_negative_prompt_brings_the_guidance_it_acts_through() -> None:
    assert request_of(TINY).true_cfg_scale == 1
    assert request_of(TINY, negative_prompt="fog").true_cfg_scale > 1
    assert request_of(model="sdxl", negative_prompt="fog").true_cfg_scale == 6
    with pytest.raises(engine.UnsupportedParameter):
        request_of(negative_prompt="fog")


def test_a_seed_is_drawn_unless_one_is_given() -> None:
    assert request_of(seed=5).seed == 5
    assert request_of().seed != request_of().seed


def test_too_many_pictures_are_refused_by_the_request() -> None:
    with pytest.raises(BadOption, match="references"):
        request_of(image=",".join([DRAWN] * 11))


def test_the_end_is_told_with_seconds_gpu_and_cost(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, asked = answering()
    assert generate(Options(prompt="a dragon", seed=5), run) == 0
    assert (desk / "test_output.png").read_bytes() == b"picture"
    said = capsys.readouterr()
    for part in (str(desk / "test_output.png"), "seed 5", "3.60 s on L40S", "$0.001950", "qwen-image-fast"):
        assert part in said.out
    assert said.err == "" and [task for task, _, _ in asked] == ["image"]


def test_a_gpu_without_a_price_costs_nobody_knows_what(
    desk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert generate(Options(prompt="a dragon"), answering(gpu=None)[0]) == 0
    assert "cost unknown" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("device", "gpu"),
    [
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA A100-SXM4-80GB", "A100-80GB"),
        ("NVIDIA A100-PCIE-40GB", "A100-40GB"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "RTX-PRO-6000"),
        ("NVIDIA A10", "A10"),
        ("NVIDIA L40", None),
        ("NVIDIA GeForce RTX 4090", None),
    ],
)
def test_a_device_is_priced_by_its_whole_name(device: str, gpu: str | None) -> None:
    assert commands.priced_gpu(device) == gpu


# ---------------------------------------------------------------- pictures


@pytest.fixture
def draw(desk: Path, drawn_here: commands.Runner) -> Callable[..., np.ndarray]:
    def drawn(prompt: str = CREATURE, **changes: Any) -> np.ndarray:
        assert generate(Options(prompt=prompt, **{**SMALL, **changes}), drawn_here, TINY) == 0
        return pixels(changes.get("out", "test_output.png"))

    return drawn


def test_the_picture_shows_what_was_asked_for(draw: Callable[..., np.ndarray]) -> None:
    seen = judge(Image.fromarray(draw().astype(np.uint8)))
    assert seen == {"body": "round", "color": "red", "hat": "blue", "view": "front", "scene": "beach"}


def test_the_same_seed_draws_the_same_file_at_the_asked_size(
    draw: Callable[..., np.ndarray], desk: Path
) -> None:
    first = draw(width=160, height=96)
    assert first.shape == (96, 160, 3)
    draw(width=160, height=96, out="again.png")
    assert (desk / "again.png").read_bytes() == (desk / "test_output.png").read_bytes()
    assert (draw(width=160, height=96, seed=8) != first).any()


@pytest.mark.parametrize(("name", "form"), [("a.jpg", "JPEG"), ("a.webp", "WEBP"), ("a.PNG", "PNG")])
def test_the_name_of_the_file_says_its_format(draw: Callable[..., np.ndarray], name: str, form: str) -> None:
    draw(out=name, quality="low")
    assert Image.open(name).format == form


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`")
def test_a_lora_acts_as_strongly_as_it_is_told(draw: Callable[..., np.ndarray]) -> None:
    plain, none, some = draw(), draw(lora=f"{SEPIA}:0"), draw(lora=f"{SEPIA}:1")
    assert (plain == none).all()
    # Sepia: far less blue than red, everywhere.
    assert (some[..., 0] - some[..., 2]).mean() > (plain[..., 0] - plain[..., 2]).mean() + 20
    assert (draw(lora=f"{SEPIA}:1,{FRAME}:1") != some).any()


def test_a_reference_is_kept_where_the_words_leave_it(draw: Callable[..., np.ndarray], desk: Path) -> None:
    draw(out="red.png")
    changed = draw("give the creature a yellow hat", image="red.png")
    seen = judge(Image.fromarray(changed.astype(np.uint8)))
    assert (seen["color"], seen["body"], seen["hat"]) == ("red", "round", "yellow")


def test_a_negative_prompt_changes_the_picture(draw: Callable[..., np.ndarray]) -> None:
    assert (draw(negative_prompt="a green square creature") != draw()).any()


# ---------------------------------------------------------------- the process


def command(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "modal_app.commands", *arguments],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_a_missing_prompt_is_the_parsers_business(tmp_path: Path) -> None:
    ended = command(tmp_path)
    assert ended.returncode == 2 and "--prompt" in ended.stderr


def test_the_command_of_the_manual_writes_its_picture(tmp_path: Path) -> None:
    ended = command(tmp_path, "--prompt", CREATURE, "--seed", "7")
    assert ended.returncode == 0, ended.stderr
    image = Image.open(tmp_path / "test_output.png")
    assert image.size == (1024, 1024) and judge(image)["color"] == "red"
    assert "on cpu" in ended.stdout and "$0.0000" in ended.stdout


def test_a_client_of_modal_needs_no_engine(tmp_path: Path) -> None:
    code = (
        "import sys, modal_app.commands;"
        "names = {'torch', 'diffusers', 'transformers', 'numpy', 'PIL', 'gateway', 'styles'};"
        "heavy = names & sys.modules.keys();"
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=120)
