"""What draws a picture again, to be carried by its file."""

import hashlib
from typing import Any

from PIL import Image

from modal_app.contract import ImageRequest, UpscaleRequest
from modal_app.engine import Drawing

SCHEMA = 1


def recipe(request: ImageRequest, drawing: Drawing, n: int) -> dict[str, Any]:
    """The recipe of picture ``n`` as plain JSON values.

    Files are named by their hashes alone.  ``pixels_sha256`` binds the recipe to this one picture.
    """
    picture = drawing.pictures[n]
    named = ("model", "prompt", "negative_prompt", "width", "height", "num_inference_steps")
    scales = ("true_cfg_scale", "guidance_scale", "strength", "sampler", "clip_skip")
    return {
        "schema": SCHEMA,
        "task": "upscale" if isinstance(request, UpscaleRequest) else "image",
        **{name: getattr(request, name) for name in (*named, *scales)},
        "seed": picture.seed,
        "references": [{"sha256": use.sha256, "role": use.role} for use in request.references],
        "mask": request.mask.sha256 if request.mask else None,
        "loras": [{"sha256": use.sha256, "scale": use.scale} for use in request.loras],
        "native_size": list(drawing.native_size),
        "resampling": drawing.resampling,
        "fingerprint": drawing.fingerprint,
        "pixels_sha256": pixels_sha256(picture.image),
    }


def pixels_sha256(image: Image.Image) -> str:
    """Of the RGB bytes, row by row: the same for every lossless file of a picture."""
    return hashlib.sha256(image.convert("RGB").tobytes()).hexdigest()


def parameters(recipe: dict[str, Any]) -> str:
    """The field's customary text, which other programs show and read back."""
    settings = {
        "Steps": recipe["num_inference_steps"],
        "Sampler": recipe["fingerprint"].get("scheduler", "none"),
        "CFG scale": recipe["guidance_scale"] or recipe["true_cfg_scale"],
        "Seed": recipe["seed"],
        "Size": f"{recipe['width']}x{recipe['height']}",
        "Model": recipe["model"],
    }
    if recipe["strength"] is not None:
        settings["Denoising strength"] = recipe["strength"]
    if recipe["loras"]:
        hashes = ", ".join(f"{lora['sha256'][:12]}: {lora['scale']:g}" for lora in recipe["loras"])
        settings["Lora hashes"] = f'"{hashes}"'
    lines = [recipe["prompt"]]
    if recipe["negative_prompt"]:
        lines.append(f"Negative prompt: {recipe['negative_prompt']}")
    return "\n".join([*lines, ", ".join(f"{name}: {value}" for name, value in settings.items())])
