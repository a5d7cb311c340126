"""Words of the world: captions, edit instructions, and answers to the two questions."""

import json
import random
from dataclasses import replace

from scripts.tiny.creatures import FACTS, SCENES, Picture

SCENE_WORDS = {
    "plain": ("on a plain white background", "on white", "on a white background"),
    "day": ("on a sunny day", "in the sunshine", "by day"),
    "night": ("at night", "under the moon", "in the night"),
    "forest": ("in a forest", "in the forest", "among trees"),
    "beach": ("on a beach", "at the beach", "by the sea"),
}
STYLE_WORDS = {
    "standard": "",
    "flat": "flat style",
    "line art": "line art",
    "watercolor": "watercolor",
    "vintage": "vintage style",
}
FILLERS = ("cute", "happy", "little", "small", "friendly", "charming", "funny", "lovely")

JSON_QUESTION = "describe the picture as JSON"
TEXT_QUESTION = "describe the picture"

# ---------------------------------------------------------------- captions


def plain_caption(picture: Picture) -> str:
    """The one complete caption in fixed word order; also the answer to 'describe the picture'."""
    c = picture.creatures[0]
    hat = "without a hat" if c.hat == "none" else f"with a {c.hat} hat"
    return f"a {c.color} {c.body} creature {hat}, {picture.view} view, {SCENE_WORDS[picture.scene][0]}"


def json_answer(picture: Picture) -> str:
    """The answer to 'describe the picture as JSON'."""
    return json.dumps(picture.facts)


def with_style(text: str, style: str) -> str:
    return f"{text}, {STYLE_WORDS[style]}" if STYLE_WORDS[style] else text


def caption(rng: random.Random, picture: Picture, drop: float = 0.12) -> tuple[str, set[str]]:
    """A random caption of a one-creature picture, and the facts that it leaves open.

    An unnamed hat means no hat and an unnamed view means the front view, so those are only
    dropped when that is what the picture shows.  Body, colour and scene may be left open, each
    with the probability ``drop``.
    """
    creature = picture.creatures[0]
    left_open = {name for name in ("body", "color", "scene") if rng.random() < drop}
    words = _noun(
        rng,
        color="" if "color" in left_open else creature.color,
        body="" if "body" in left_open else creature.body,
    )
    unsaid = picture.view == "front" and rng.random() < 0.35
    view = "" if unsaid else f"{picture.view} view"
    scene = "" if "scene" in left_open else rng.choice(SCENE_WORDS[picture.scene])
    text = _in_some_order(rng, f"a {words} {_hat_words(rng, creature.hat)}".strip(), view, scene)
    return with_style(text, picture.style), left_open


def _noun(rng: random.Random, color: str, body: str) -> str:
    words = [color, body] if rng.random() < 0.75 else [body, color]
    if rng.random() < 0.2:
        words.insert(0, rng.choice(FILLERS))
    words.append(rng.choice(("creature", "creature", "creature", "creature", "monster")))
    return " ".join(word for word in words if word)


def _hat_words(rng: random.Random, hat: str) -> str:
    if hat == "none":
        return rng.choice(("", "", "without a hat", "with no hat"))
    return rng.choice(("with a {} hat", "wearing a {} hat", "in a {} hat")).format(hat)


def _in_some_order(rng: random.Random, subject: str, view: str, scene: str) -> str:
    order, parts = rng.random(), [subject, view, scene]
    if order < 0.2:
        parts = [scene, subject, view]
    elif order < 0.35 and view:
        parts = [f"{view} of {subject}", scene]
    elif order < 0.5:
        parts = [f"{subject} {scene}".strip(), view]
    return ", ".join(part for part in parts if part)


# ---------------------------------------------------------------- edits

EDIT_KINDS = ("view", "scene", "color", "hat")

_INSTRUCTIONS = {
    "view": (
        "show the same creature, {} view",
        "the same creature, {} view",
        "{} view",
        "turn it to the {} view",
    ),
    "scene": ("put the creature {}", "the same creature {}", "change the scene: {}"),
    "color": ("make the creature {}", "change the body colour to {}", "paint it {}"),
    "hat": ("give it a {} hat", "with a {} hat", "change the hat to {}"),
}
_HAT_OFF = ("remove the hat", "without a hat", "take off the hat")
_BOTH = (
    "both creatures side by side, {}",
    "the two creatures next to each other, {}",
    "the creature from Picture 1 on the left and the creature from Picture 2 on the right, {}",
)


def edit(rng: random.Random, picture: Picture, kind: str) -> tuple[str, Picture]:
    """(instruction, edited picture): one named fact changes, everything else stays.

    The instruction does not name what stays; only a reference picture can tell.
    """
    value = rng.choice([option for option in FACTS[kind] if option != picture.facts[kind]])
    return _instruction(rng, kind, value), _changed(picture, kind, value)


def _instruction(rng: random.Random, kind: str, value: str) -> str:
    if kind == "hat" and value == "none":
        return rng.choice(_HAT_OFF)
    words = rng.choice(SCENE_WORDS[value]) if kind == "scene" else value
    return rng.choice(_INSTRUCTIONS[kind]).format(words)


def _changed(picture: Picture, kind: str, value: str) -> Picture:
    if kind == "view":
        return replace(picture, view=value)
    if kind == "scene":
        return replace(picture, scene=value)
    creature = picture.creatures[0]
    changed = replace(creature, color=value) if kind == "color" else replace(creature, hat=value)
    return replace(picture, creatures=(changed,))


def pair(rng: random.Random, first: Picture, second: Picture) -> tuple[str, Picture]:
    """(instruction, picture with both creatures): Picture 1 stands left, Picture 2 right."""
    scene = rng.choice(SCENES)
    words = rng.choice(SCENE_WORDS[scene])
    creatures = first.creatures + second.creatures
    return rng.choice(_BOTH).format(words), Picture(creatures, "front", scene, first.style, first.pose)
