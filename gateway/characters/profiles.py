"""What is known of a character's looks, from what its owner says and what a model saw: pure functions."""

from collections.abc import Mapping
from typing import Any

from gateway.characters.prompts import Profile
from modal_app.contract import ProfileResult

INVARIANTS_MAX = 20
"""As many traits as the task ``judge`` looks for."""

_PASSING = frozenset({"view", "scene", "expression", "age_group"})
"""Traits of a picture, or of a moment, and not of the character."""
_WHOLE = frozenset({"species", "build", "clothing", "accessories", "distinctive_marks"})
"""Traits whose value says by itself what it is the value of."""

COLORS = {
    "black": (30, 28, 34),
    "gray": (128, 128, 128),
    "white": (255, 255, 255),
    "red": (220, 50, 50),
    "orange": (240, 140, 40),
    "yellow": (245, 210, 60),
    "green": (70, 160, 70),
    "blue": (60, 110, 220),
    "purple": (140, 80, 190),
    "pink": (245, 160, 190),
    "brown": (120, 75, 45),
    "beige": (225, 200, 165),
}
"""What a text encoder understands, which has never seen a number such as #2c54c8."""


def observed(given: Mapping[str, Any], seen: ProfileResult) -> dict[str, Any]:
    """Columns of a profile's row.  What the owner gave stays; a model fills in what is missing.

    ``given`` has ``color_palette``, ``do_not_change`` and ``attributes``.
    """
    traits = [_phrase(name, value) for name, value in seen.profile.items() if name not in _PASSING]
    return {
        "color_palette": list(given["color_palette"] or seen.color_palette),
        "do_not_change": list(given["do_not_change"] or traits[:INVARIANTS_MAX]),
        "attributes": {**seen.profile, **given["attributes"]},
        "source": seen.answered_by,
    }


def stated(given: Mapping[str, Any]) -> dict[str, Any]:
    """The same of a character whom no model has looked at."""
    return observed(given, ProfileResult(profile={}, color_palette=[], answered_by="fallback"))


def profile_of(character: Mapping[str, Any], row: Mapping[str, Any] | None) -> Profile:
    """For prompts: a character's row, and that of its profile where there is one."""
    looks: Mapping[str, Any] = row or {}
    named = ("name", "age", "ethnicity", "gender", "description")
    return Profile(
        **{name: character[name] or "" for name in named},
        color_palette=list(dict.fromkeys(color_name(each) for each in looks.get("color_palette", ()))),
        do_not_change=looks.get("do_not_change", ()),
        attributes=looks.get("attributes", {}),
        trained_words=character.get("trained_words", ()),
    )


def color_name(color: str) -> str:
    """The nearest of ``COLORS`` to ``#rrggbb``; what is in words already stays."""
    try:
        rgb = tuple(bytes.fromhex(color.removeprefix("#"))) if color.startswith("#") else ()
    except ValueError:
        rgb = ()
    if len(rgb) != len(COLORS["black"]):
        return color
    return min(COLORS, key=lambda name: sum((a - b) ** 2 for a, b in zip(COLORS[name], rgb, strict=True)))


def _phrase(name: str, value: str) -> str:
    """A trait as one would say it: blue hat, short curly black hair, no hat."""
    if name in _WHOLE or name in value.split():
        return value
    return f"no {name}" if value == "none" else f"{value} {name}"
