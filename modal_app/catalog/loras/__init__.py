"""LoRA files: told apart by their header alone, before any GPU time is spent.

inspect        what a file is, from its safetensors header; no tensor is read
check_family   whether it fits the models of a ``lora_group``
"""

from modal_app.catalog.loras.files import KeyFormat, LoraFile, check_family, inspect
from modal_app.catalog.loras.invalid import InvalidLora

__all__ = ["InvalidLora", "KeyFormat", "LoraFile", "check_family", "inspect"]
