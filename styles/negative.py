"""The negative filter: what no picture should look like."""

from pathlib import Path

from styles.files import check, read

FILE = Path(__file__).with_name("negative.toml")


def load(path: Path = FILE) -> str:
    """The filter's words; StyleError when the file is not one."""
    facts = read(path)
    check(path, facts, {"version": int, "words": str})
    return str(facts["words"])


def negative_prompt(own: str | None, *, supported: bool) -> str | None:
    """The caller's own words, then the filter's; None for a model that understands no negative prompt."""
    if not supported:
        return None
    return f"{own}, {NEGATIVE_WORDS}" if own else NEGATIVE_WORDS


NEGATIVE_WORDS = load()
