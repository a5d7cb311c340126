"""What engines of every family do alike, around the part that is their own."""

from collections.abc import Callable
from typing import Any

import diffusers
import torch
import transformers
from PIL import Image

from modal_app.catalog import Size
from modal_app.contract import ImageRequest
from modal_app.engine import Drawing, Picture
from modal_app.engine.pictures import resample


def quieten() -> None:
    """No bars, and no warnings about call patterns that are meant."""
    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()


def settle_threads(device: torch.device) -> None:
    """For the thread that draws: more than one make models small enough for a CPU slower."""
    if device.type == "cpu":
        torch.set_num_threads(1)


def drawn_one_by_one(
    request: ImageRequest,
    native_size: Size,
    draw: Callable[[int], Image.Image],
    fingerprint: dict[str, Any],
) -> Drawing:
    """``draw(n)`` gives picture n at its native size; each is brought to the requested size."""
    size = (request.width, request.height)
    seeds = range(request.seed, request.seed + request.num_images)
    return drawing_of(
        request,
        native_size,
        [Picture(resample(draw(n), size), seed) for n, seed in enumerate(seeds)],
        fingerprint,
    )


def drawing_of(
    request: ImageRequest, native_size: Size, pictures: list[Picture], fingerprint: dict[str, Any]
) -> Drawing:
    """Pictures at the requested size, and how they came to it."""
    as_drawn = native_size == (request.width, request.height)
    return Drawing(
        pictures=pictures,
        native_size=native_size,
        resampling="none" if as_drawn else "lanczos",
        fingerprint=fingerprint,
    )
