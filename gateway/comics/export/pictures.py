"""A panel's picture, cut and scaled for its place. They come out of our own bucket, one at a time."""

import io
from math import ceil

from PIL import Image

from gateway.comics.export.pages import Placed

FORMATS = ("PNG", "JPEG", "WEBP")
JPEG_QUALITY = 92


def cut(content: bytes, placed: Placed, per_point: float, *, enlarge: bool) -> Image.Image:
    """What is shown of it, opaque, in ``per_point`` pixels a point; in fewer, if it has no more."""
    with Image.open(io.BytesIO(content), formats=FORMATS) as image:
        box = _pixels(placed.part, image.size)
        wanted = ceil(placed.rect.width * per_point), ceil(placed.rect.height * per_point)
        if not enlarge and wanted[0] > box[2] - box[0]:
            wanted = round(box[2] - box[0]), round(box[3] - box[1])
        return _opaque(image).resize(wanted, Image.Resampling.LANCZOS, box=box, reducing_gap=3.0)


def jpeg(image: Image.Image) -> bytes:
    """Without subsampling: lines of comics are drawn in colors."""
    kept = io.BytesIO()
    image.save(kept, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return kept.getvalue()


def _pixels(
    part: tuple[float, float, float, float], size: tuple[int, int]
) -> tuple[float, float, float, float]:
    left, upper, right, lower = part
    return left * size[0], upper * size[1], right * size[0], lower * size[1]


def _opaque(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image.convert("RGB")
    paper = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(paper, image.convert("RGBA")).convert("RGB")
