"""A program: a user's picture on standard input; a line of facts and the picture drawn anew on the output.

With the name of a text field as its argument it draws nothing, and says what that field of the file holds and
which pixels it has.  It imports nothing but Pillow, because every upload pays for its start, and it limits
itself before it reads.
"""

import contextlib
import hashlib
import io
import json
import resource
import struct
import sys
import warnings
from collections.abc import Iterator

from PIL import Image, ImageOps

MAX_PIXELS = 40_000_000
"""Width times height: more than a phone's photo."""
FORMATS = ("PNG", "JPEG", "WEBP")
JPEG_QUALITY = 95
LIMITS = {
    resource.RLIMIT_AS: 2**30,  # turning a transparent photo of 40 megapixels takes 680 MiB
    resource.RLIMIT_CPU: 30,
    resource.RLIMIT_FSIZE: 0,
    resource.RLIMIT_CORE: 0,
    resource.RLIMIT_NPROC: 0,
}
IMAGE_DESCRIPTION = 0x010E
"""EXIF 2.32: where a file without text fields keeps what a PNG has in one."""
NOTE_LIMIT = 100_000
"""Characters of a field; a longer one is none of ours."""


class Refused(Exception):
    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code


def main() -> None:
    limit_oneself()
    try:
        content = sys.stdin.buffer.read()
        facts, drawn = noted(content, sys.argv[1]) if sys.argv[1:] else clean(content)
    except Refused as refused:
        facts, drawn = {"error": refused.code, "detail": str(refused)}, b""
    sys.stdout.buffer.write(json.dumps(facts).encode() + b"\n" + drawn)


def limit_oneself() -> None:
    for kind, wanted in LIMITS.items():
        hard = resource.getrlimit(kind)[1]
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        try:
            resource.setrlimit(kind, (most, most))
        except ValueError:
            if sys.platform != "darwin":  # which knows no limit of address space
                raise


def clean(content: bytes) -> tuple[dict[str, object], bytes]:
    """(content type, width, height) and the new file; Refused for anything but a picture of fair size."""
    with loaded(content) as image:
        return encoded(in_srgb(upright(image)), lossless=is_lossless(image, content))


def noted(content: bytes, field: str) -> tuple[dict[str, object], bytes]:
    """What a text field of the file holds, and the hash of its pixels as they stand, row by row."""
    with loaded(content) as image:
        found = image.info.get(field) or image.getexif().get(IMAGE_DESCRIPTION)
        facts = {
            "note": found if isinstance(found, str) and len(found) <= NOTE_LIMIT else None,
            "lossless": is_lossless(image, content),
            "pixels_sha256": hashlib.sha256(pixels(image)).hexdigest(),
        }
        return {**facts, "format": image.format, "width": image.width, "height": image.height}, b""


def pixels(image: Image.Image) -> bytes:
    """RGB, or RGBA if anything shows through."""
    if image.has_transparency_data:
        whole = image.convert("RGBA")
        if whole.getchannel("A").getextrema() != (255, 255):
            return whole.tobytes()
    return image.convert("RGB").tobytes()


@contextlib.contextmanager
def loaded(content: bytes) -> Iterator[Image.Image]:
    """The first frame, decoded; whatever fails in the block is the picture's fault."""
    Image.MAX_IMAGE_PIXELS = MAX_PIXELS
    warnings.simplefilter("error", Image.DecompressionBombWarning)
    check_webp_header(content)
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            check_pixels(*image.size)
            image.load()
            yield image
    except Refused:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise too_many_pixels() from error
    except Exception as error:  # decoders raise almost anything on bytes made up for them
        raise Refused("picture_broken", "The picture cannot be decoded.") from error


def is_lossless(image: Image.Image, content: bytes) -> bool:
    return image.format == "PNG" or content[12:16] == b"VP8L"


def check_pixels(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise too_many_pixels()


def too_many_pixels() -> Refused:
    return Refused("too_many_pixels", f"A picture has at most {MAX_PIXELS // 10**6} megapixels.")


def check_webp_header(content: bytes) -> None:
    """Pillow allocates the canvas of a WebP when it opens the file, too early for the other check.

    The layout is that of the container's specification (developers.google.com/speed/webp/docs).
    """
    if content[:4] != b"RIFF" or len(content) < 30:
        return
    if content[12:16] == b"VP8X":
        sides = (int.from_bytes(content[at : at + 3], "little") for at in (24, 27))
        check_pixels(*(1 + side for side in sides))
    elif content[12:16] == b"VP8L":
        bits = int.from_bytes(content[21:25], "little")
        check_pixels(1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF))
    else:
        width, height = struct.unpack("<HH", content[26:30])
        check_pixels(width & 0x3FFF, height & 0x3FFF)


def upright(image: Image.Image) -> Image.Image:
    try:
        ImageOps.exif_transpose(image, in_place=True)
    except Exception:  # EXIF that cannot be read says nothing; the picture itself is fine
        return image
    return image


def in_srgb(image: Image.Image) -> Image.Image:
    """RGB, or RGBA if it has transparency; colors by the profile in the file, if that is a valid one."""
    if image.mode.startswith("I"):  # 16 bits of grey, which Pillow would clip instead of scaling
        image = image.convert("F").point(lambda value: value * (1 / 257) + 0.5).convert("L")
    profile = image.info.get("icc_profile")
    mode = "RGBA" if image.has_transparency_data else "RGB"
    if not profile:
        return image.convert(mode)
    if mode == "RGB":
        return converted(image if image.mode in ("L", "CMYK") else image.convert("RGB"), profile)
    plain = image.convert("RGBA")
    colors = converted(plain.convert("RGB"), profile)
    colors.putalpha(plain.getchannel("A"))
    return colors


def converted(image: Image.Image, profile: bytes) -> Image.Image:
    from PIL import ImageCms  # noqa: PLC0415  most pictures need none

    try:
        given, wanted = ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
        result = ImageCms.profileToProfile(image, given, wanted, outputMode="RGB")
    except (ImageCms.PyCMSError, OSError):
        return image.convert("RGB")
    assert result is not None
    return result


def encoded(image: Image.Image, *, lossless: bool) -> tuple[dict[str, object], bytes]:
    image.info = {}  # writers take metadata from here
    kept = io.BytesIO()
    if lossless or image.mode == "RGBA":
        content_type = "image/png"
        image.save(kept, "PNG", compress_level=4)
    else:
        content_type = "image/jpeg"
        image.save(kept, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return {"content_type": content_type, "width": image.width, "height": image.height}, kept.getvalue()


if __name__ == "__main__":
    main()
