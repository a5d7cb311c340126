"""The colors of a picture, measured, and how far apart two palettes look.

Distances are those of OKLab (Björn Ottosson, 2020, bottosson.github.io/posts/oklab), where equal steps
look about equally large: black and white are 1 apart, red and orange 0.24.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Lab = NDArray[np.float64]
"""[..., 3]: lightness 0..1, green to red and blue to yellow about -0.4..0.4."""
Weights = NDArray[np.float64]

COLORS_MAX = 5
SHARE_MIN = 0.01
"""Of the picture: less is an edge or a speck."""
MERGE_BELOW = 0.09
"""Two colors nearer than this are called by the same name."""
SAMPLE_SIDE = 160
"""Pixels at most along each side that are looked at."""
ALPHA_MIN = 8
"""Of 255; less cannot be seen."""
CLUSTERS, ROUNDS = 12, 10
MIDDLE = 0.6
"""Part of each side in which a character usually stands."""
GREY_WEIGHT = 0.02
"""What a color without chroma counts against a vivid one, which has 0.1 to 0.3."""
APART = 0.2
"""Mean distance at which two palettes have nothing in common.  Measured on drawings of the bundled model's
world by the weights of ``likeness``: 0.02 for one character in two scenes, 0.14 for two characters."""

_TO_LMS = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_TO_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)


def color_palette(image: Image.Image) -> list[str]:
    """Up to ``COLORS_MAX`` colors as ``#rrggbb``, the most of the picture first; none if it is all clear."""
    colors, _ = measured(image)
    return ["#{:02x}{:02x}{:02x}".format(*color) for color in colors.tolist()]


def likeness(image: Image.Image, reference: Image.Image) -> float:
    """How alike the colors in the middle of two pictures are, 0..100, whichever of them is the reference.

    Every color looks for the nearest one of the other picture; vivid ones count more, and large areas less
    than by their size.  100 is no distance, 0 a mean distance of ``APART`` or more.
    """
    one, other = measured(_middle(image)), measured(_middle(reference))
    if not len(one[0]) or not len(other[0]):
        return 100.0 if len(one[0]) == len(other[0]) else 0.0
    distance = (_missing(*one, oklab(other[0])) + _missing(*other, oklab(one[0]))) / 2
    return 100 * max(0.0, 1 - distance / APART)


def _middle(image: Image.Image) -> Image.Image:
    left, top = (round(side * (1 - MIDDLE) / 2) for side in image.size)
    return image.crop((left, top, max(left + 1, image.width - left), max(top + 1, image.height - top)))


def _missing(colors: NDArray[np.uint8], shares: Weights, found: Lab) -> float:
    """Mean distance from the colors to the nearest of those found."""
    lab = oklab(colors)
    weights = np.sqrt(shares) * (np.linalg.norm(lab[:, 1:], axis=1) + GREY_WEIGHT)
    return float(np.average(_distances(lab, found).min(axis=1), weights=weights))


def nearest_distance(image: Image.Image, color: Sequence[int]) -> float:
    """From a color (red, green, blue, 0..255) to the nearest one of the palette; infinite without one."""
    colors, _ = measured(image)
    wanted = oklab(np.asarray([color], dtype=np.uint8))
    return float(_distances(wanted, oklab(colors)).min(initial=np.inf))


def distance_to_colors(pixels: NDArray[np.uint8], colors: NDArray[np.uint8]) -> NDArray[np.float64]:
    """pixels [..., 3] to the nearest of colors [N, 3]: [...]; infinite without any."""
    flat = _distances(oklab(pixels.reshape(-1, 3)), oklab(colors)).min(axis=1, initial=np.inf)
    return np.asarray(flat.reshape(pixels.shape[:-1]), dtype=np.float64)


