"""LoRA files: told apart by their header alone, then attached to a loaded pipeline for one run.

    inspect        what a file is, from its safetensors header; no tensor is read, no torch is imported
    check_family   whether it fits the models of a ``lora_group``
    attach         ``with attached(backend, uses)``: two ways to attach behind one interface; imports torch

Importing this package imports no torch: the service refuses a file before a model is loaded.
"""

from modal_app.engine.loras.files import KeyFormat, LoraFile, check_family, inspect
from modal_app.engine.loras.invalid import InvalidLora

__all__ = ["InvalidLora", "KeyFormat", "LoraFile", "check_family", "inspect"]
