"""Pictures of the world, drawn with plain shapes."""

from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from scripts.tiny.creatures import COLORS, HAT_COLORS, SIZE, Color, Creature, Picture

OVERSAMPLE = 3
"""Drawn this many times larger, then reduced: smooth edges."""

INK: Color = (48, 38, 52)
WHITE: Color = (255, 255, 255)
PAIR_X = (25, 71)
"""Middles of the left and the right creature of a pair."""
PAIR_Y, PAIR_SCALE = 60, 0.76

Numbers = Sequence[float]
Points = Sequence[tuple[float, float]]


def draw(picture: Picture) -> Image.Image:
    """The picture as an image of 96 x 96 pixels."""
    canvas, pose = Canvas(picture.style), picture.pose
    draw_scene(canvas, picture.scene, pose.sun_left)
    if len(picture.creatures) == 1:
        places = [(48 + pose.dx, 58 + pose.dy, pose.scale)]
    else:
        places = [(x + pose.dx // 2, PAIR_Y + pose.dy, PAIR_SCALE) for x in PAIR_X]
    for creature, place in zip(picture.creatures, places, strict=True):
        _draw_creature(canvas, creature, picture.view, pose.open_mouth, *place)
    return canvas.finished()


def sheet(images: Sequence[Image.Image], columns: int, zoom: int = 2) -> Image.Image:
    """A contact sheet of pictures of the native size."""
    side = SIZE * zoom
    out = Image.new("RGB", (columns * side, -(-len(images) // columns) * side), WHITE)
    for i, image in enumerate(images):
        enlarged = image.resize((side, side), Image.Resampling.BICUBIC)
        out.paste(enlarged, (i % columns * side, i // columns * side))
    return out


class Canvas:
    """Drawing in picture coordinates (0..96); a style may drop outlines or fillings."""

    def __init__(self, style: str) -> None:
        self.style = style
        self.image = Image.new("RGB", (SIZE * OVERSAMPLE, SIZE * OVERSAMPLE), WHITE)
        self.pen = ImageDraw.Draw(self.image)

    def rectangle(self, box: Numbers, color: Color, outline: float = 0.0, radius: float = 0.0) -> None:
        width, radius = self._outline_width(outline), radius * OVERSAMPLE
        self.pen.rounded_rectangle(
            _scaled(box), radius, self._fill(color), outline=INK if width else None, width=max(width, 1)
        )

    def ellipse(self, box: Numbers, color: Color, outline: float = 0.0) -> None:
        width = self._outline_width(outline)
        self.pen.ellipse(_scaled(box), self._fill(color), outline=INK if width else None, width=max(width, 1))

    def polygon(self, points: Points, color: Color, outline: float = 0.0, rounding: float = 0.0) -> None:
        """A polygon whose corners are rounded by stroking its border with a thick line."""
        corners = [(x * OVERSAMPLE, y * OVERSAMPLE) for x, y in points]
        width = self._outline_width(outline)
        if width:
            self._stroke(corners, INK, 2 * rounding * OVERSAMPLE + 2 * width)
            self.pen.polygon(corners, fill=INK)
        if rounding:
            self._stroke(corners, self._fill(color), 2 * rounding * OVERSAMPLE)
        self.pen.polygon(corners, fill=self._fill(color))

    def ink_dot(self, x: float, y: float, radius_x: float, radius_y: float) -> None:
        self.pen.ellipse(_scaled((x - radius_x, y - radius_y, x + radius_x, y + radius_y)), fill=INK)

    def smile(self, box: Numbers) -> None:
        self.pen.arc(_scaled(box), 20, 160, fill=INK, width=round(1.6 * OVERSAMPLE))

    def finished(self) -> Image.Image:
        finish = {"watercolor": _watercolor, "vintage": _vintage}.get(self.style)
        image = finish(self.image) if finish else self.image
        return image.resize((SIZE, SIZE), Image.Resampling.BOX)

    def _fill(self, color: Color) -> Color:
        return WHITE if self.style == "line art" else color

    def _outline_width(self, width: float) -> int:
        return 0 if self.style in ("flat", "watercolor") else round(width * OVERSAMPLE)

    def _stroke(self, points: list[tuple[float, float]], color: Color, width: float) -> None:
        width = round(width)
        for (x0, y0), (x1, y1) in zip(points, points[1:] + points[:1], strict=True):
            self.pen.line([x0, y0, x1, y1], fill=color, width=width)
            for x, y in ((x0, y0), (x1, y1)):
                box = [x - width / 2, y - width / 2, x + width / 2, y + width / 2]
                self.pen.ellipse(box, fill=color)


def _scaled(values: Iterable[float]) -> list[float]:
    return [value * OVERSAMPLE for value in values]


def _watercolor(image: Image.Image) -> Image.Image:
    soft = image.filter(ImageFilter.GaussianBlur(1.5 * OVERSAMPLE))
    return Image.blend(soft, Image.new("RGB", image.size, (255, 252, 245)), 0.3)


def _vintage(image: Image.Image) -> Image.Image:
    grey = np.asarray(image.convert("L"), dtype=np.float32)[..., None] / 255
    toned = np.array([70, 45, 25]) * (1 - grey) + np.array([250, 232, 195]) * grey
    return Image.fromarray(toned.astype(np.uint8))


# ---------------------------------------------------------------- scenes


def draw_scene(canvas: Canvas, scene: str, sun_left: bool) -> None:
    """The background; plain is the empty white canvas."""
    if scene == "plain":
        return
    line = 1.2 if canvas.style == "line art" else 0.0
    sun_x = 15 if sun_left else SIZE - 15
    if scene == "forest":
        _draw_forest(canvas, line)
    elif scene == "night":
        _draw_night(canvas, sun_x, line)
    else:
        {"day": _draw_day, "beach": _draw_beach}[scene](canvas, sun_x, line)


def _sky(canvas: Canvas, color: Color) -> None:
    canvas.rectangle([0, 0, SIZE, SIZE], color)


def _ground(canvas: Canvas, color: Color, line: float) -> None:
    canvas.rectangle([-2, 68, SIZE + 2, SIZE + 2], color, line)


def _draw_day(canvas: Canvas, sun_x: int, line: float) -> None:
    _sky(canvas, (184, 226, 250))
    canvas.ellipse([sun_x - 9, 5, sun_x + 9, 23], (255, 214, 70), line)
    _ground(canvas, (142, 214, 110), line)


def _draw_beach(canvas: Canvas, sun_x: int, line: float) -> None:
    _sky(canvas, (206, 238, 250))
    canvas.ellipse([sun_x - 9, 5, sun_x + 9, 23], (255, 170, 80), line)
    canvas.rectangle([-2, 50, SIZE + 2, SIZE], (56, 172, 190), line)
    _ground(canvas, (244, 224, 168), line)


def _draw_night(canvas: Canvas, moon_x: int, line: float) -> None:
    _sky(canvas, (38, 42, 92))
    canvas.ellipse([moon_x - 8, 6, moon_x + 8, 22], (250, 244, 200), line)
    for x, y in ((36, 8), (60, 12), (SIZE - moon_x, 18), (10, 44), (86, 46)):
        canvas.ellipse([x - 1.4, y - 1.4, x + 1.4, y + 1.4], (255, 250, 220), line / 2)
    _ground(canvas, (52, 74, 92), line)


def _draw_forest(canvas: Canvas, line: float) -> None:
    _sky(canvas, (212, 236, 214))
    _ground(canvas, (122, 156, 84), line)
    for x in (9, 87):
        canvas.rectangle([x - 3, 58, x + 3, 74], (128, 88, 58), line)
        canvas.polygon([(x - 15, 60), (x, 12), (x + 15, 60)], (44, 112, 72), line)


# ---------------------------------------------------------------- creatures


def _draw_creature(
    canvas: Canvas, creature: Creature, view: str, open_mouth: bool, x: float, y: float, s: float
) -> None:
    """(x, y) is the middle of the body, s its scale."""
    if view == "side":
        _draw_tail(canvas, creature, x, y, s)
    _draw_body(canvas, creature, x, y, s)
    if view == "back":
        canvas.ellipse([x - 6 * s, y + 7 * s, x + 6 * s, y + 18 * s], WHITE, 1.6)
    else:
        _draw_face(canvas, creature, view, open_mouth, x, y, s)
    if creature.hat != "none":
        _draw_hat(canvas, creature, x, y, s)


def _shade(color: Color, factor: float) -> Color:
    red, green, blue = (int(channel * factor) for channel in color)
    return red, green, blue


def _draw_tail(canvas: Canvas, creature: Creature, x: float, y: float, s: float) -> None:
    color = _shade(COLORS[creature.color], 0.85)
    canvas.ellipse([x - 32 * s, y + 6 * s, x - 17 * s, y + 19 * s], color, 2)


def _draw_body(canvas: Canvas, creature: Creature, x: float, y: float, s: float) -> None:
    color = COLORS[creature.color]
    for foot_x in (x - 11 * s, x + 11 * s):
        box = [foot_x - 7 * s, y + 18 * s, foot_x + 7 * s, y + 28 * s]
        canvas.ellipse(box, _shade(color, 0.72), 2)
    if creature.body == "round":
        canvas.ellipse([x - 25 * s, y - 24 * s, x + 25 * s, y + 24 * s], color, 2)
    elif creature.body == "square":
        canvas.rectangle([x - 22 * s, y - 22 * s, x + 22 * s, y + 23 * s], color, 2, radius=5 * s)
    else:
        corners = [(x - 22 * s, y + 19 * s), (x, y - 23 * s), (x + 22 * s, y + 19 * s)]
        canvas.polygon(corners, color, 2, rounding=4 * s)


def _draw_face(
    canvas: Canvas, creature: Creature, view: str, open_mouth: bool, x: float, y: float, s: float
) -> None:
    y += 5 * s if creature.body == "pointy" else -3 * s
    front = view == "front"
    mouth_x = x if front else x + 14 * s
    for cheek_x in (x - 14 * s, x + 14 * s) if front else (x + 2 * s,):
        canvas.ellipse([cheek_x - 3.4 * s, y + 5 * s, cheek_x + 3.4 * s, y + 9 * s], (255, 128, 140))
    for eye_x in (x - 8 * s, x + 8 * s) if front else (x + 9 * s,):
        canvas.ink_dot(eye_x, y, 3.6 * s, 4.6 * s)
        canvas.ellipse([eye_x - 0.2 * s, y - 3.2 * s, eye_x + 2.4 * s, y - 0.6 * s], WHITE)
    if open_mouth:
        canvas.ellipse([mouth_x - 3 * s, y + 6 * s, mouth_x + 3 * s, y + 12 * s], (206, 74, 98))
    else:
        canvas.smile([mouth_x - 5 * s, y + 2 * s, mouth_x + 5 * s, y + 10 * s])


def _draw_hat(canvas: Canvas, creature: Creature, x: float, y: float, s: float) -> None:
    color = HAT_COLORS[creature.hat]
    brim = y - (22 if creature.body == "pointy" else 21) * s
    canvas.rectangle([x - 10 * s, brim - 17 * s, x + 10 * s, brim + 1 * s], color, 1.8, radius=2 * s)
    canvas.rectangle([x - 10 * s, brim - 5 * s, x + 10 * s, brim - 1 * s], (250, 246, 240), 1)
    canvas.rectangle([x - 17 * s, brim - 2 * s, x + 17 * s, brim + 3 * s], color, 1.8, radius=2 * s)
