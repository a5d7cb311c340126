"""Training the tiny model: it repeats, it can be stopped, and what it leaves can be loaded."""

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import QwenImagePipeline
from diffusers.models.autoencoders import autoencoder_kl_qwenimage as vae_module
from torch import nn
from transformers import Qwen2Tokenizer

from scripts.tiny import captions, creatures, drawing, latents, loop, parts, pipelines
from scripts.tiny.loop import Dice, Stage, adamw, fit, rate_factor
from scripts.tiny.run import Run, SettingsDiffer
from scripts.tiny.shortcuts import shortcuts
from scripts.tiny.slots import SLOTS, slot_targets
from scripts.tiny.tokenizer import new_tokenizer
from scripts.train_tiny import STAGES, train
from tests.judge import judge

SHIPPED = Path(__file__).parents[2] / "modal_app/engine/tiny"
SMOKE = 0.001
"""Two to seven steps a stage."""


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A complete run of a few steps."""
    run = Run(out=tmp_path_factory.mktemp("tiny") / "run", scale=SMOKE)
    train(run)
    return run


def weights(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*.safetensors"))}


# ---------------------------------------------------------------- refusals


def test_a_folder_of_another_run_is_refused(tmp_path: Path) -> None:
    run = Run(out=tmp_path, seed=1)
    run.claim()
    run.claim()
    with pytest.raises(SettingsDiffer):
        replace(run, seed=2).claim()


def test_a_diverged_run_stops_instead_of_saving_nonsense(tmp_path: Path) -> None:
    stage = line_stage()
    broken = replace(stage, loss=lambda step, dice: (stage.parameters[0].sum() / 0, {}))
    with pytest.raises(RuntimeError, match="non-finite"):
        fit(broken, steps=3, seed=0, checkpoint=tmp_path / "c.pt", report=ignore)


# ---------------------------------------------------------------- the loop


def line_stage() -> Stage:
    torch.manual_seed(0)
    line = nn.Linear(3, 1)
    parameters = list(line.parameters())

    def loss(_: int, dice: Dice) -> tuple[torch.Tensor, dict[str, float]]:
        x = dice.normal(16, 3)
        value = (line(x) - x.sum(1, keepdim=True) - dice.rng.random()).square().mean()
        return value, {"loss": value.item()}

    return Stage(
        name="line",
        parameters=parameters,
        optimizers=[adamw(parameters)],
        loss=loss,
        rate=0.1,
        warmup=2,
        decay=0.9,
    )


def ignore(step: int, numbers: dict[str, float]) -> None:
    pass


def test_a_killed_run_continues_to_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY", 4)
    whole, killed, continued = line_stage(), line_stage(), line_stage()
    fit(whole, steps=20, seed=0, checkpoint=tmp_path / "whole.pt", report=ignore)

    def kill(step: int, numbers: dict[str, float]) -> None:
        if step == 10:
            raise KeyboardInterrupt

    steps: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        fit(killed, steps=20, seed=0, checkpoint=tmp_path / "killed.pt", report=kill)
    fit(
        continued,
        steps=20,
        seed=0,
        checkpoint=tmp_path / "killed.pt",
        report=lambda step, _: steps.append(step),
    )
    assert steps[0] == 9  # eight were kept
    for one, other in zip(whole.parameters, continued.parameters, strict=True):
        assert torch.equal(one, other)


def test_the_loop_learns(tmp_path: Path) -> None:
    losses: list[float] = []
    fit(
        line_stage(),
        steps=100,
        seed=0,
        checkpoint=tmp_path / "c.pt",
        report=lambda _, numbers: losses.append(numbers["loss"]),
    )
    assert sum(losses[-10:]) < 0.3 * sum(losses[:10])


def test_the_learning_rate_rises_then_falls_to_its_floor() -> None:
    factors = [rate_factor(step, 100, 10) for step in range(100)]
    assert factors[:10] == sorted(factors[:10])
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert loop.RATE_FLOOR <= factors[-1] < loop.RATE_FLOOR + 0.001


def test_every_step_and_seed_has_its_own_chance() -> None:
    draws = [Dice(*name).normal(1).item() for name in ((0, "vae", 0), (0, "vae", 1), (1, "vae", 0))]
    assert len(set(draws)) == 3
    assert Dice(0, "vae", 0).normal(1).item() == draws[0]


# ---------------------------------------------------------------- the pieces


def test_the_tokenizer_is_the_shipped_one() -> None:
    shipped, fresh = Qwen2Tokenizer.from_pretrained(SHIPPED / "tokenizer"), new_tokenizer()
    assert fresh.get_vocab() == shipped.get_vocab()
    text = captions.plain_caption(creatures.random_picture(random.Random(0)))
    assert fresh(text).input_ids == shipped(text).input_ids


def test_slots_left_open_and_second_creatures_have_their_class() -> None:
    rng = random.Random(1)
    first, second = creatures.random_picture(rng), creatures.random_picture(rng)
    sizes = dict(zip(SLOTS, map(len, SLOTS.values()), strict=True))
    single = dict(zip(SLOTS, slot_targets(first, left_open={"color"}), strict=True))
    assert [name for name in SLOTS if single[name] == sizes[name]] == ["color", "body2", "color2", "hat2"]
    _, both = captions.pair(rng, first, second)
    paired = dict(zip(SLOTS, slot_targets(both), strict=True))
    assert all(paired[name] < sizes[name] for name in SLOTS)


def test_the_short_cuts_change_no_picture_and_are_put_back() -> None:
    torch.manual_seed(0)
    vae, original = parts.new_vae().eval(), vae_module.QwenImageCausalConv3d.forward
    frames = latents.to_tensor([drawing.draw(creatures.random_picture(random.Random(2)))])
    with torch.no_grad():
        slow = vae.decode(latents.encode(vae, frames)).sample
        with shortcuts():
            fast = vae.decode(latents.encode(vae, frames)).sample
    assert torch.allclose(fast, slow, atol=1e-4)
    assert vae_module.QwenImageCausalConv3d.forward is original


# ---------------------------------------------------------------- whole runs


def test_a_smoke_run_leaves_a_checkpoint_that_draws(smoke: Run) -> None:
    pipeline = QwenImagePipeline.from_pretrained(pipelines.assemble(smoke), dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    settings = {"width": 96, "height": 96, "num_inference_steps": 2, "true_cfg_scale": 1.0}
    with shortcuts():
        image = pipeline(prompt="a red round creature", **settings).images[0]
    assert image.size == (96, 96)


def test_finished_stages_are_skipped(smoke: Run) -> None:
    before = weights(smoke.out / "parts")
    train(smoke)
    assert weights(smoke.out / "parts") == before
    assert (smoke.out / "log.jsonl").read_text().count('"skipped"') == len(STAGES)


def test_two_runs_have_the_same_weights(smoke: Run, tmp_path: Path) -> None:
    again = replace(smoke, out=tmp_path / "again")
    train(again)
    for stage in STAGES:
        assert weights(again.part(stage)) == weights(smoke.part(stage)), stage


# ---------------------------------------------------------------- the shipped weights


def test_the_shipped_weights_draw_what_is_asked_for() -> None:
    rng = random.Random(14)
    wanted = [creatures.random_picture(rng) for _ in range(16)]
    with shortcuts():
        images = pipelines.load(SHIPPED).draw([captions.plain_caption(picture) for picture in wanted])
    right = sum(judge(image) == picture.facts for image, picture in zip(images, wanted, strict=True))
    assert right >= 15


def test_the_shipped_weights_follow_a_reference_and_describe_it() -> None:
    rng = random.Random(15)
    source = creatures.random_picture(rng)
    text, wanted = captions.edit(rng, source, "scene")
    with shortcuts():
        models = pipelines.load(SHIPPED)
        assert judge(models.change([drawing.draw(source)], text, seed=0)) == wanted.facts
        answer = models.ask(drawing.draw(source), captions.JSON_QUESTION)
    assert answer == captions.json_answer(source)
