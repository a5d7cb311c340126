"""What is known of a character's looks, from what its owner says and what a model saw: pure functions."""

from collections.abc import Mapping
from typing import Any

from gateway.characters.prompts import Profile
from modal_app.contract import ProfileResult

INVARIANTS_MAX = 20
"""As many traits as the task ``judge`` looks for."""

_PASSING = frozenset({"view", "scene", "expression", "age_group"})
"""Traits of a picture, or of a moment, and not of the character."""


def observed(given: Mapping[str, Any], seen: ProfileResult) -> dict[str, Any]:
    """Columns of a profile's row.  What the owner gave stays; a model fills in what is missing.

    ``given`` has ``color_palette``, ``do_not_change`` and ``attributes``.
    """
    traits = [f"{name}: {value}" for name, value in seen.profile.items() if name not in _PASSING]
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
        color_palette=looks.get("color_palette", ()),
        do_not_change=looks.get("do_not_change", ()),
        attributes=looks.get("attributes", {}),
        trained_words=character.get("trained_words", ()),
    )
