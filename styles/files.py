"""Reading a TOML file with exactly the fields it should have."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class StyleError(Exception):
    """A file is wrong; the message names file, field and reason."""


def read(path: Path) -> dict[str, Any]:
    """The file's table; StyleError when it is not TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise StyleError(f"{path}: not TOML: {error}") from error


def check(
    path: Path,
    facts: Mapping[str, Any],
    needed: Mapping[str, type],
    optional: Mapping[str, type] | None = None,
) -> None:
    """StyleError for the first field that is missing, empty, of another kind, or unknown."""
    known = {**needed, **(optional or {})}
    for field, kind in known.items():
        given = facts.get(field)
        if (field in needed or field in facts) and (not isinstance(given, kind) or not given):
            raise StyleError(f"{path}: field `{field}`: expected a non-empty {kind.__name__}")
    unknown = facts.keys() - known.keys()
    if unknown:
        raise StyleError(f"{path}: field `{min(unknown)}`: unknown")
