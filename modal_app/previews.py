"""Looks at a picture that is still being drawn, small enough for an event."""

import base64
import io
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from modal_app.contract import PREVIEW_LIMIT_BYTES, Preview

if TYPE_CHECKING:
    from PIL.Image import Image

log = logging.getLogger(__name__)

SECONDS = 1.0
"""Between two looks: events are no more frequent, and a look costs a few steps' hundredths."""
SIDES = (256, 128)
"""Longest side in pixels: the second where the first does not fit into the limit."""
QUALITIES = (70, 40, 10)


class Looks:
    """Takes a look once a second at most.  What goes wrong with one costs the look, not the picture."""

    def __init__(self, take: Callable[[Preview], None], seconds: float = SECONDS) -> None:
        self._take = take
        self._seconds = seconds
        self._next = time.monotonic() + seconds

    def look(self, n: int, picture: Callable[[], "Image"]) -> None:
        """``picture`` gives picture ``n`` as it stands; asked only when it is time."""
        if time.monotonic() < self._next:
            return
        try:
            self._take(preview(n, picture()))
        except Exception:
            log.exception("no look at picture %d", n)
        self._next = time.monotonic() + self._seconds


def preview(n: int, picture: "Image") -> Preview:
    """WebP within the limit: smaller, and rougher, where it has to be."""
    for side in SIDES:
        small = picture.convert("RGB")
        small.thumbnail((side, side))
        for quality in QUALITIES:
            file = io.BytesIO()
            small.save(file, "WEBP", quality=quality)
            if file.tell() <= PREVIEW_LIMIT_BYTES:
                return Preview(n=n, b64_json=base64.b64encode(file.getvalue()).decode())
    raise ValueError("no preview of this picture is small enough")
