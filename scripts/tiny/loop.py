"""The loop that all stages share.

The budget is a number of steps, the learning rate follows from step / steps, and every step draws
its chance from a seed of its own.  So a run can be killed and continued, and ends with the same
weights as one that was left alone.
"""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from scripts.tiny.run import Numbers

CHECKPOINT_EVERY = 200
RATE_FLOOR = 0.02
"""Share of the learning rate that is left at the end of the cosine."""


class Dice:
    """The chance of one step, drawn on the CPU so that every device sees the same examples."""

    def __init__(self, *name: object) -> None:
        self.rng = random.Random("/".join(map(str, name)))
        self._generator = torch.Generator().manual_seed(self.rng.getrandbits(63))

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self._generator)

    def uniform(self, *shape: int) -> Tensor:
        return torch.rand(*shape, generator=self._generator)

    def rows(self, total: int, count: int) -> Tensor:
        return torch.randint(total, (count,), generator=self._generator)

    def normal_like(self, tensor: Tensor) -> Tensor:
        return self.normal(*tensor.shape).to(tensor.device)


@dataclass(kw_only=True)
class Stage:
    """What one stage trains, and the loss of a step."""

    name: str
    parameters: list[nn.Parameter]
    optimizers: list[torch.optim.Optimizer]
    loss: Callable[[int, Dice], tuple[Tensor, Numbers]]
    """(step, dice) -> (scalar to descend, numbers to report)."""
    rate: float
    warmup: int
    decay: float
    """Of the moving average, which becomes the result."""


def adamw(parameters: list[nn.Parameter], weight_decay: float = 0.0) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, weight_decay=weight_decay, betas=(0.9, 0.98))


def fit(
    stage: Stage, *, steps: int, seed: int, checkpoint: Path, report: Callable[[int, Numbers], None]
) -> None:
    """Train the parameters in place; they end as their moving average."""
    average = Average(stage.parameters, stage.decay)
    for step in range(_restored(checkpoint, stage, average), steps):
        loss, numbers = stage.loss(step, Dice(seed, stage.name, step))
        _descend(stage, loss, stage.rate * rate_factor(step, steps, stage.warmup))
        average.update(step)
        report(step + 1, numbers)
        if (step + 1) % CHECKPOINT_EVERY == 0:
            _save(checkpoint, stage, average, step + 1)
    average.apply()


def rate_factor(step: int, steps: int, warmup: int) -> float:
    """A linear start of ``warmup`` steps, then half a cosine down to the floor."""
    cosine = 0.5 * (1 + math.cos(math.pi * step / steps))
    return min(1.0, (step + 1) / warmup) * (RATE_FLOOR + (1 - RATE_FLOOR) * cosine)


def _descend(stage: Stage, loss: Tensor, rate: float) -> None:
    for optimizer in stage.optimizers:
        optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(stage.parameters, 1.0, error_if_nonfinite=True)
    for optimizer in stage.optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()


class Average:
    """Exponential moving average of parameters; early steps count less long."""

    def __init__(self, parameters: list[nn.Parameter], decay: float) -> None:
        self.parameters, self.decay = parameters, decay
        self.values = [p.detach().clone() for p in parameters]

    @torch.no_grad()
    def update(self, step: int) -> None:
        decay = min(self.decay, (2 + step) / (11 + step))
        torch._foreach_lerp_(self.values, [p.detach() for p in self.parameters], 1 - decay)

    @torch.no_grad()
    def apply(self) -> None:
        for parameter, value in zip(self.parameters, self.values, strict=True):
            parameter.copy_(value)


# ---------------------------------------------------------------- checkpoints


def _save(path: Path, stage: Stage, average: Average, step: int) -> None:
    state = {
        "step": step,
        "parameters": [p.detach() for p in stage.parameters],
        "average": average.values,
        "optimizers": [optimizer.state_dict() for optimizer in stage.optimizers],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)


@torch.no_grad()
def _restored(path: Path, stage: Stage, average: Average) -> int:
    """Steps that the checkpoint has behind it; 0 without one."""
    if not path.exists():
        return 0
    state = torch.load(path, map_location="cpu", weights_only=True)
    targets = [*stage.parameters, *average.values]
    for target, value in zip(targets, state["parameters"] + state["average"], strict=True):
        target.copy_(value)
    for optimizer, values in zip(stage.optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(values)
    return int(state["step"])
