"""Qwen-Image at full size with random weights on this machine's GPU: nothing is downloaded.

    python -m scripts.bench_gpu [--size 1024] [--repeats 3] [--no-compile]
    python -m scripts.bench_gpu --smoke          a few small layers on the CPU: only that it runs

Times the steps and the decoding of a picture: diffusers' pipeline as it is (bf16, 50 steps, guidance), then
our engine at its qualities, eager and compiled.  Embeddings of the prompts are random too, so the text
encoder, about 0.1 s a picture, is not part of it.  TFLOP/s are counted by torch on one forward pass and set
against the largest matrix product that this GPU was seen to do in the same run.

Random weights take the time that trained ones take; what they draw is noise.
"""

import argparse
import gc
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import (
    AutoencoderKLQwenImage,
    FlowMatchEulerDiscreteScheduler,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
)
from torch.utils.flop_counter import FlopCounterMode

from modal_app import catalog, engine
from modal_app.contract import ImageRequest
from modal_app.engine import Options
from modal_app.engine.qwen import QwenEngine

PROMPT_TOKENS = 128
CEILING_SIDE = 8192
ROWS = (
    ("high", "qwen-image", 50, 4.0),
    ("medium", "qwen-image-fast", 8, 1.0),
    ("low", "qwen-image-fast", 4, 1.0),
)
"""(quality, row of the catalogue, steps, true_cfg_scale)"""


@dataclass(frozen=True)
class Bench:
    """Where and how large."""

    device: torch.device
    dtype: torch.dtype
    side: int
    repeats: int
    layers: int
    heads: int
    width: int
    """Of the text encoder."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=1024, help="pixels a side")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--smoke", action="store_true")
    options = parser.parse_args()
    if not options.smoke and not torch.cuda.is_available():
        raise SystemExit("bench_gpu: no CUDA GPU here; --smoke only checks that the script runs")
    diffusers.utils.logging.set_verbosity_error()
    bench = _smoke() if options.smoke else _full(options.size, options.repeats)
    print(f"{_hardware(bench)}, torch {torch.__version__}, {bench.side} x {bench.side}, {bench.dtype}")
    ceiling = _ceiling(bench)
    print(f"largest matrix product: {ceiling:.1f} TFLOP/s\n")
    print("| what | s a step | s a picture | TFLOP/s | of the ceiling | peak GB |\n|---|---|---|---|---|---|")
    pipeline = _pipeline(bench)
    flops = _flops_of_a_forward(pipeline, bench)
    _print("diffusers, 50 steps, guidance", 50, 2, flops, ceiling, bench, _stock(pipeline, bench))
    for compiled in (False,) if options.no_compile or options.smoke else (False, True):
        engine.options = Options(compile=compiled)
        for quality, row, steps, scale in ROWS:
            name = f"ours, {quality}{', compiled' if compiled else ''}"
            forwards = 2 if scale > 1 else 1
            work = _ours(pipeline, bench, row, steps, scale)
            _print(name, steps, forwards, flops, ceiling, bench, work)


def _full(side: int, repeats: int) -> Bench:
    return Bench(
        device=torch.device("cuda"),
        dtype=torch.bfloat16,
        side=side,
        repeats=repeats,
        layers=60,
        heads=24,
        width=3584,
    )


def _smoke() -> Bench:
    return Bench(torch.device("cpu"), torch.float32, side=64, repeats=1, layers=2, heads=2, width=32)


def _hardware(bench: Bench) -> str:
    return torch.cuda.get_device_name() if bench.device.type == "cuda" else platform.processor() or "CPU"


def _pipeline(bench: Bench) -> QwenImagePipeline:
    """The real architecture, its weights drawn at random on the device."""
    torch.manual_seed(0)
    with torch.device(bench.device):
        transformer = QwenImageTransformer2DModel(
            num_layers=bench.layers,
            num_attention_heads=bench.heads,
            attention_head_dim=128,
            joint_attention_dim=bench.width,
            axes_dims_rope=(16, 56, 56),
        ).to(bench.dtype)
        vae = AutoencoderKLQwenImage().to(bench.dtype)
    return QwenImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=vae.to(bench.device),
        text_encoder=None,
        tokenizer=None,
        transformer=transformer.to(bench.device),
    )


def _embeds(bench: Bench, seed: int) -> torch.Tensor:
    """[1, tokens, width], random."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, PROMPT_TOKENS, bench.width, generator=generator).to(bench.device, bench.dtype)


