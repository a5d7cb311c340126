"""Pictures to bytes.  The same picture, format and compression always give the same bytes."""

import io

from PIL import Image

from modal_app.catalog import Size
from modal_app.contract import OutputFormat

PNG_COMPRESS_LEVEL = 1
"""Measured on 1024 x 1024 from the bundled model, one core: 25 ms and 324 kB; level 6 takes 63 ms for
243 kB, level 9 takes 354 ms for 227 kB."""


def resample(image: Image.Image, size: Size) -> Image.Image:
    """The picture at exactly ``size`` (width, height in pixels); the sides are scaled independently."""
    return image if image.size == size else image.resize(size, Image.Resampling.LANCZOS)


def encode(image: Image.Image, output_format: OutputFormat, output_compression: int) -> bytes:
    """File bytes.  ``output_compression`` is the quality of jpeg and webp, 0 to 100; png is lossless."""
    file = io.BytesIO()
    if output_format == "png":
        image.save(file, "PNG", compress_level=PNG_COMPRESS_LEVEL)
    else:
        # Pillow takes a jpeg quality of 0 for "not given"
        image.save(file, output_format.upper(), quality=max(1, output_compression))
    return file.getvalue()
