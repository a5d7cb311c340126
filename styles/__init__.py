"""House styles, prompt templates, franchises and the negative filter: data in TOML files, read once.

A bad file is refused when the package loads, with file, field and reason.
"""

from styles.files import StyleError
from styles.franchises import FRANCHISES, Franchise
from styles.house import SETS, STYLES, Style, apply, find, load
from styles.negative import NEGATIVE_WORDS, negative_prompt
from styles.templates import TEMPLATES, Template

__all__ = [
    "FRANCHISES",
    "NEGATIVE_WORDS",
    "SETS",
    "STYLES",
    "TEMPLATES",
    "Franchise",
    "Style",
    "StyleError",
    "Template",
    "apply",
    "find",
    "load",
    "negative_prompt",
]
