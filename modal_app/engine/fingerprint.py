"""What a picture's bytes depend on beside the request."""

import hashlib
import json
import platform
from pathlib import Path
from typing import Any

import diffusers
import PIL
import torch
import transformers

from modal_app.catalog import Model


def fingerprint(model: Model, checkpoint: Path, pipeline: Any) -> dict[str, Any]:
    """Plain JSON values; ``checkpoint`` is the folder, or the one file, that the pipeline came from."""
    return {
        "model": model.id,
        "checkpoint": model.checkpoint,
        "revision": model.revision,
        "quant": model.quant,
        "weights_sha256": weights_sha256(checkpoint),
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "transformers": transformers.__version__,
        "pillow": PIL.__version__,
        # Where it computes: of an offloaded pipeline, ``pipeline.device`` names where it waits.
        "device": device_name(pipeline._execution_device),
        "dtype": str(_denoiser(pipeline).dtype).removeprefix("torch."),
        "scheduler": type(pipeline.scheduler).__name__,
    }


def weights_sha256(checkpoint: Path) -> dict[str, str]:
    """Hash of every weights file, by its path in the checkpoint.

    As the manifest of what was fetched says, where there is one: to hash 40 GB again takes a minute.
    """
    folder = checkpoint.parent if checkpoint.is_file() else checkpoint
    files = [checkpoint] if checkpoint.is_file() else sorted(folder.rglob("*.safetensors"))
    recorded = _recorded(folder)
    names = {path.relative_to(folder).as_posix(): path for path in files}
    return {name: recorded.get(name) or _sha256(path) for name, path in names.items()}


def _recorded(folder: Path) -> dict[str, str]:
    try:
        files = json.loads((folder / "manifest.json").read_text())["files"]
        return {str(name): str(facts["sha256"]) for name, facts in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def device_name(device: torch.device) -> str:
    """CPUs are told apart by their instruction set: that is what decides how sums are rounded."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"


def _denoiser(pipeline: Any) -> Any:
    """The part that is called at every step, under the name that its family gives it."""
    return pipeline.transformer if hasattr(pipeline, "transformer") else pipeline.unet


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
