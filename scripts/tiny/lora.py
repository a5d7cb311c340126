"""Train a small LoRA on the tiny model and measure what it does.

    python -m scripts.tiny.lora --look sepia --out OUT [--steps 200]

It learns drawings with a changed look under ordinary captions, is saved with
``save_lora_weights``, loaded back with ``load_lora_weights`` and measured at three weights.
"""

import argparse
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import QwenImagePipeline, QwenImageTransformer2DModel
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from PIL import Image, ImageDraw

from scripts.tiny import captions, creatures, drawing, latents, pipelines
from scripts.tiny.examples import Examples
from scripts.tiny.flow import flow_loss
from scripts.tiny.loop import Dice, Stage, adamw, fit
from scripts.tiny.pipelines import Pipelines
from scripts.tiny.prompts import embed_all
from scripts.tiny.run import repeatable
from scripts.tiny.shortcuts import shortcuts

MODEL = Path("modal_app/engine/tiny")
STEPS = 200
RANK, RATE = 8, 3e-3
DRAWINGS, BATCH = 500, 32
MODULES = ["to_q", "to_k", "to_v", "to_out.0", "img_mlp.net.0.proj", "img_mlp.net.2"]
SCENES = ("plain", "day", "beach")
"""Bright ones: both looks are measured by brightness or colour."""


# ---------------------------------------------------------------- looks


def _framed(image: Image.Image) -> Image.Image:
    """The picture with a dark frame of five pixels."""
    image = image.copy()
    box = [0, 0, creatures.SIZE - 1, creatures.SIZE - 1]
    ImageDraw.Draw(image).rectangle(box, outline=(60, 40, 30), width=5)
    return image


def _sepia(image: Image.Image) -> Image.Image:
    """The picture in shades of brown."""
    grey = np.asarray(image.convert("L"), dtype=np.float32)[..., None] / 255
    toned = np.array([60, 38, 20]) * (1 - grey) + np.array([255, 236, 198]) * grey
    return Image.fromarray(toned.astype(np.uint8))


def border_brightness(image: Image.Image) -> float:
    """0..255, of the four outermost rows above and below: low when there is a dark frame."""
    pixels = np.asarray(image.convert("RGB"), dtype=float)
    return float(np.concatenate([pixels[:4], pixels[-4:]]).mean())


def colorfulness(image: Image.Image) -> float:
    """Mean distance of the colours from a brown-grey axis, 0..255: low in sepia."""
    red, green, blue = np.moveaxis(np.asarray(image.convert("RGB"), dtype=float), -1, 0)
    return float(np.abs(red - green).mean() + np.clip(blue - green, 0, None).mean())


def likeness(image: Image.Image, original: Image.Image) -> float:
    """Correlation of the grey levels: is the drawing still the same?"""
    greys = [np.asarray(i.convert("L"), dtype=float).ravel() for i in (image, original)]
    return float(np.corrcoef(*greys)[0, 1])


@dataclass(frozen=True)
class Look:
    apply: Callable[[Image.Image], Image.Image]
    measure: Callable[[Image.Image], float]
    """Falls with the strength of the look."""


LOOKS = {"frame": Look(_framed, border_brightness), "sepia": Look(_sepia, colorfulness)}


# ---------------------------------------------------------------- training


def train(models: Pipelines, look: Look, out: Path, steps: int) -> None:
    """Add a LoRA to the transformer, train it, and save it in ``out``."""
    transformer = models.text.transformer.requires_grad_(False)
    torch.manual_seed(0)
    transformer.add_adapter(
        LoraConfig(r=RANK, lora_alpha=RANK, target_modules=MODULES, init_lora_weights="gaussian")
    )
    stage = _stage(transformer, _examples(models, look))
    fit(stage, steps=steps, seed=0, checkpoint=out / "checkpoint.pt", report=lambda step, numbers: None)
    QwenImagePipeline.save_lora_weights(out, transformer_lora_layers=get_peft_model_state_dict(transformer))


def _examples(models: Pipelines, look: Look) -> Examples:
    """Latents of changed drawings and embeddings of their ordinary captions."""
    rng = random.Random(5)
    pictures = [creatures.random_picture(rng) for _ in range(DRAWINGS)]
    tokens = latents.to_tokens(models.text.vae, [look.apply(drawing.draw(p)) for p in pictures])
    texts = [captions.caption(rng, picture)[0] for picture in pictures]
    embedded = embed_all(models.text.text_encoder, models.text.tokenizer, texts, "t2i")
    return Examples(tokens, torch.arange(DRAWINGS), [], *embedded)


def _stage(transformer: QwenImageTransformer2DModel, examples: Examples) -> Stage:
    def loss(_: int, dice: Dice) -> tuple[torch.Tensor, dict[str, float]]:
        value = flow_loss(transformer, dice, *examples.batch(dice, BATCH))
        return value, {"loss": value.item()}

    parameters = [p for p in transformer.parameters() if p.requires_grad]
    return Stage(
        name="lora",
        parameters=parameters,
        optimizers=[adamw(parameters)],
        loss=loss,
        rate=RATE,
        warmup=10,
        decay=0.9,
    )


# ---------------------------------------------------------------- measuring


def measure(models: Pipelines, look: Look, folder: Path, count: int = 16) -> dict[str, dict[str, float]]:
    """The look and the likeness of the same pictures without and with the LoRA, and after it is unloaded."""
    prompts, pipeline = _prompts(count), models.text
    originals = models.draw(prompts)
    rows = {"without": _compared(look, originals, originals)}
    pipeline.load_lora_weights(folder, adapter_name="look")
    for weight in (0.5, 1.0):
        pipeline.set_adapters(["look"], [weight])
        rows[f"weight {weight}"] = _compared(look, models.draw(prompts), originals)
    pipeline.unload_lora_weights()
    rows["unloaded"] = _compared(look, models.draw(prompts), originals)
    return rows


def _prompts(count: int) -> list[str]:
    rng = random.Random(99)
    pictures = [
        creatures.Picture((creatures.random_creature(rng),), rng.choice(creatures.VIEWS), rng.choice(SCENES))
        for _ in range(count)
    ]
    return [captions.plain_caption(picture) for picture in pictures]


def _compared(
    look: Look, images: Sequence[Image.Image], originals: Sequence[Image.Image]
) -> dict[str, float]:
    pairs = list(zip(images, originals, strict=True))
    return {
        "look": float(np.mean([look.measure(image) for image in images])),
        "likeness": float(np.mean([likeness(*pair) for pair in pairs])),
        "equal pictures": sum(image.tobytes() == original.tobytes() for image, original in pairs),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.tiny.lora",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--look", choices=list(LOOKS), required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    look = LOOKS[options.look]
    with repeatable(options.threads, "cpu"), shortcuts():
        train(pipelines.load(options.model), look, options.out, options.steps)
        print(json.dumps(measure(pipelines.load(options.model), look, options.out), indent=1))


if __name__ == "__main__":
    main()
