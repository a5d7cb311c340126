"""How a large picture is covered by tiles, each of a size that its model was trained on."""

import math

from modal_app.catalog.model import SIZE_MULTIPLE, Model, Size, native_size

TILE_PIXELS = 1024
"""Longest side of a tile for a model that draws every size."""
OVERLAP = 1 / 6
"""Of a tile's side: room for a seam to fade in, at a third more tiles than without."""


def tile_size(model: Model, size: Size) -> Size:
    """(width, height) of a tile: what the model was trained on, no larger than the picture."""
    sides = native_size(model, TILE_PIXELS, TILE_PIXELS)
    within = [
        min(side, whole // SIZE_MULTIPLE * SIZE_MULTIPLE) for side, whole in zip(sides, size, strict=True)
    ]
    return within[0], within[1]


def tile_starts(whole: int, side: int) -> list[int]:
    """Where tiles of ``side`` pixels begin along ``whole`` pixels: the last ends with the picture."""
    step = side * (1 - OVERLAP)
    count = 1 + math.ceil(max(0, whole - side) / step)
    return [round(n * (whole - side) / max(1, count - 1)) for n in range(count)]


def tiled_pixels(model: Model, size: Size) -> int:
    """Drawn for a picture of this size: of all its tiles, what overlaps counted as often as it is drawn."""
    tile = tile_size(model, size)
    counts = [len(tile_starts(whole, side)) for whole, side in zip(size, tile, strict=True)]
    return counts[0] * counts[1] * tile[0] * tile[1]
