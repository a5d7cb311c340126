"""Partial pictures of a stream: the looks that the GPU service sends, in the format that was asked for."""

import asyncio
import base64
import io
import time
from collections.abc import Mapping
from typing import Any

from PIL import Image

from gateway.openai import answers, schemas


class PartialImages:
    """Chooses at most ``partial_images`` looks, spread over the steps of the job."""

    def __init__(self, asked: schemas.ImageGeneration, kind: str) -> None:
        self._asked = asked
        self._kind = kind
        self._wanted = asked.partial_images or 0
        self._sent = 0

    async def shown(self, row: Mapping[str, Any]) -> schemas.PartialImage | None:
        """The event for a row with a ``preview``, if it is its turn."""
        due = (self._sent + 1) / (self._wanted + 1)
        if self._sent >= self._wanted or row["step"] / max(1, row["steps"]) < due:
            return None
        output_format = row["params"]["output_format"]
        content = await asyncio.to_thread(_converted, row["preview"]["content"], output_format)
        self._sent += 1
        return schemas.PartialImage(
            **answers.drawn(row, self._asked),
            type=f"{self._kind}.partial_image",
            created_at=int(time.time()),
            b64_json=base64.b64encode(content).decode(),
            partial_image_index=self._sent - 1,
        )


def _converted(content: bytes, output_format: str) -> bytes:
    """A look, a WebP of a few kilobytes, as a file of another format and the same size."""
    with Image.open(io.BytesIO(content), formats=("WEBP",)) as image:
        file = io.BytesIO()
        image.convert("RGB").save(file, output_format.upper())
    return file.getvalue()
