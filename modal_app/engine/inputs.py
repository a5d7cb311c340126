"""Pictures from outside, opened without trusting them."""

import struct
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from modal_app.engine import EngineError

FORMATS = ("PNG", "JPEG", "WEBP")
MAX_PIXELS = 40_000_000
"""Of width times height: more than a phone's photo, and at most 160 MB once decoded with transparency."""
MAX_BYTES = 64 * 1024 * 1024
"""Of a file: what 40 megapixels need as PNG stays below."""
_LIMIT = f"{MAX_PIXELS // 10**6} megapixels"

_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What undoes an EXIF orientation (TIFF 6.0, tag 274); 1 and anything else stay as they are."""


class InvalidPicture(EngineError):
    """The file is no picture that can be worked with; the message is for whoever sent it."""

    code = "invalid_picture"


def open_picture(path: Path) -> Image.Image:
    """The picture upright, decoded, as RGB, or as RGBA if it has transparency; no metadata.

    InvalidPicture for anything but a still PNG, JPEG or WebP file of at most ``MAX_PIXELS``.  Size and
    format are read from the header, before anything of the picture is decoded or allocated.
    """
    _check_bytes(path)
    _check_webp_header(path)
    try:
        with Image.open(path, formats=FORMATS) as image:
            _check_pixels(*image.size)
            _check_still(image)
            image.load()
            return _plain(_upright(image))
    except EngineError:
        raise
    except UnidentifiedImageError as error:
        raise InvalidPicture("the file is not a PNG, JPEG or WebP picture") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InvalidPicture(f"the picture has more than the limit of {_LIMIT}") from error
    except Exception as error:  # decoders raise almost anything on bytes made up for them
        raise InvalidPicture("the picture is damaged") from error


def _check_bytes(path: Path) -> None:
    if path.stat().st_size > MAX_BYTES:
        raise InvalidPicture(f"the file is larger than {MAX_BYTES // 2**20} MiB")


def _check_pixels(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise InvalidPicture(f"the picture has more than the limit of {_LIMIT}: {width} x {height}")


def _check_still(image: Image.Image) -> None:
    """A JPEG with several pictures is a photo with its depth or brightness map: the first is the photo."""
    if image.format in ("PNG", "WEBP") and getattr(image, "is_animated", False):
        raise InvalidPicture("animated pictures are not supported")


def _check_webp_header(path: Path) -> None:
    """Pillow allocates the canvas of a WebP when it opens the file, too early for the other checks.

    The layout is that of the container's specification (developers.google.com/speed/webp/docs).
    """
    with path.open("rb") as file:
        head = file.read(30)
    if head[:4] != b"RIFF" or head[8:12] != b"WEBP":
        return
    if len(head) < 30:
        raise InvalidPicture("the picture is damaged")
    if head[12:16] == b"VP8X":
        if head[20] & 0x02:
            raise InvalidPicture("animated pictures are not supported")
        _check_pixels(1 + int.from_bytes(head[24:27], "little"), 1 + int.from_bytes(head[27:30], "little"))
    elif head[12:16] == b"VP8L":
        bits = int.from_bytes(head[21:25], "little")
        _check_pixels(1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF))
    else:
        width, height = struct.unpack("<HH", head[26:30])
        _check_pixels(width & 0x3FFF, height & 0x3FFF)


def _upright(image: Image.Image) -> Image.Image:
    try:
        turn = _UPRIGHT.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # EXIF that cannot be read says nothing; the picture itself is fine
        return image
    return image if turn is None else image.transpose(turn)


def _plain(image: Image.Image) -> Image.Image:
    """A copy in RGB or RGBA that shares nothing with the file."""
    if image.mode.startswith("I"):  # 16 bits of grey, which Pillow would clip instead of scaling
        grey = np.asarray(image).astype(np.float64) / 257
        image = Image.fromarray(np.clip(grey + 0.5, 0, 255).astype(np.uint8))
    plain = image.convert("RGBA" if image.has_transparency_data else "RGB")
    plain = plain.copy() if plain is image else plain
    plain.info = {}
    return plain
