"""A text in a box: wrapped, and as large as the box lets it be; never outside."""

from dataclasses import dataclass

from gateway.comics.export.faces import Faces, plain
from gateway.comics.export.layouts import Lettering, Rect

LEADING = 1.2
"""Height of a line, in sizes."""
ASCENT = 0.92
"""From the top of a line to its baseline, in sizes: accents of capitals stay below the line above."""
STEP_PT = 0.5
INSET = 5.0
"""Between a box and the edge of its picture."""
PADDING = 4.0


@dataclass(frozen=True)
class Line:
    """``y`` is that of the baseline."""

    text: str
    x: float
    y: float


@dataclass(frozen=True)
class Text:
    """Lines of one size."""

    size: float
    lines: list[Line]


@dataclass(frozen=True)
class Box(Text):
    """A text with a frame around it."""

    frame: Rect


def boxed(text: str, picture: Rect, style: Lettering, faces: Faces, *, from_right: bool) -> Box:
    """A lettering box inside a picture, no larger than its text needs."""
    room = picture.inset(min(INSET, picture.width / 8, picture.height / 8))
    padding = min(PADDING, room.width / 8, room.height / 8)
    width, height = room.width - 2 * padding, room.height - 2 * padding
    sizes = _sizes(style.size_pt)
    size, lines = _fitted(text, faces, width, height, min(height, picture.height * style.share), sizes)
    widest = max(faces.width(line, size) for line in lines)
    frame_width, frame_height = widest + 2 * padding, len(lines) * size * LEADING + 2 * padding
    x = room.x + room.width - frame_width if from_right else room.x
    y = room.y if style.place == "top" else room.y + room.height - frame_height
    return Box(size, _placed(lines, size, x + padding, y + padding), Rect(x, y, frame_width, frame_height))


def headed(text: str, room: Rect, size: float, faces: Faces) -> Text:
    """A heading at the lower edge of its room."""
    chosen, lines = _fitted(text, faces, room.width, room.height, room.height, [size])
    top = room.y + room.height - len(lines) * chosen * LEADING
    return Text(chosen, _placed(lines, chosen, room.x, top))


def centred(text: str, room: Rect, size: float, faces: Faces) -> Text:
    """One line in the middle of its room."""
    x = room.x + (room.width - faces.width(text, size)) / 2
    return Text(size, _placed([text], size, x, room.y + (room.height - size * LEADING) / 2))


def wrapped(text: str, faces: Faces, width: float, size: float) -> list[str]:
    """Lines no wider than ``width``: broken at spaces, and within a word that is wider by itself."""
    lines = []
    for paragraph in plain(text).split("\n"):
        lines += _wrapped_paragraph(paragraph, faces, width, size)
    return lines or [""]


def _fitted(
    text: str, faces: Faces, width: float, height: float, wanted: float, sizes: list[float]
) -> tuple[float, list[str]]:
    """The largest size at which the text is ``wanted`` high at most; else ``height``; else smaller still."""
    for limit in (wanted, height):
        for size in sizes:
            lines = wrapped(text, faces, width, size)
            if _fits(lines, faces, width, limit, size):
                return size, _balanced(lines, text, faces, width, size)
    size = sizes[-1]
    while not _fits(lines := wrapped(text, faces, width, size), faces, width, height, size):
        size *= 0.95
    return size, lines


def _fits(lines: list[str], faces: Faces, width: float, height: float, size: float) -> bool:
    widest = max(faces.width(line, size) for line in lines)
    return widest <= width and len(lines) * size * LEADING <= height


def _balanced(lines: list[str], text: str, faces: Faces, width: float, size: float) -> list[str]:
    """As many lines, of lengths as equal as can be: no word stands alone in the last."""
    narrow, wide = 0.0, width
    for _ in range(8):
        middle = (narrow + wide) / 2
        tried = wrapped(text, faces, middle, size)
        if len(tried) == len(lines) and " ".join(tried) == " ".join(lines):
            lines, wide = tried, middle
        else:
            narrow = middle
    return lines


def _wrapped_paragraph(paragraph: str, faces: Faces, width: float, size: float) -> list[str]:
    lines: list[str] = [""]
    for word in paragraph.split():
        longer = f"{lines[-1]} {word}".strip()
        if faces.width(longer, size) <= width:
            lines[-1] = longer
            continue
        pieces = _broken(word, faces, width, size)
        lines = [*(lines if lines != [""] else []), *pieces]
    return lines


def _broken(word: str, faces: Faces, width: float, size: float) -> list[str]:
    """A word in pieces that are not wider, of one character at least."""
    pieces = [""]
    for char in word:
        if pieces[-1] and faces.width(pieces[-1] + char, size) > width:
            pieces.append("")
        pieces[-1] += char
    return pieces


def _placed(lines: list[str], size: float, x: float, y: float) -> list[Line]:
    return [Line(line, x, y + (n * LEADING + ASCENT) * size) for n, line in enumerate(lines)]


def _sizes(limits: tuple[float, float]) -> list[float]:
    largest, smallest = limits
    steps = int((largest - smallest) / STEP_PT)
    return [largest - n * STEP_PT for n in range(steps + 1)]
