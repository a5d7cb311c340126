"""Named prompt templates: one TOML file each, in ``templates/``.

    opening = "{name}, {age} {ethnicity} {gender}, cinematic hero shot."
    exclusions = "NOT CGI."
    closing = "No text."
    [framing]
    single = "chest-to-mid-thigh crop."

A prompt is opening, framing, exclusions and closing, in this order and as far as the template has them.
"""

import re
import string
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from styles.files import StyleError, check, read

FOLDER = Path(__file__).parent / "templates"
_QUOTES = str.maketrans("", "", '"“”„«»`')


@dataclass(frozen=True)
class Template:
    """``placeholders`` are what the opening may be told; ``framing`` gives compositions by name."""

    name: str
    label: str
    version: int
    opening: str
    exclusions: str = ""
    closing: str = ""
    framing: Mapping[str, str] = field(default_factory=dict)

    @property
    def placeholders(self) -> tuple[str, ...]:
        return tuple(name for _, name, _, _ in string.Formatter().parse(self.opening) if name)

    def render(self, values: Mapping[str, str | None], framing: str | None = None) -> str:
        """The prompt: same values, same text.  What is not known is left out, and nothing is put in quotes.

        KeyError for a framing that the template does not have.
        """
        known = {name: (values.get(name) or "").translate(_QUOTES).strip() for name in self.placeholders}
        composition = self.framing[framing] if framing else ""
        parts = (_tidy(self.opening.format_map(known)), composition, self.exclusions, self.closing)
        return " ".join(part for part in parts if part)


def load(folder: Path = FOLDER) -> dict[str, Template]:
    """Every template of the folder by name; StyleError for the first file that is not one."""
    return {path.stem: _template(path) for path in sorted(folder.glob("*.toml"))}


def _template(path: Path) -> Template:
    facts = read(path)
    optional = {"exclusions": str, "closing": str, "framing": dict}
    check(path, facts, {"label": str, "version": int, "opening": str}, optional)
    if not all(isinstance(text, str) and text for text in facts.get("framing", {}).values()):
        raise StyleError(f"{path}: field `framing`: expected texts by name")
    return Template(path.stem, **facts)


def _tidy(text: str) -> str:
    """Close the gaps that missing values leave: double spaces, and commas with nothing between them."""
    text = re.sub(r"\s+", " ", text)
    text = re.sub(r"(?:\s*,)+", ",", text)
    return re.sub(r"^[ ,]+|,\s*(?=\.)", "", text).strip()


TEMPLATES = load()
