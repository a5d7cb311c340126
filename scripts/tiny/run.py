"""One training run: its budgets in steps, its folder, its progress and what makes it repeatable."""

import json
import os
import random
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

STEPS = {"vae": 6500, "text_encoder": 900, "transformer": 2800, "decoder": 4000}
"""Steps of every stage at scale 1, in the order of training."""

SECONDS_PER_STEP = {"vae": 0.125, "text_encoder": 0.53, "transformer": 0.96, "decoder": 0.095}
"""Measured on one CPU thread; only the estimate of the time left depends on them."""

REPORT_EVERY = 50
LEAST_STEPS, LEAST_EXAMPLES = 2, 20

Numbers = dict[str, float]


class SettingsDiffer(Exception):
    """The folder holds a run with other settings: take another folder, or remove it."""


class Part(Protocol):
    def save_pretrained(self, folder: Path) -> Any: ...


@dataclass(frozen=True, kw_only=True)
class Run:
    """Everything that decides the weights, and the folder they go to."""

    out: Path
    seed: int = 0
    scale: float = 1.0
    threads: int = 1
    device: str = "cpu"

    def steps(self, stage: str) -> int:
        return max(LEAST_STEPS, round(STEPS[stage] * self.scale))

    def count(self, examples: int) -> int:
        """How many examples to draw: fewer for a smoke run, never more than at scale 1."""
        return max(LEAST_EXAMPLES, round(examples * min(1.0, self.scale)))

    def rng(self, purpose: str) -> random.Random:
        return random.Random(f"{self.seed}/{purpose}")

    def part(self, stage: str) -> Path:
        """Folder of a finished part; it exists only when the part is complete."""
        return self.out / "parts" / stage

    def checkpoint(self, stage: str) -> Path:
        return self.out / "checkpoints" / f"{stage}.pt"

    def claim(self) -> None:
        """Start a run in the folder, or continue the one that is there if its settings agree."""
        settings = {**asdict(self), "out": None, "torch": torch.__version__}
        path = self.out / "run.json"
        if not path.exists():
            self.out.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(settings, indent=1) + "\n")
        elif (found := json.loads(path.read_text())) != settings:
            raise SettingsDiffer(f"{self.out} holds a run with {found}, not {settings}")

    def finish(self, stage: str, part: Part) -> None:
        """Save a part under a passing name, then rename it: a killed run leaves no half part."""
        partial = self.out / "partial" / stage
        shutil.rmtree(partial, ignore_errors=True)
        part.save_pretrained(partial)
        self.part(stage).parent.mkdir(parents=True, exist_ok=True)
        partial.rename(self.part(stage))
        self.checkpoint(stage).unlink(missing_ok=True)

    def log(self, stage: str, **values: Any) -> None:
        """One JSON line on the terminal and in ``log.jsonl``."""
        rounded = {k: round(v, 4) if isinstance(v, float) else v for k, v in values.items()}
        line = json.dumps({"stage": stage, **rounded})
        print(line, flush=True)
        with (self.out / "log.jsonl").open("a") as file:
            file.write(line + "\n")

    def reporter(self, stage: str) -> Callable[[int, Numbers], None]:
        return _Progress(self, stage).report


class _Progress:
    """Means of the numbers of a stage, and an estimate of the time that all stages still need."""

    def __init__(self, run: Run, stage: str) -> None:
        self.run, self.stage = run, stage
        self.started, self.taken = time.monotonic(), 0
        self.recent: defaultdict[str, list[float]] = defaultdict(list)

    def report(self, step: int, numbers: Numbers) -> None:
        self.taken += 1
        for name, value in numbers.items():
            self.recent[name].append(value)
        if step % REPORT_EVERY == 0 or step == self.run.steps(self.stage):
            self._write(step)

    def _write(self, step: int) -> None:
        means = {name: sum(values) / len(values) for name, values in self.recent.items()}
        left = round(self._seconds_left(step) / 60, 1)
        self.run.log(self.stage, step=step, of=self.run.steps(self.stage), minutes_left=left, **means)
        self.recent.clear()

    def _seconds_left(self, step: int) -> float:
        pace = (time.monotonic() - self.started) / self.taken
        slowness = pace / SECONDS_PER_STEP[self.stage]
        stages = list(STEPS)
        later = stages[stages.index(self.stage) + 1 :]
        ahead = sum(self.run.steps(stage) * SECONDS_PER_STEP[stage] for stage in later)
        return (self.run.steps(self.stage) - step) * pace + slowness * ahead


@contextmanager
def repeatable(threads: int, device: str) -> Iterator[None]:
    """Deterministic kernels and a fixed number of threads; a sum depends on how it is split."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # before the first use of the GPU
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(threads)
    # A few CUDA kernels have no deterministic version: there, warn and go on.
    torch.use_deterministic_algorithms(True, warn_only=device != "cpu")
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1])
