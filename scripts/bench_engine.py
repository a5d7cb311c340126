"""What the engine adds to diffusers and what it saves, on the bundled model: part of ``make bench``.

    python -m scripts.bench_engine [--rounds 40]

Each comparison takes turns, picture by picture, in one process on one thread, and compares medians.  The
bare pipeline has its own copy of the parts, with the same short cuts in the VAE and nothing else of ours.
"""

import argparse
import hashlib
import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from diffusers import QwenImagePipeline

from modal_app import catalog, engine
from modal_app.contract import ImageRequest
from modal_app.engine import Item
from modal_app.engine.loras.attach import attached, backend_for
from modal_app.engine.qwen import QwenEngine
from modal_app.engine.qwen_vae import use_single_frame_short_cuts

LORAS = Path(__file__).parents[1] / "tests" / "data" / "loras"
STEPS = 12
PROMPT = "a red round creature with a blue hat, front view, on a beach"

Work = Callable[[], object]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=40, help="pictures a side")
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    ours, bare = _engine(), _bare()
    print(f"{'':<46} {'ours':>9} {'other':>9} {'ratio':>7}")
    _print("a picture: engine / bare pipeline", _overhead(ours, bare, rounds))
    _print("words said before / new words (text encoder)", _embedding(ours, rounds))
    _print("4 pictures together / 4 one by one", _batch(ours, rounds // 2))
    _print("switch to a loaded LoRA / load and unload", _switch(ours, bare, rounds // 2))


def _overhead(ours: QwenEngine, bare: QwenImagePipeline, rounds: int) -> tuple[float, float]:
    """Words are new every time, for both: the cache is not what is compared."""
    words = (f"{PROMPT}, number {n}" for n in itertools.count())

    def stock() -> object:
        generator = torch.Generator().manual_seed(7)
        settings: dict[str, Any] = {"num_inference_steps": STEPS, "true_cfg_scale": 1.0}
        return bare(prompt=next(words), width=96, height=96, generator=generator, **settings).images[0]

    return _medians(lambda: _run(ours, prompt=next(words)), stock, rounds)


def _embedding(ours: QwenEngine, rounds: int) -> tuple[float, float]:
    """A picture of one step, so that the words are a large part of it."""
    words = (f"{PROMPT}, once more {n}" for n in itertools.count())
    return _medians(
        lambda: _run(ours, num_inference_steps=1),
        lambda: _run(ours, num_inference_steps=1, prompt=next(words)),
        rounds,
    )


def _batch(ours: QwenEngine, rounds: int) -> tuple[float, float]:
    items = [Item(_request(seed=seed), {}, _unheard, _wanted) for seed in range(4)]
    return _medians(
        lambda: ours.run_batch(items), lambda: [_run(ours, seed=seed) for seed in range(4)], rounds
    )


def _switch(ours: QwenEngine, bare: QwenImagePipeline, rounds: int) -> tuple[float, float]:
    files = [LORAS / name / "pytorch_lora_weights.safetensors" for name in ("sepia", "frame")]
    uses = [(hashlib.sha256(path.read_bytes()).hexdigest(), path, 1.0) for path in files]
    backend, turn = backend_for(ours._words), itertools.cycle(uses)
    for use in uses:  # both are loaded once
        with attached(backend, [use]):
            pass

    def switch() -> None:
        with attached(backend, [next(turn)]):
            pass

    again = itertools.cycle(files)

    def load_and_unload() -> None:
        bare.load_lora_weights(next(again))
        bare.unload_lora_weights()

    return _medians(switch, load_and_unload, rounds)


def _medians(one: Work, other: Work, rounds: int) -> tuple[float, float]:
    """Median seconds of each, taken in turns after a round to warm up."""
    one(), other()
    taken: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for work, seconds in zip((one, other), taken, strict=True):
            seconds.extend(_timed(work))
    return statistics.median(taken[0]), statistics.median(taken[1])


def _timed(work: Work) -> Iterator[float]:
    started = time.perf_counter()
    work()
    yield time.perf_counter() - started


def _print(what: str, medians: tuple[float, float]) -> None:
    one, other = medians
    print(f"{what:<46} {one * 1000:>6.1f} ms {other * 1000:>6.1f} ms {one / other:>7.3f}", flush=True)


def _engine() -> QwenEngine:
    loaded = engine.load(_row())
    assert isinstance(loaded, QwenEngine)
    return loaded


def _bare() -> QwenImagePipeline:
    folder = engine.checkpoint_folder(_row())
    pipeline = QwenImagePipeline.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    use_single_frame_short_cuts(pipeline.vae)
    return pipeline


def _row() -> catalog.Model:
    row = catalog.find("tiny-qwen")
    assert row is not None
    return catalog.as_variant(row, catalog.choose_variant(row, None))


def _run(ours: QwenEngine, **changes: Any) -> object:
    return ours.run(_request(**changes), {}, _unheard, _wanted)


def _request(**changes: Any) -> ImageRequest:
    values = {"prompt": PROMPT, "width": 96, "height": 96, "seed": 7, "num_inference_steps": STEPS}
    return ImageRequest(model="tiny-qwen", **{**values, **changes})


def _unheard(step: int, steps: int) -> None:
    """Nobody follows a benchmark."""


def _wanted() -> bool:
    return False


if __name__ == "__main__":
    main()
