"""Draw the small picture of every house style, through a running gateway.

    make up                                   # in another terminal
    python -m scripts.draw_previews [--model tiny-qwen] [--url …] [--key …] [--style design/anime]

The same words and seed are drawn in every style.  A model that was trained on some looks only draws those,
in the words it knows; the other styles get a neutral card in place of a picture that would mislead.
"""

import argparse
import io
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

import styles
from gateway import client
from styles.house import FOLDER

SUBJECT = "a red round creature with a blue hat, front view, on a beach"
SEED = 7
PIXELS = 384
KNOWN = {
    "tiny-qwen": {
        "design/standard": "",
        "design/flat-logo": ", flat style",
        "design/line-art": ", line art",
        "design/watercolor": ", watercolor",
        "design/vintage": ", vintage style",
        "storybook/flat": ", flat style",
        "storybook/watercolor": ", watercolor",
    }
}
"""Styles that a small model can show, and its captions' words for them; other models draw every style."""
PAPER, INK = "#252522", "#a8a69d"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--key", help="default: that of .data")
    parser.add_argument("--model", default="tiny-qwen")
    parser.add_argument("--subject", default=SUBJECT)
    parser.add_argument("--style", action="append", help="only this one; may be repeated")
    parser.add_argument("--out", type=Path, default=FOLDER / "previews")
    options = parser.parse_args()
    key = options.key or Path(".data/dev-key").read_text().strip()
    for style in [styles.STYLES[name] for name in options.style or styles.STYLES]:
        words = KNOWN.get(options.model, {style.id: ""}).get(style.id)
        path = options.out / f"{style.id}.webp"
        if words is None:
            save(card(style.label), path)
            print(f"{path}: a card", file=sys.stderr)
        else:
            prompt = options.subject + words
            save(_draw(options.url, key, {"prompt": prompt, "model": options.model, "style": style.id}), path)


def card(label: str) -> Image.Image:
    """A neutral card with the style's name, which says nothing of its look."""
    image = Image.new("RGB", (PIXELS, PIXELS), PAPER)
    pen = ImageDraw.Draw(image)
    font = ImageFont.load_default(40)
    pen.multiline_text(
        (PIXELS / 2, PIXELS / 2), label.replace(" ", "\n"), INK, font, anchor="mm", align="center"
    )
    pen.rectangle((16, 16, PIXELS - 17, PIXELS - 17), outline="#33332f", width=2)
    return image


def save(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    small = image.convert("RGB").resize((PIXELS, PIXELS), Image.Resampling.LANCZOS)
    small.save(path, "WEBP", quality=82)


def _draw(url: str, key: str, body: dict[str, object]) -> Image.Image:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "picture.png"
        client.generate(url, key, {**body, "seed": SEED, "size": "768x768"}, out)
        return Image.open(io.BytesIO(out.read_bytes()))


if __name__ == "__main__":
    main()
