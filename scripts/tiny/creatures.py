"""A small world of creatures: the facts that a prompt can name.

A picture shows one creature (or two, side by side) in front of a simple scene.  Every fact below
is visible in the pixels, so that a drawn or generated picture can be scored by plain rules.
"""

import random
from dataclasses import dataclass

SIZE = 96
"""Side of a picture in pixels."""

Color = tuple[int, int, int]

BODIES = ("round", "square", "pointy")
COLORS: dict[str, Color] = {
    "red": (226, 72, 66),
    "yellow": (248, 208, 72),
    "green": (98, 190, 92),
    "blue": (82, 138, 232),
    "purple": (160, 100, 210),
    "pink": (248, 156, 192),
}
HAT_COLORS: dict[str, Color] = {"red": (204, 40, 50), "blue": (44, 84, 200), "yellow": (250, 200, 40)}
HATS = ("none", *HAT_COLORS)
VIEWS = ("front", "side", "back")
SCENES = ("plain", "day", "night", "forest", "beach")
STYLES = ("standard", "flat", "line art", "watercolor", "vintage")

FACTS: dict[str, tuple[str, ...]] = {
    "body": BODIES,
    "color": tuple(COLORS),
    "hat": HATS,
    "view": VIEWS,
    "scene": SCENES,
}


@dataclass(frozen=True)
class Creature:
    """What makes a creature recognisable: it survives a change of view or scene."""

    body: str
    color: str
    hat: str


@dataclass(frozen=True)
class Pose:
    """Free variation that no caption names: it differs from seed to seed."""

    dx: int = 0
    dy: int = 0
    scale: float = 1.0
    sun_left: bool = False
    open_mouth: bool = False


@dataclass(frozen=True)
class Picture:
    """A complete description of one drawing."""

    creatures: tuple[Creature, ...]
    view: str = "front"
    scene: str = "plain"
    style: str = "standard"
    pose: Pose = Pose()

    @property
    def facts(self) -> dict[str, str]:
        """The five facts of the first creature, in the order of ``FACTS``."""
        first = self.creatures[0]
        return {
            "body": first.body,
            "color": first.color,
            "hat": first.hat,
            "view": self.view,
            "scene": self.scene,
        }


def random_creature(rng: random.Random) -> Creature:
    """Any creature; bareheaded twice as often as with one particular hat."""
    return Creature(rng.choice(BODIES), rng.choice(tuple(COLORS)), rng.choice(("none", *HATS)))


def random_pose(rng: random.Random) -> Pose:
    return Pose(
        dx=rng.randint(-3, 3),
        dy=rng.randint(-2, 2),
        scale=rng.choice((0.93, 1.0, 1.07)),
        sun_left=rng.random() < 0.5,
        open_mouth=rng.random() < 0.5,
    )


def random_picture(rng: random.Random, style: str = "standard") -> Picture:
    """Any picture of one creature."""
    creatures = (random_creature(rng),)
    return Picture(creatures, rng.choice(VIEWS), rng.choice(SCENES), style, random_pose(rng))
