"""What a character's pictures are asked for in words: pure functions of stored data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import styles
from styles import Style

VIEWS = ("front", "side", "back")
ANGLES = (0, 45, 90, 135, 180, 225, 270, 315)
"""Degrees to the character's left; 0 looks into the camera."""

SEPARATOR = " | "
_VIEW_WORDS = {"front": "front view", "side": "side view", "back": "back view"}
_ANGLE_WORDS = {
    0: "front view",
    45: "three-quarter view from the left",
    90: "side view from the left",
    135: "three-quarter back view from the left",
    180: "back view",
    225: "three-quarter back view from the right",
    270: "side view from the right",
    315: "three-quarter view from the right",
}


@dataclass(frozen=True)
class Profile:
    """What is known of a character; empty where nothing is."""

    name: str = ""
    age: str = ""
    ethnicity: str = ""
    gender: str = ""
    description: str = ""
    color_palette: Sequence[str] = ()
    do_not_change: Sequence[str] = ()
    attributes: Mapping[str, str] = field(default_factory=dict)
    trained_words: Sequence[str] = ()


def character_prompt(profile: Profile, style: Style | None, opening: str | None = None) -> str:
    """The portrait of a character in a style: every invariant of the profile is in it, for every style.

    ``opening`` takes the place of the template's "Child portrait …"; an empty one leaves it out.
    """
    first = styles.TEMPLATES["child-portrait"].render({}) if opening is None else opening
    palette = f"palette: {', '.join(profile.color_palette)}" if profile.color_palette else ""
    kept = "; ".join(f"keep {trait}" for trait in profile.do_not_change)
    parts = (first, palette, kept, style.keywords if style else "")
    return SEPARATOR.join(part for part in parts if part)


def described_prompt(profile: Profile, style: Style | None, opening: str | None = None) -> str:
    """The same of a character that is known in words only: they take the place of the opening."""
    words = f"{profile.description}, front view, full body, plain white background"
    return character_prompt(profile, style, words if opening is None else opening)


def initial_image_prompt(profile: Profile, framing: str = "two") -> str:
    """The suggestion for a master reference: stored values in the photoreal template, nothing invented."""
    known = {name: getattr(profile, name) for name in ("name", "age", "ethnicity", "gender")}
    return styles.TEMPLATES["photoreal"].render(known, framing)


def view_prompt(profile: Profile, view: str, style: Style | None = None, *, from_reference: bool) -> str:
    """One of ``VIEWS``.  With a reference picture the words leave looks to it; without one they say them."""
    if from_reference:
        return f"the same character, {_VIEW_WORDS[view]}, full body, plain white background"
    looks = [*profile.trained_words, *_looks(profile)]
    words = ", ".join([*looks, _VIEW_WORDS[view], "full body", "plain white background"])
    return styles.apply(style, words)


def angle_prompt(angle: int) -> str:
    """The same character turned by ``angle`` degrees, 0 to 359, in the words of the nearest of ``ANGLES``."""
    nearest = min(ANGLES, key=lambda known: min(abs(known - angle), 360 - abs(known - angle)))
    turned = "" if angle in ANGLES else f", turned by {angle} degrees"
    return f"the same character, {_ANGLE_WORDS[nearest]}{turned}, full body, plain white background"


def scene_prompt(scene: str) -> str:
    """The same character somewhere; the scene as it was typed."""
    return f"the same character, {scene}"


def _looks(profile: Profile) -> list[str]:
    """What the character looks like, each thing once."""
    said = [profile.description, *profile.attributes.values(), *profile.do_not_change]
    return list(dict.fromkeys(words for words in said if words))
