"""The fake engine: paints a flat card in about a millisecond, without torch.

For fault tests, benchmarks and frontends' own tests.  The colour comes from the seed, the prompt stands
on the card in words, and INSTANT_SECONDS (default 0) makes a picture take as long as a GPU would.
"""

import functools
import hashlib
import os
import textwrap
import time
from collections.abc import Callable
from typing import Any

import PIL
from PIL import Image, ImageDraw, ImageFont

from modal_app.catalog import Model, Size
from modal_app.contract import ImageRequest
from modal_app.engine import Canceled, Drawing, Files, OnStep, Picture, show

SLICE_SECONDS = 0.02
"""How long a simulated step sleeps before it looks again whether it was canceled."""


def load(model: Model) -> "InstantEngine":
    return InstantEngine(model, seconds=float(os.environ.get("INSTANT_SECONDS", "0")))


class InstantEngine:
    """See the module; ``seconds`` is what a picture takes."""

    def __init__(self, model: Model, seconds: float) -> None:
        self._seconds = seconds
        self._fingerprint: dict[str, Any] = {
            "model": model.id,
            "revision": model.revision,
            "pillow": PIL.__version__,
            "device": "cpu",
        }

    def run(
        self, request: ImageRequest, files: Files, on_step: OnStep, cancelled: Callable[[], bool]
    ) -> Drawing:
        pictures = []
        for n in range(request.num_images):
            self._pretend(request, n, on_step, cancelled)
            pictures.append(Picture(_card(request, request.seed + n), request.seed + n))
        return Drawing(
            pictures=pictures,
            native_size=(request.width, request.height),
            resampling="none",
            fingerprint=self._fingerprint,
        )

    def _pretend(self, request: ImageRequest, n: int, on_step: OnStep, cancelled: Callable[[], bool]) -> None:
        """The steps of one picture, each as long as it should take."""
        steps = request.num_inference_steps
        for step in range(n * steps, (n + 1) * steps):
            _sleep(self._seconds / steps, cancelled)
            on_step(step + 1, steps * request.num_images)
            show(on_step, n, lambda: _card(request, request.seed + n))


def _sleep(seconds: float, cancelled: Callable[[], bool]) -> None:
    end = time.monotonic() + seconds
    while True:
        if cancelled():
            raise Canceled("canceled")
        left = end - time.monotonic()
        if left <= 0:
            return
        time.sleep(min(left, SLICE_SECONDS))


def _card(request: ImageRequest, seed: int) -> Image.Image:
    """A card of one colour with the prompt in words, as many as fit."""
    size = (request.width, request.height)
    color = _color(seed)
    card = Image.new("RGB", size, color)
    ink = (0, 0, 0) if sum(color) > 382 else (255, 255, 255)
    height, margin = _line_height(size), min(size) // 16
    text = _wrapped(request.prompt, size, height)
    ImageDraw.Draw(card).multiline_text((margin, margin), text, ink, _font(height), spacing=height // 4)
    return card


def _color(seed: int) -> tuple[int, int, int]:
    red, green, blue = hashlib.sha256(str(seed).encode()).digest()[:3]
    return red, green, blue


def _line_height(size: Size) -> int:
    return max(8, min(size) // 16)


def _wrapped(prompt: str, size: Size, height: int) -> str:
    """Lines that fit on the card; letters of the default font are about half as wide as high."""
    columns, rows = max(1, int(size[0] * 1.75 / height)), max(1, int(size[1] * 0.7 / height))
    return "\n".join(textwrap.wrap(prompt[: columns * rows], columns)[:rows])


@functools.lru_cache(maxsize=32)
def _font(height: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(height)
