"""Users' pictures drawn anew: what is none is refused cheaply, what is one keeps nothing but its pixels."""

import asyncio
import io
import os
import struct
import sys
import time
import zlib
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageCms, PngImagePlugin

from gateway import pictures
from gateway.pictures import Cleaned, PictureRefused, Pictures, sanitize

ORIENTATION, GPS = 0x0112, 0x8825
PLACE = {1: "N", 2: (52.0, 31.0, 12.0), 3: "E", 4: (13.0, 24.0, 36.0)}


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    kept = io.BytesIO()
    image.save(kept, kind, **options)
    return kept.getvalue()


def drawn(width: int = 48, height: int = 32, mode: str = "RGB") -> Image.Image:
    """A picture whose red corner is the upper left one."""
    image = Image.new(mode, (width, height), "white")
    image.paste("red", (0, 0, 16, 16))
    return image


def png_of(width: int, height: int) -> bytes:
    """A PNG that says it is so large, and is not."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(bytes(10_000_000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b"")


def jpeg_of(width: int, height: int) -> bytes:
    content = encoded(drawn(), "JPEG")
    at = content.index(b"\xff\xc0") + 5
    return content[:at] + struct.pack(">HH", height, width) + content[at + 4 :]


def webp_of(kind: bytes, content: bytes) -> bytes:
    chunk = kind + struct.pack("<I", len(content)) + content
    return b"RIFF" + struct.pack("<I", len(chunk) + 4) + b"WEBP" + chunk


def with_metadata(image: Image.Image, kind: str) -> bytes:
    exif = Image.Exif()
    exif[0x010E] = "SECRET description"
    exif.get_ifd(GPS).update(PLACE)
    if kind != "PNG":
        return encoded(image, kind, exif=exif, xmp=b"<x>SECRET xmp</x>")
    notes = PngImagePlugin.PngInfo()
    notes.add_text("Comment", "SECRET comment")
    return encoded(image, kind, exif=exif, pnginfo=notes)


async def refusal(content: bytes) -> str:
    with pytest.raises(PictureRefused) as refused:
        await Pictures().clean(content)
    return refused.value.code


def opened(cleaned: Cleaned) -> Image.Image:
    image = Image.open(io.BytesIO(cleaned.content), formats=("PNG", "JPEG"))
    assert (image.get_format_mimetype(), image.size) == (
        cleaned.content_type,
        (cleaned.width, cleaned.height),
    )
    return image


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "not_a_picture"),
        (b"I am a picture, really", "not_a_picture"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not_a_picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0", "not_a_picture"),
        (b"MZ" + bytes(100), "not_a_picture"),
        (b"RIFF\x05\0\0\0WAVE", "not_a_picture"),
        (b" " + encoded(drawn(), "PNG"), "not_a_picture"),
        (encoded(drawn(), "GIF"), "unsupported_media_type"),
        (encoded(drawn(), "TIFF"), "unsupported_media_type"),
        (encoded(drawn(), "BMP"), "unsupported_media_type"),
        (b"\0\0\0\x1cftypheic" + bytes(50), "unsupported_media_type"),
        (b"\x89PNG\r\n\x1a\n" + bytes(pictures.MAX_BYTES), "picture_too_large"),
    ],
)
async def test_what_is_no_such_picture_is_refused_without_a_process(
    content: bytes, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "_answer_of", None)
    assert await refusal(content) == code


HOSTILE = {
    "a PNG of 100 megapixels": (png_of(10_000, 10_000), "too_many_pixels"),
    "a PNG just over the limit": (png_of(40_001, 1000), "too_many_pixels"),
    "a PNG of four thousand megapixels": (png_of(65_000, 65_000), "too_many_pixels"),
    "a JPEG of 100 megapixels": (jpeg_of(10_000, 10_000), "too_many_pixels"),
    "a WebP of 268 megapixels, lossy": (
        webp_of(b"VP8 ", b"\x10\0\0\x9d\x01\x2a" + struct.pack("<HH", 16383, 16383) + bytes(99)),
        "too_many_pixels",
    ),
    "a WebP of 268 megapixels, lossless": (
        webp_of(b"VP8L", b"\x2f" + b"\xff\xff\xff\x0f" + bytes(99)),
        "too_many_pixels",
    ),
    "a WebP with a canvas of 268 megapixels": (
        webp_of(b"VP8X", bytes(4) + b"\xff\x3f\0" * 2 + encoded(drawn(), "WEBP")[12:]),
        "too_many_pixels",
    ),
    "a PNG's first bytes": (b"\x89PNG\r\n\x1a\n", "picture_broken"),
    "a JPEG's first bytes": (b"\xff\xd8\xff" + os.urandom(500), "picture_broken"),
    "a WebP's first bytes": (b"RIFF\xff\0\0\0WEBP", "picture_broken"),
    "half a PNG": (encoded(Image.effect_noise((64, 64), 99), "PNG")[:2000], "picture_broken"),
    "half a JPEG": (encoded(Image.effect_noise((300, 300), 99), "JPEG")[:5000], "picture_broken"),
    "a PNG without a pixel": (png_of(0, 10), "picture_broken"),
}


@pytest.mark.parametrize(("content", "code"), HOSTILE.values(), ids=HOSTILE.keys())
async def test_a_bomb_or_a_broken_picture_is_refused_at_once(content: bytes, code: str) -> None:
    began = time.monotonic()
    assert await refusal(content) == code
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
async def test_place_time_and_words_are_gone(kind: str) -> None:
    sent = with_metadata(drawn(), kind)
    assert b"SECRET" in sent
    cleaned = await Pictures().clean(sent)
    assert b"SECRET" not in cleaned.content and b"Exif" not in cleaned.content
    image = opened(cleaned)
    assert not image.getexif() and not image.getexif().get_ifd(GPS)
    assert not set(image.info) - {"jfif", "jfif_version", "jfif_unit", "jfif_density"}


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
async def test_a_polyglot_loses_its_tail(kind: str) -> None:
    tail = b"PK\x03\x04 an archive, <script>alert(1)</script>"
    cleaned = await Pictures().clean(encoded(drawn(), kind) + tail)
    assert tail not in cleaned.content and b"script" not in cleaned.content
    assert opened(cleaned).convert("RGB").getpixel((40, 30)) == (255, 255, 255)


@pytest.mark.parametrize("orientation", range(1, 9))
async def test_a_photo_stands_upright(orientation: int) -> None:
    turns = Image.Transpose
    stored_as = {
        **{2: turns.FLIP_LEFT_RIGHT, 3: turns.ROTATE_180, 4: turns.FLIP_TOP_BOTTOM, 5: turns.TRANSPOSE},
        **{6: turns.ROTATE_90, 7: turns.TRANSVERSE, 8: turns.ROTATE_270},
    }
    turned = drawn().transpose(stored_as[orientation]) if orientation > 1 else drawn()
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    cleaned = await Pictures().clean(encoded(turned, "PNG", exif=exif))
    assert opened(cleaned).tobytes() == drawn().tobytes()


async def test_pixels_and_transparency_of_a_png_stay_exactly() -> None:
    for mode in ("RGB", "RGBA"):
        sent = Image.frombytes(mode, (40, 30), os.urandom(40 * 30 * len(mode)))
        for content in (encoded(sent, "PNG"), encoded(sent, "WEBP", lossless=True, exact=True)):
            image = opened(await Pictures().clean(content))
            assert (image.format, image.mode, image.tobytes()) == ("PNG", mode, sent.tobytes())


async def test_a_photo_stays_a_photo() -> None:
    sent = Image.radial_gradient("L").convert("RGB")
    for kind in ("JPEG", "WEBP"):
        cleaned = await Pictures().clean(encoded(sent, kind, quality=95))
        assert cleaned.content_type == "image/jpeg"
        red = opened(cleaned).getpixel((128, 10))
        assert red == pytest.approx(sent.getpixel((128, 10)), abs=6)


async def test_colors_of_another_profile_become_srgb() -> None:
    """Swapped channels stand for a wide gamut: green in the file is what its profile calls red."""
    grey = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    swapped = grey.replace(b"rXYZ", b"tXYZ").replace(b"gXYZ", b"rXYZ").replace(b"tXYZ", b"gXYZ")
    for kind in ("PNG", "JPEG"):
        cleaned = await Pictures().clean(
            encoded(Image.new("RGB", (16, 16), "red"), kind, icc_profile=swapped)
        )
        image = opened(cleaned)
        assert image.getpixel((5, 5)) == pytest.approx((0, 255, 0), abs=3)
        assert "icc_profile" not in image.info
    broken = encoded(Image.new("RGB", (16, 16), "red"), "PNG", icc_profile=b"no profile at all")
    assert opened(await Pictures().clean(broken)).getpixel((5, 5)) == (255, 0, 0)


async def test_every_kind_of_pixel_becomes_rgb_or_rgba() -> None:
    clear = Image.new("P", (8, 8))
    clear.putpalette([255, 0, 0, 0, 0, 255])
    sent = {
        "palette": (encoded(clear, "PNG"), (255, 0, 0)),
        "palette with a clear color": (encoded(clear, "PNG", transparency=0), (255, 0, 0, 0)),
        "grey": (encoded(Image.new("L", (8, 8), 77), "PNG"), (77, 77, 77)),
        "grey and alpha": (encoded(Image.new("LA", (8, 8), (77, 5)), "PNG"), (77, 77, 77, 5)),
        "black and white": (encoded(Image.new("1", (8, 8), 1), "PNG"), (255, 255, 255)),
        "16 bits": (encoded(Image.new("I;16", (8, 8), 40_000), "PNG"), (156, 156, 156)),
    }
    for name, (content, pixel) in sent.items():
        assert opened(await Pictures().clean(content)).getpixel((1, 1)) == pixel, name
    cmyk = opened(await Pictures().clean(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG")))
    assert cmyk.getpixel((1, 1)) == pytest.approx((255, 0, 0), abs=12)


async def test_of_moving_pictures_the_first_is_taken() -> None:
    moving = {"save_all": True, "append_images": [Image.new("RGB", (48, 32), "blue")]}
    for kind in ("PNG", "WEBP", "MPO"):
        image = opened(await Pictures().clean(encoded(drawn(), kind, **moving)))
        assert getattr(image, "n_frames", 1) == 1
        assert image.convert("RGB").getpixel((40, 20)) == pytest.approx((255, 255, 255), abs=4)


async def test_the_same_file_is_always_drawn_the_same() -> None:
    content = with_metadata(drawn(), "JPEG")
    first, second = await asyncio.gather(*(Pictures().clean(content) for _ in range(2)))
    assert first == second


LIMITED = """
import sys
sys.path.insert(0, sys.argv[1])
import sanitize
sanitize.limit_oneself()
try:
    {attempt}
