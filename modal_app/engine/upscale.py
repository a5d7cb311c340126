"""Task ``upscale``: a larger picture with detail of its own, drawn over tile by tile.

The picture is enlarged, and every tile of it is the ``init`` picture of an ordinary run at the size that the
model was trained on.  Tiles overlap, and their seams are blended.  Works with every engine that takes an
``init`` picture.
"""

import hashlib
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from modal_app import catalog
from modal_app.catalog import Size
from modal_app.contract import ImageRequest, Reference, UpscaleRequest
from modal_app.engine import Canceled, Drawing, Engine, Files, OnStep, Picture, UnsupportedParameter
from modal_app.engine.inputs import open_picture
from modal_app.engine.pictures import resample


@dataclass(frozen=True)
class Tile:
    """A part of the large picture; ``left`` and ``top`` in its pixels."""

    left: int
    top: int
    size: Size

    @property
    def box(self) -> tuple[int, int, int, int]:
        return self.left, self.top, self.left + self.size[0], self.top + self.size[1]


def upscale(
    loaded: Engine, request: UpscaleRequest, files: Files, on_step: OnStep, cancelled: Callable[[], bool]
) -> Drawing:
    """One picture at the request's size; EngineError.  Steps are counted over all tiles."""
    model = catalog.find(request.model)
    if model is None or "init" not in model.roles:
        raise UnsupportedParameter("model", f"{request.model} does not draw over a picture")
    size = (request.width, request.height)
    large = resample(open_picture(files[request.references[0].sha256]).convert("RGB"), size)
    tiles = list(tiles_of(size, catalog.tile_size(model, size)))
    drawn: list[tuple[Tile, Image.Image]] = []
    fingerprint: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as folder:
        for n, tile in enumerate(tiles):
            if cancelled():
                raise Canceled("canceled")
            run = _run_of(request, tile, n, large, Path(folder))
            drawing = loaded.run(*run, _counted(on_step, n, len(tiles)), cancelled)
            drawn.append((tile, drawing.pictures[0].image))
            fingerprint = drawing.fingerprint
    picture = Picture(blended(size, drawn), request.seed)
    return Drawing(
        pictures=[picture],
        native_size=tiles[0].size,
        resampling="lanczos",
        fingerprint={**fingerprint, "tiles": len(tiles)},
    )


def tiles_of(size: Size, tile: Size) -> Iterator[Tile]:
    """Tiles of one size that cover the picture, row by row, evenly spread."""
    lefts, tops = (catalog.tile_starts(whole, side) for whole, side in zip(size, tile, strict=True))
    for top in tops:
        for left in lefts:
            yield Tile(left, top, tile)


def blended(size: Size, drawn: list[tuple[Tile, Image.Image]]) -> Image.Image:
    """The tiles as one picture: where they overlap, each counts by its distance from its own edge."""
    width, height = size
    sums = np.zeros((height, width, 3), np.float32)
    weights = np.zeros((height, width, 1), np.float32)
    for tile, image in drawn:
        left, top, right, bottom = tile.box
        weight = _ramp(tile.size[1])[:, None, None] * _ramp(tile.size[0])[None, :, None]
        sums[top:bottom, left:right] += np.asarray(image, np.float32) * weight
        weights[top:bottom, left:right] += weight
    return Image.fromarray((sums / weights).round().clip(0, 255).astype(np.uint8))


def _ramp(side: int) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """Weights along a side: rising over the overlap, then even; never zero."""
    distance = np.minimum(np.arange(side), np.arange(side)[::-1]) + 1
    return np.minimum(distance / (side * catalog.OVERLAP), 1).astype(np.float32)


def _run_of(
    request: UpscaleRequest, tile: Tile, n: int, large: Image.Image, folder: Path
) -> tuple[ImageRequest, Files]:
    """The ordinary run that draws one tile."""
    path = folder / f"{n}.png"
    large.crop(tile.box).save(path, compress_level=1)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    width, height = tile.size
    values = request.model_dump(exclude={"references"})
    changes = {
        **{"width": width, "height": height, "seed": request.seed + n},
        "references": [Reference(url="", sha256=sha256, role="init")],
    }
    return ImageRequest.model_validate(values | changes), {sha256: path}


def _counted(on_step: OnStep, n: int, tiles: int) -> OnStep:
    return lambda step, steps: on_step(n * steps + step, tiles * steps)
