"""House styles: one TOML file each, in ``design/`` and ``storybook/``.

    label = "Anime"
    keywords = "vibrant colors, detailed shading, anime art style"
    version = 1

An id is ``set/name``.  Adding a style is adding a file.
"""

from dataclasses import dataclass
from pathlib import Path

from styles.files import check, read

SETS = ("design", "storybook")
FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Style:
    """One house style: what it is called and what it adds to a prompt."""

    id: str
    set: str
    label: str
    keywords: str
    version: int

    @property
    def preview(self) -> Path | None:
        """A small picture of the style, WebP; None where nobody has drawn one."""
        path = FOLDER / "previews" / f"{self.id}.webp"
        return path if path.exists() else None


def load(folder: Path = FOLDER) -> dict[str, Style]:
    """Every style below ``folder`` by id; StyleError for the first file that is not one."""
    files = [path for name in SETS for path in sorted((folder / name).glob("*.toml"))]
    return {style.id: style for style in map(_style, files)}


def find(name: str, default_set: str = "design") -> Style | None:
    """The style with this id, or with this label or bare name in any case.

    A bare name that stands in both sets means the one in ``default_set``.
    """
    wanted = name.strip().lower()
    if wanted in STYLES:
        return STYLES[wanted]
    named = [s for s in STYLES.values() if wanted in (s.label.lower(), s.id.partition("/")[2])]
    return min(named, key=lambda style: style.set != default_set, default=None)


def apply(style: Style | None, prompt: str) -> str:
    """The prompt with the style's keywords behind it; byte for byte the prompt without a style."""
    return f"{prompt}, {style.keywords}" if style else prompt


def _style(path: Path) -> Style:
    facts = read(path)
    check(path, facts, {"label": str, "keywords": str, "version": int})
    return Style(f"{path.parent.name}/{path.stem}", path.parent.name, **facts)


STYLES = load()
