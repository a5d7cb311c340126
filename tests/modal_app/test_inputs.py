"""Pictures that people send, and files that are none."""

import io
import struct
import subprocess
import sys
import time
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from modal_app.engine import EngineError
from modal_app.engine.inputs import MAX_BYTES, InvalidPicture, open_picture


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def saved(folder: Path, content: bytes) -> Path:
    path = folder / "picture"
    path.write_bytes(content)
    return path


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, *chunks: bytes, pixels: bytes = b"") -> bytes:
    """A grey PNG of that size, whatever its pixels are."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + data


def riff(kind: bytes, content: bytes) -> bytes:
    body = b"WEBP" + kind + struct.pack("<I", len(content)) + content
    return b"RIFF" + struct.pack("<I", len(body)) + body


def resized(jpeg: bytes, width: int, height: int) -> bytes:
    """The same JPEG with another size in its frame header."""
    at = jpeg.index(b"\xff\xc0") + 5
    return jpeg[:at] + struct.pack(">HH", height, width) + jpeg[at + 4 :]


def picture(width: int = 40, height: int = 30, mode: str = "RGB") -> Image.Image:
    rng = np.random.default_rng(1)
    return Image.fromarray(rng.integers(0, 256, (height, width, len(mode)), dtype=np.uint8), mode)


RED, BLUE = Image.new("RGB", (40, 30), "red"), Image.new("RGB", (40, 30), "blue")
ZEROS = b"\0" * 20_000_000
SIZE = struct.Struct("<HH")
HOSTILE = {
    "a PNG of 3600 megapixels": png(60_000, 60_000, pixels=ZEROS),
    "a PNG of 200 megapixels": png(20_000, 10_000),
    "a PNG just over the limit": png(40_001, 1_000),
    "a PNG with a text that unpacks to 200 MB": png(
        8, 8, chunk(b"zTXt", b"a\0\0" + zlib.compress(ZEROS * 10, 1)), pixels=b"\0" * 72
    ),
    "a PNG without pixels": png(64, 64),
    "half a PNG": encoded(picture(), "PNG")[:2000],
    "half a JPEG": encoded(picture(400, 300), "JPEG")[:5000],
    "half a WebP": encoded(picture(), "WEBP")[:500],
    "a WebP of 268 megapixels, lossy": riff(
        b"VP8 ", b"\x10\0\0\x9d\x01\x2a" + SIZE.pack(16383, 16383) + b"\0" * 99
    ),
    "a WebP of 268 megapixels, lossless": riff(b"VP8L", b"\x2f" + b"\xff\xff\xff\x0f" + b"\0" * 99),
    "a WebP with a canvas of 268 megapixels": riff(
        b"VP8X", b"\0\0\0\0" + b"\xff\x3f\0" * 2 + encoded(picture(), "WEBP")[12:]
    ),
    "a WebP of thirteen bytes": b"RIFF\x05\0\0\0WEBPV",
    "a JPEG of 4290 megapixels": resized(encoded(RED, "JPEG"), 65_500, 65_500),
    "an animated WebP": encoded(RED, "WEBP", save_all=True, append_images=[BLUE]),
    "an animated PNG": encoded(RED, "PNG", save_all=True, append_images=[BLUE]),
    "a GIF": encoded(RED, "GIF"),
    "a TIFF": encoded(RED, "TIFF"),
    "a BMP": encoded(RED, "BMP"),
    "an EPS": encoded(RED, "EPS"),
    "a page": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "a text": b"I am a picture, really",
    "nothing": b"",
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_file_that_is_no_still_picture_of_fair_size_is_refused_at_once(
    content: bytes, tmp_path: Path
) -> None:
    path = saved(tmp_path, content)
    began = time.thread_time()
    with pytest.raises(InvalidPicture) as refused:
        open_picture(path)
    assert time.thread_time() - began < 1
    assert refused.value.code == "invalid_picture" and not refused.value.retryable
    assert str(path) not in str(refused.value)


OPEN_ALL = """
import resource, sys
from pathlib import Path
from modal_app.engine.inputs import InvalidPicture, open_picture

before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        open_picture(path)
    except InvalidPicture:
        continue
    sys.exit(f"{path.name} was opened")
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_refusals_take_hardly_any_memory(tmp_path: Path) -> None:
    for name, content in HOSTILE.items():
        (tmp_path / name).write_bytes(content)
    program = [sys.executable, "-c", OPEN_ALL, str(tmp_path)]
    done = subprocess.run(program, check=True, timeout=60, capture_output=True, text=True)
    assert int(done.stdout) < 32  # MiB


def test_refusals_say_what_is_wrong(tmp_path: Path) -> None:
    told = {}
    for name, content in HOSTILE.items():
        with pytest.raises(EngineError) as refused:
            open_picture(saved(tmp_path, content))
        told[name] = str(refused.value)
    too_many = "the picture has more than the limit of 40 megapixels"
    assert told["a PNG of 200 megapixels"] == too_many
    assert told["a PNG just over the limit"] == f"{too_many}: 40001 x 1000"
    assert told["a WebP of 268 megapixels, lossless"] == f"{too_many}: 16384 x 16384"
    assert told["an animated PNG"] == told["an animated WebP"] == "animated pictures are not supported"
    assert told["a GIF"] == told["a text"] == "the file is not a PNG, JPEG or WebP picture"
    assert told["half a PNG"] == told["half a JPEG"] == told["half a WebP"] == "the picture is damaged"