except Exception as error:
    print(type(error).__name__)
"""


@pytest.mark.parametrize(
    ("attempt", "error"),
    [("bytearray(2**31)", "MemoryError"), ("open(sys.argv[2], 'wb', 0).write(b'x')", "OSError")],
)
async def test_the_process_cannot_take_what_it_does_not_need(
    attempt: str, error: str, tmp_path: Path
) -> None:
    folder = str(Path(sanitize.__file__).parent)
    program = LIMITED.format(attempt=attempt)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-c", program, folder, str(tmp_path / "kept")), stdout=asyncio.subprocess.PIPE
    )
    assert (await process.communicate())[0].decode().strip() == error


async def test_a_process_that_hangs_or_talks_without_end_is_ended(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "sanitize.py"
    monkeypatch.setattr(pictures, "_PROGRAM", str(program))
    began = time.monotonic()
    for code, seconds, refused in (
        ("import time; time.sleep(600)", 3, "picture_broken"),
        ("import sys\nwhile True: sys.stdout.write('x' * 10**6)", 60, "picture_broken"),
        ("import os; os.kill(os.getpid(), 9)", 60, "picture_broken"),
        ("print('{}')\nwhile True: print('x' * 10**6)", 60, "picture_too_large"),
    ):
        monkeypatch.setattr(pictures, "SECONDS", seconds)
        program.write_text(code)
        assert await refusal(encoded(drawn(), "PNG")) == refused
    assert time.monotonic() - began < 60


async def test_a_process_that_talks_is_ended_while_nobody_reads_what_it_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "sanitize.py"
    program.write_text("import sys\nwhile True: sys.stdout.write('x' * 10**6)")
    monkeypatch.setattr(pictures, "_PROGRAM", str(program))
    monkeypatch.setattr(pictures, "ANSWER_LIMIT", 2**20)
    process, kill = asyncio.subprocess.Process, asyncio.subprocess.Process.kill
    late = 0.1  # a signal's way on a busy machine

    def kill_late(self: asyncio.subprocess.Process) -> None:
        asyncio.get_running_loop().call_later(late, kill, self)

    monkeypatch.setattr(process, "kill", kill_late)
    async with asyncio.timeout(60):
        assert await refusal(encoded(drawn(), "PNG")) == "picture_broken"


async def test_the_process_knows_no_secret(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WEBHOOK_SECRET", "whsec_of_the_gateway")
    program = tmp_path / "sanitize.py"
    told = '{"error": "told", "detail": repr(dict(os.environ))}'
    program.write_text(f"import json, os; print(json.dumps({told}))")
    monkeypatch.setattr(pictures, "_PROGRAM", str(program))
    with pytest.raises(PictureRefused) as answer:
        await Pictures().clean(encoded(drawn(), "PNG"))
    assert answer.value.code == "told" and "SECRET" not in answer.value.detail