def measured(image: Image.Image) -> tuple[NDArray[np.uint8], Weights]:
    """(colors [N, 3], shares of the visible picture [N]), N up to ``COLORS_MAX``, the largest first."""
    colors, weights = _histogram(image)
    if not len(colors):
        return np.zeros((0, 3), np.uint8), np.zeros(0)
    lab = oklab(colors)
    labels = _merged(lab, weights, _clustered(lab, weights))
    shares = np.bincount(labels, weights) / weights.sum()
    kept = [int(n) for n in np.argsort(-shares, kind="stable")[:COLORS_MAX] if shares[n] >= SHARE_MIN]
    heads = _heads(weights, labels, kept)
    return np.rint(colors[heads]).astype(np.uint8), np.asarray(shares[kept], dtype=np.float64)


def oklab(rgb: NDArray[np.uint8] | NDArray[np.float64]) -> Lab:
    """sRGB [..., 3], 0..255, in OKLab."""
    srgb = np.asarray(rgb, dtype=np.float64) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    lab: Lab = np.cbrt(linear @ _TO_LMS.T) @ _TO_LAB.T
    return lab


def _histogram(image: Image.Image) -> tuple[NDArray[np.float64], Weights]:
    """(mean colors [N, 3], 0..255, visible pixels [N]) of the used cells of 8 x 8 x 8 values."""
    # Not reduced, but sampled: colors that only an edge would mix are none of the picture's.
    small = image.copy()
    small.thumbnail((SAMPLE_SIDE, SAMPLE_SIDE), Image.Resampling.NEAREST)
    pixels = np.asarray(small.convert("RGBA"), dtype=np.float64).reshape(-1, 4)
    pixels = pixels[pixels[:, 3] >= ALPHA_MIN]
    cells = (pixels[:, :3].astype(np.int64) // 8) @ np.array([32 * 32, 32, 1])
    _, labels = np.unique(cells, return_inverse=True)
    weights = np.asarray(np.bincount(labels, pixels[:, 3] / 255), dtype=np.float64)
    sums = [np.bincount(labels, pixels[:, n] * pixels[:, 3] / 255) for n in range(3)]
    return np.stack(sums, axis=1) / weights[:, None], weights


def _clustered(lab: Lab, weights: Weights) -> NDArray[np.int64]:
    """k-means: the cluster of each color.  Starts from the commonest color, then from those that are both
    common and far from all before, so that nothing is left to chance."""
    centers = lab[[int(weights.argmax())]]
    for _ in range(min(CLUSTERS, len(lab)) - 1):
        away = _distances(lab, centers).min(axis=1) ** 2 * weights
        centers = np.concatenate([centers, lab[[int(away.argmax())]]])
    for _ in range(ROUNDS):
        labels = _distances(lab, centers).argmin(axis=1)
        centers = np.stack([_mean(lab, weights, labels == n, centers[n]) for n in range(len(centers))])
    nearest: NDArray[np.int64] = _distances(lab, centers).argmin(axis=1)
    return nearest


def _mean(lab: Lab, weights: Weights, chosen: NDArray[np.bool_], otherwise: Lab) -> Lab:
    if not chosen.any():
        return otherwise
    return np.asarray(np.average(lab[chosen], axis=0, weights=weights[chosen]), dtype=np.float64)


def _merged(lab: Lab, weights: Weights, labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Labels after joining the nearest two clusters again and again while their colors look alike."""
    while len(names := [int(n) for n in np.unique(labels)]) > 1:
        heads = lab[_heads(weights, labels, names)]
        apart = _distances(heads, heads) + 9 * np.eye(len(names))
        first, second = np.unravel_index(apart.argmin(), apart.shape)
        if apart[first, second] >= MERGE_BELOW:
            break
        labels = np.where(labels == names[int(second)], names[int(first)], labels)
    return labels


def _heads(weights: Weights, labels: NDArray[np.int64], names: Sequence[int]) -> list[int]:
    """The commonest color of each cluster, which stands for it: a mean need not occur in the picture."""
    return [int(np.argmax(np.where(labels == n, weights, -1.0))) for n in names]


def _distances(one: Lab, other: Lab) -> NDArray[np.float64]:
    """[N, 3], [M, 3] -> [N, M]."""
    return np.asarray(np.linalg.norm(one[:, None] - other[None], axis=-1), dtype=np.float64)
