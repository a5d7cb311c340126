"""Several pictures in one run: each with the bytes it would have alone."""

from typing import Any

import pytest
import torch

from modal_app.engine import BatchEngine, Canceled, Drawing, Engine, Item
from modal_app.engine.caches import TensorCache
from tests.modal_app.conftest import image_request, run

PROMPTS = [
    "a red round creature, front view, on a beach",
    "a blue round creature, front view, on a beach",
    "a yellow pointy creature with a red hat at night",
    "a green square creature",
]


def bytes_of(drawing: Drawing | Canceled) -> list[bytes]:
    assert isinstance(drawing, Drawing)
    return [picture.image.tobytes() for picture in drawing.pictures]


def item(cancelled: Any = lambda: False, on_step: Any = lambda step, steps: None, **changes: Any) -> Item:
    return Item(image_request(**changes), {}, on_step, cancelled)


@pytest.fixture
def batch(tiny: Engine) -> BatchEngine:
    assert isinstance(tiny, BatchEngine)
    return tiny


def test_what_differs_in_more_than_words_and_seed_does_not_run_together(batch: BatchEngine) -> None:
    one = batch.batch_key(image_request())
    assert one == batch.batch_key(image_request(prompt="another", seed=9, num_images=2))
    sha256 = "0" * 64
    for changes in (
        {"num_inference_steps": 7},
        {"width": 128},
        {"true_cfg_scale": 2.0},
        {"loras": [{"url": "u", "sha256": sha256}]},
    ):
        assert batch.batch_key(image_request(**changes)) != one
    reference = {"url": "u", "sha256": sha256, "role": "init"}
    assert batch.batch_key(image_request(references=[reference])) is None


def test_four_requests_at_once_equal_four_alone(batch: BatchEngine) -> None:
    asked = [{"prompt": prompt, "seed": 10 * n, "num_images": 1 + n % 2} for n, prompt in enumerate(PROMPTS)]
    together = batch.run_batch([item(**changes) for changes in asked])
    assert [bytes_of(drawing) for drawing in together] == [
        bytes_of(run(batch, **changes)) for changes in asked
    ]


def test_guidance_keeps_batch_mates_apart_too(batch: BatchEngine) -> None:
    asked = [{"prompt": p, "true_cfg_scale": 2.5, "negative_prompt": "a hat"} for p in PROMPTS[:2]]
    together = batch.run_batch([item(**changes) for changes in asked])
    assert [bytes_of(drawing) for drawing in together] == [
        bytes_of(run(batch, **changes)) for changes in asked
    ]


def test_pictures_of_one_request_equal_runs_with_their_seeds(tiny: Engine) -> None:
    together = bytes_of(run(tiny, num_images=6, seed=20))
    assert together == [bytes_of(run(tiny, seed=20 + n))[0] for n in range(6)]


def test_a_canceled_batch_mate_is_dropped_and_the_others_stay(batch: BatchEngine) -> None:
    steps: list[int] = []
    kept, dropped = batch.run_batch(
        [item(seed=1), item(cancelled=lambda: len(steps) >= 3, on_step=lambda s, n: steps.append(s), seed=2)]
    )
    assert isinstance(dropped, Canceled)
    assert bytes_of(kept) == bytes_of(run(batch, seed=1))


@pytest.mark.parametrize("first", [True, False])
def test_a_batch_mate_that_nobody_wants_from_the_start_takes_no_other_with_it(
    batch: BatchEngine, first: bool
) -> None:
    items = [item(cancelled=lambda: True, seed=2), item(seed=1)]
    results = batch.run_batch(items if first else items[::-1])
    dropped, kept = results if first else results[::-1]
    assert isinstance(dropped, Canceled)
    assert bytes_of(kept) == bytes_of(run(batch, seed=1))


def test_a_cancel_after_the_last_step_takes_no_other_with_it(batch: BatchEngine) -> None:
    asked: list[int] = []

    def late() -> bool:
        asked.append(1)
        return len(asked) > 8  # at the start, before the words, at each of six steps; then at the decoding

    dropped, kept = batch.run_batch([item(cancelled=late, seed=2), item(seed=1)])
    assert isinstance(dropped, Canceled)
    assert bytes_of(kept) == bytes_of(run(batch, seed=1))


def test_a_batch_that_nobody_wants_any_more_ends(batch: BatchEngine) -> None:
    steps: list[int] = []
    gone = batch.run_batch(
        [item(cancelled=lambda: bool(steps), on_step=lambda s, n: steps.append(s), seed=n) for n in (1, 2)]
    )
    assert [type(result) for result in gone] == [Canceled, Canceled]
    assert len(steps) == 2


def test_every_request_hears_of_its_own_steps(batch: BatchEngine) -> None:
    heard: dict[int, list[tuple[int, int]]] = {0: [], 1: []}
    batch.run_batch(
        [
            item(on_step=lambda s, n: heard[0].append((s, n)), prompt=PROMPTS[0]),
            item(on_step=lambda s, n: heard[1].append((s, n)), prompt=PROMPTS[1], num_images=3),
        ]
    )
    assert heard[0] == [(step, 6) for step in range(1, 7)]
    assert heard[1][-1] == (18, 18)
    assert [step for step, _ in heard[1]] == sorted(step for step, _ in heard[1])


def test_the_same_words_are_encoded_once(batch: BatchEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    words = batch._words  # type: ignore[attr-defined]
    asked: list[int] = []
    inner = words.text_encoder.forward
    monkeypatch.setattr(words.text_encoder, "forward", lambda *a, **k: asked.append(1) or inner(*a, **k))
    for seed in range(3):
        run(batch, prompt="words that nobody has said before", seed=seed)
    assert len(asked) == 1


def test_a_cache_keeps_within_its_bytes_and_drops_what_was_used_longest_ago() -> None:
    cache, made = TensorCache(budget_bytes=800), []

    def get(key: str, size: int = 100) -> torch.Tensor:
        return cache.get(key, torch.device("cpu"), lambda: (made.append(key) or torch.zeros(size),))[0]

    for key in ("a", "b", "a", "c", "a", "b"):
        get(key)
    assert made == ["a", "b", "c", "b"]
    assert len(get("too large", 10_000)) == 10_000
    get("a")
    assert made[-1] == "a"
