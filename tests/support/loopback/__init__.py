"""Processes that reach their own machine and nothing else; what they tried is written down."""

from pathlib import Path

ROOT = Path(__file__).parents[3]


def confined(escapes: Path) -> dict[str, str]:
    """The environment of a process that is kept in, and its children; see ``sitecustomize.py``."""
    return {"PYTHONPATH": f"{Path(__file__).parent}:{ROOT}", "ESCAPES": str(escapes)}
