"""Franchises: the words that name one, and the LoRAs that draw it.

A reference in ``loras`` stands under a group of base models (``SDXL``, ``Qwen``), since a LoRA fits no other.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from styles.files import StyleError, check, read

FILE = Path(__file__).with_name("franchises.toml")


@dataclass(frozen=True)
class Franchise:
    """``loras`` gives a LoRA's reference by the group of base models it fits."""

    name: str
    keywords: tuple[str, ...]
    loras: Mapping[str, str]


def load(path: Path = FILE) -> tuple[Franchise, ...]:
    """Every franchise of the file, in its order; StyleError for the first that is not one."""
    facts = read(path)
    check(path, facts, {"version": int, "franchise": list})
    return tuple(_franchise(path, entry) for entry in facts["franchise"])


def mentioned(prompt: str, franchises: tuple[Franchise, ...] | None = None) -> Franchise | None:
    """The franchise whose keyword stands first in the prompt, in any case and as whole words."""
    found = [(at, f) for f in franchises or FRANCHISES if (at := _first(f, prompt)) is not None]
    return min(found, key=lambda pair: pair[0], default=(0, None))[1]


def _first(franchise: Franchise, prompt: str) -> int | None:
    words = "|".join(re.escape(word) for word in franchise.keywords)
    match = re.search(rf"(?<!\w)(?:{words})(?!\w)", prompt, re.IGNORECASE)
    return match.start() if match else None


def _franchise(path: Path, entry: dict[str, object]) -> Franchise:
    check(path, entry, {"name": str, "keywords": list}, {"loras": dict})
    keywords, loras = entry["keywords"], entry.get("loras", {})
    assert isinstance(keywords, list)
    assert isinstance(loras, dict)
    if not all(isinstance(word, str) and word for word in keywords):
        raise StyleError(f"{path}: field `keywords`: expected non-empty strings")
    if not all(isinstance(reference, str) and reference for reference in loras.values()):
        raise StyleError(f"{path}: field `loras`: expected references by group")
    return Franchise(str(entry["name"]), tuple(keywords), loras)


FRANCHISES = load()