def test_a_file_that_is_too_large_is_not_even_opened(tmp_path: Path) -> None:
    path = tmp_path / "picture"
    with path.open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(InvalidPicture, match="larger than 64 MiB"):
        open_picture(path)


def test_more_pixels_than_the_header_says_are_not_unpacked(tmp_path: Path) -> None:
    path = saved(tmp_path, png(64, 64, pixels=ZEROS))
    tracemalloc.start()
    assert open_picture(path).size == (64, 64)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20


def test_a_file_that_was_cut_off_is_never_half_a_picture(tmp_path: Path) -> None:
    """A PNG may lack its last chunk, which says nothing but that it is the last."""
    for kind in ("PNG", "JPEG", "WEBP"):
        whole = encoded(picture(24, 24), kind)
        pixels = open_picture(saved(tmp_path, whole)).tobytes()
        for length in range(0, len(whole), 37):
            try:
                assert open_picture(saved(tmp_path, whole[:length])).tobytes() == pixels
            except InvalidPicture:
                continue


def test_random_damage_is_a_picture_or_a_refusal(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    for kind in ("PNG", "JPEG", "WEBP"):
        whole = np.frombuffer(encoded(picture(24, 24), kind), dtype=np.uint8)
        for _ in range(150):
            damaged = whole.copy()
            damaged[rng.integers(0, len(whole), 4)] = rng.integers(0, 256, 4)
            try:
                opened = open_picture(saved(tmp_path, damaged.tobytes()))
            except InvalidPicture:
                continue
            assert opened.mode in ("RGB", "RGBA")


def test_a_large_photo_is_let_through(tmp_path: Path) -> None:
    path = saved(tmp_path, encoded(Image.new("RGB", (8000, 5000), "teal"), "JPEG"))
    assert open_picture(path).size == (8000, 5000)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_pixels_arrive_as_they_were_saved_and_so_does_transparency(kind: str, tmp_path: Path) -> None:
    for mode in ("RGB", "RGBA"):
        sent = picture(mode=mode)
        path = saved(tmp_path, encoded(sent, kind, lossless=True, exact=True))
        opened = open_picture(path)
        assert (opened.mode, opened.tobytes()) == (mode, sent.tobytes())
        assert not opened.info


def test_every_kind_of_pixel_becomes_rgb_or_rgba(tmp_path: Path) -> None:
    clear = Image.new("P", (8, 8))
    clear.putpalette([255, 0, 0, 0, 0, 255])
    sent = {
        "palette": (encoded(clear, "PNG"), (255, 0, 0)),
        "palette with a clear color": (encoded(clear, "PNG", transparency=0), (255, 0, 0, 0)),
        "grey": (encoded(Image.new("L", (8, 8), 77), "PNG"), (77, 77, 77)),
        "grey and alpha": (encoded(Image.new("LA", (8, 8), (77, 5)), "PNG"), (77, 77, 77, 5)),
        "black and white": (encoded(Image.new("1", (8, 8), 1), "PNG"), (255, 255, 255)),
        "16 bits": (encoded(Image.fromarray(np.full((8, 8), 40_000, np.uint16)), "PNG"), (156, 156, 156)),
    }
    for name, (content, pixel) in sent.items():
        assert open_picture(saved(tmp_path, content)).getpixel((1, 1)) == pixel, name
    cmyk = open_picture(saved(tmp_path, encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG")))
    assert np.abs(np.subtract(cmyk.getpixel((1, 1)), (255, 0, 0))).max() < 12


@pytest.mark.parametrize("orientation", range(10))
def test_a_photo_stands_upright(orientation: int, tmp_path: Path) -> None:
    """The corner that is red is the upper left one of what was photographed."""
    upright = Image.new("RGB", (64, 32), "white")
    upright.paste("red", (0, 0, 16, 16))
    undone = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }.get(orientation)
    stored = upright if undone is None else upright.transpose(undone)
    exif = Image.Exif()
    exif[0x0112] = orientation
    opened = open_picture(saved(tmp_path, encoded(stored, "PNG", exif=exif)))
    assert (opened.size, opened.tobytes()) == (upright.size, upright.tobytes())


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_exif_that_cannot_be_read_is_left_aside(tmp_path: Path) -> None:
    path = saved(tmp_path, encoded(RED, "PNG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff"))
    assert open_picture(path).getpixel((0, 0)) == (255, 0, 0)


def test_a_photo_with_a_second_picture_is_its_first(tmp_path: Path) -> None:
    path = saved(tmp_path, encoded(RED, "MPO", save_all=True, append_images=[BLUE]))
    red, _, blue = open_picture(path).getpixel((0, 0))
    assert red > 200 and blue < 50


def test_the_file_is_closed(tmp_path: Path) -> None:
    path = saved(tmp_path, encoded(RED, "PNG"))
    opened = open_picture(path)
    path.unlink()
    assert opened.getpixel((39, 29)) == (255, 0, 0)