def _stock(pipeline: QwenImagePipeline, bench: Bench) -> Callable[[], object]:
    pipeline.set_progress_bar_config(disable=True)

    def draw() -> object:
        return pipeline(
            prompt_embeds=_embeds(bench, 0),
            negative_prompt_embeds=_embeds(bench, 1),
            true_cfg_scale=4.0,
            width=bench.side,
            height=bench.side,
            num_inference_steps=50,
            generator=torch.Generator("cpu").manual_seed(0),
        )

    return draw


def _ours(
    pipeline: QwenImagePipeline, bench: Bench, row_id: str, steps: int, scale: float
) -> Callable[[], object]:
    """Our engine over the same parts, its cache filled with the random embeddings."""
    row = catalog.find(row_id)
    assert row is not None
    # Without what would need more weights: the language tasks, and Lightning's LoRA.
    row = replace(row, native_sizes=(), language=None, step_loras={})
    with tempfile.TemporaryDirectory() as nothing:
        ours = QwenEngine(row, pipeline, None, Path(nothing), "none")
    for seed, prompt in enumerate(("a prompt", " ")):
        ours.remember(prompt, _embeds(bench, seed))
    request = ImageRequest(
        model=row_id,
        prompt="a prompt",
        width=bench.side,
        height=bench.side,
        seed=0,
        num_inference_steps=steps,
        true_cfg_scale=scale,
    )
    return lambda: ours.run(request, {}, lambda step, steps: None, lambda: False)


def _ceiling(bench: Bench) -> float:
    """TFLOP/s of a large product of square matrices."""
    side = 512 if bench.device.type == "cpu" else CEILING_SIDE
    left = torch.randn(side, side, device=bench.device, dtype=bench.dtype)
    seconds = _median(bench, lambda: left @ left, repeats=10)
    return 2 * side**3 / seconds / 1e12


def _flops_of_a_forward(pipeline: QwenImagePipeline, bench: Bench) -> float:
    tokens = bench.side // 16
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        pipeline.transformer(
            hidden_states=torch.randn(1, tokens * tokens, 64, device=bench.device, dtype=bench.dtype),
            timestep=torch.ones(1, device=bench.device, dtype=bench.dtype),
            encoder_hidden_states=_embeds(bench, 0),
            img_shapes=[[(1, tokens, tokens)]],
        )
    return float(counter.get_total_flops())


def _print(
    name: str,
    steps: int,
    forwards: int,
    flops: float,
    ceiling: float,
    bench: Bench,
    work: Callable[[], object],
) -> None:
    _forget_peak(bench)
    seconds = _median(bench, work, bench.repeats)
    step = seconds / steps
    reached = flops * forwards / step / 1e12
    peak = torch.cuda.max_memory_allocated() / 1e9 if bench.device.type == "cuda" else 0.0
    print(
        f"| {name} | {step:.4f} | {seconds:.2f} | {reached:.1f} | {reached / ceiling:.0%} | {peak:.1f} |",
        flush=True,
    )


def _forget_peak(bench: Bench) -> None:
    gc.collect()
    if bench.device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _median(bench: Bench, work: Callable[[], Any], repeats: int) -> float:
    """Seconds, the device's own work waited for; after one run to warm up, or to compile."""
    taken = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        work()
        if bench.device.type == "cuda":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken[1:])


if __name__ == "__main__":
    main()
