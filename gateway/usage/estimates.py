"""How long a job will take, from calls like it: pure functions.

A call of the same model on the same GPU is alike when it took the same passes, at the same size, with as
many references; enough of those are measured by themselves.  Else every call of the model counts, in
proportion to its pictures, passes and pixels; and before any was measured, the catalogue's figure does.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from modal_app import catalog
from modal_app.catalog import Model

ENOUGH = 5
"""Calls that are needed before a median of theirs is believed."""
RESERVE_FACTOR, RESERVE_SECONDS = 2.0, 3.0
"""A job reserves its high estimate times the one plus the other.  Where a budget has to hold, its calls are
stopped at three quarters of that (``claim_queued_jobs``): the rest is for the step in progress."""
CATALOGUE_LOW, CATALOGUE_HIGH = 0.5, 2.0
"""What the catalogue's figure is multiplied by where nothing was measured: a guess, as the figure is."""
LANGUAGE_SECONDS = 5.0
"""Of a language task that was never measured: a guess, and no more than a picture of the model takes."""

Basis = Literal["measured", "scaled", "catalogue"]


@dataclass(frozen=True)
class Work:
    """What a call asks of the GPU."""

    model: Model
    width: int
    height: int
    num_images: int = 1
    steps: int = 1
    true_cfg_scale: float = 1.0
    references: int = 0
    task: str = "image"
    before: tuple[str, ...] = ()
    """Language tasks of the same model beside it, or all there is where no picture is drawn."""

    @property
    def passes(self) -> int:
        """Runs of the denoiser for a picture; guidance takes two a step."""
        return self.steps * (2 if self.true_cfg_scale > 1 else 1)

    @property
    def pixels(self) -> int:
        """Drawn, for one picture: an upscale draws its tiles, the others at a size they were trained for."""
        if self.task == "upscale":
            return catalog.tiled_pixels(self.model, (self.width, self.height))
        width, height = catalog.native_size(self.model, self.width, self.height)
        return width * height

    @property
    def size_of_catalogue(self) -> float:
        """Pictures at the row's defaults that this is as much work as."""
        default = Work(self.model, 1024, 1024, 1, self.model.num_inference_steps, self.model.true_cfg_scale)
        return self.num_images * (self.passes * self.pixels) / (default.passes * default.pixels)


@dataclass(frozen=True)
class Sample:
    """A call that succeeded: its GPU and seconds, and what it was asked for."""

    task: str
    gpu: str
    gpu_seconds: float
    num_images: int
    passes: int
    pixels: int
    references: int

    @property
    def units(self) -> float:
        return float(self.num_images * self.passes * self.pixels)


@dataclass(frozen=True)
class Seconds:
    """GPU seconds: what one in ten takes less than, the median, what one in ten takes more than."""

    low: float
    expected: float
    high: float
    basis: Basis
    samples: int = 0

    @property
    def reserve(self) -> float:
        return round(self.high * RESERVE_FACTOR + RESERVE_SECONDS, 3)


def seconds(work: Work, gpu: str, samples: Iterable[Sample]) -> Seconds:
    """What the work will take on a GPU, going by calls of its model."""
    here = [sample for sample in samples if sample.gpu == gpu]
    drawn = Seconds(0.0, 0.0, 0.0, "measured")
    if work.num_images:
        drawn = _drawing_seconds(work, [sample for sample in here if sample.task == work.task])
    for task in work.before:
        words = _language_seconds(work.model, [sample for sample in here if sample.task == task])
        drawn = replace(
            drawn,
            low=drawn.low + words.low,
            expected=drawn.expected + words.expected,
            high=drawn.high + words.high,
        )
    return drawn


def quantile(ordered: Sequence[float], share: float) -> float:
    """Of values in order, the one below which ``share`` of them lie; between two, in proportion."""
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def parallelism(intervals: Iterable[tuple[float, float]]) -> float:
    """How many of (start, end) ran at once, on average over the time in which any did; at least 1."""
    ordered = sorted(intervals)
    busy, reached = 0.0, float("-inf")
    for start, end in ordered:
        busy += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return max(1.0, sum(end - start for start, end in ordered) / busy) if busy > 0 else 1.0


def _drawing_seconds(work: Work, here: list[Sample]) -> Seconds:
    alike = (work.passes, work.pixels, work.references)
    same = [each for each in here if (each.passes, each.pixels, each.references) == alike]
    if len(same) >= ENOUGH:
        return _spread([each.gpu_seconds / each.num_images for each in same], work.num_images, "measured")
    if len(here) >= ENOUGH:
        units = work.num_images * work.passes * work.pixels
        return _spread([each.gpu_seconds / each.units for each in here], units, "scaled")
    return _guess(work.model.est_seconds * work.size_of_catalogue)


def _language_seconds(model: Model, here: list[Sample]) -> Seconds:
    if len(here) >= ENOUGH:
        return _spread([each.gpu_seconds for each in here], 1, "measured")
    return _guess(min(LANGUAGE_SECONDS, model.est_seconds))


def _guess(seconds: float) -> Seconds:
    return Seconds(seconds * CATALOGUE_LOW, seconds, seconds * CATALOGUE_HIGH, "catalogue")


def _spread(values: list[float], times: float, basis: Basis) -> Seconds:
    ordered = sorted(values)
    low, expected, high = (quantile(ordered, share) * times for share in (0.1, 0.5, 0.9))
    return Seconds(low, expected, high, basis, len(ordered))
