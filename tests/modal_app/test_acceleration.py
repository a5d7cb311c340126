"""What makes runs faster or models smaller: it may change a picture a little, its meaning never."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from modal_app import catalog, engine
from modal_app.engine import Engine, Options, qwen
from modal_app.engine.acceleration import attention_backend
from tests.judge import judge
from tests.modal_app.conftest import CREATURE, load, run

FACTS = {"body": "round", "color": "red", "hat": "blue", "view": "front", "scene": "beach"}


@pytest.fixture
def eager() -> Iterator[None]:
    """Skips as many steps as it can."""
    before = engine.options
    engine.options = Options(step_cache_threshold=0.15)
    yield
    engine.options = before


@pytest.mark.parametrize(
    ("capability", "kernels", "backend"),
    [
        (None, True, "native"),
        ((8, 0), True, "native"),
        ((8, 9), True, "native"),
        ((9, 0), True, "_flash_3_hub"),
        ((9, 0), False, "native"),
        ((12, 0), True, "native"),
    ],
)
def test_attention_is_chosen_by_the_gpu(
    capability: tuple[int, int] | None, kernels: bool, backend: str
) -> None:
    assert attention_backend(capability, kernels=kernels) == backend


def test_few_steps_are_never_skipped(tiny: Engine, eager: None) -> None:
    with_cache = run(tiny, num_inference_steps=12).pictures[0].image.tobytes()
    engine.options = Options()
    assert run(tiny, num_inference_steps=12).pictures[0].image.tobytes() == with_cache


def test_skipped_steps_keep_the_meaning_and_leave_nothing_behind(tiny: Engine, eager: None) -> None:
    exact = Options()
    calls: list[int] = []
    last = tiny._words.transformer.transformer_blocks[-1].attn  # type: ignore[attr-defined]
    handle = last.register_forward_hook(lambda *_: calls.append(1))
    cached = [run(tiny, num_inference_steps=30).pictures[0].image for _ in range(2)]
    handle.remove()
    assert len(calls) < 60
    assert judge(cached[0]) == FACTS
    assert cached[0].tobytes() == cached[1].tobytes()
    engine.options = exact
    before = run(tiny, num_inference_steps=30).pictures[0].image.tobytes()
    engine.options = Options(step_cache_threshold=0.15)
    run(tiny, num_inference_steps=30)
    engine.options = exact
    assert run(tiny, num_inference_steps=30).pictures[0].image.tobytes() == before


def test_weights_of_8_bits_draw_the_same_facts_in_a_quarter_of_the_memory(tiny: Engine) -> None:
    row = catalog.find("tiny-qwen")
    assert row
    as_fp8 = replace(row, variants=(replace(row.variants[0], quant="fp8"),))
    small = qwen.load(catalog.as_variant(as_fp8, as_fp8.variants[0]))
    weight = small._words.transformer.transformer_blocks[0].attn.to_q.weight
    assert weight.dtype == torch.float8_e4m3fn
    drawn = run(small, prompt=CREATURE, num_inference_steps=12)
    assert judge(drawn.pictures[0].image) == FACTS
    assert drawn.fingerprint["quant"] == "fp8"


def test_an_engine_is_loaded_in_the_weights_that_were_insisted_on() -> None:
    before = engine.options
    engine.options = Options(quant="bf16")
    try:
        assert run(load("tiny-qwen")).fingerprint["quant"] == "bf16"
        engine.options = Options(quant="svdq-int4-r32")
        with pytest.raises(engine.LoadFailed, match="svdq-int4-r32"):
            load("tiny-qwen")
    finally:
        engine.options = before
