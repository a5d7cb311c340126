"""Task ``judge``: whether a picture kept what it had to keep."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING

from PIL import Image

from modal_app.contract import (
    AnsweredBy,
    JudgeRequest,
    JudgeResult,
    Subject,
    SubjectResult,
    Verdict,
)
from modal_app.engine.inputs import open_picture
from modal_app.engine.language import instructions
from modal_app.engine.language.answers import describe
from modal_app.engine.language.consistency import (
    CIRCUMSTANCES,
    found_best,
    known_of,
    measured_likeness,
    regions,
)
from modal_app.engine.language.palette import likeness, nearest_distance
from modal_app.engine.language.words import fold, words_of

if TYPE_CHECKING:
    from modal_app.engine.language.vlm import Turn, Vlm

KEPT_FROM = 50.0
"""Score from which a trait counts as kept."""

SIDE_MAX = 2048
"""Pixels along a side that are kept: eleven pictures of the largest size would take 1.8 GB."""

PARTS = frozenset({"hat"})
"""Fields whose value belongs to a part that has to be named: "red" alone does not ask for a red hat."""
SYNONYMS = {
    "colour": "color",
    "colored": "color",
    "coloured": "color",
    "shape": "body",
    "shaped": "body",
    "cap": "hat",
    "background": "scene",
    "place": "scene",
    "sunny": "day",
    "sunshine": "day",
    "daytime": "day",
    "sea": "beach",
    "moon": "night",
    "trees": "forest",
    "woods": "forest",
    "white": "plain",
    "circular": "round",
    "triangular": "pointy",
    "triangle": "pointy",
    "pointed": "pointy",
    "boxy": "square",
    "profile": "side",
    "behind": "back",
    "bareheaded": "no hat",
    "hatless": "no hat",
}
"""Words of requests in the vocabulary of the bundled model's descriptions."""
_IDLE = frozenset(
    words_of(
        "a an the it its is are has have with wearing wears in on at by of and to as this that his her their "
        "from under among creature character monster picture keep keeps same cute little small friendly "
        "happy charming funny lovely"
    )
)
"""Words that say nothing about a trait."""
_NEGATIONS = frozenset({"no", "not", "without"})
_ONWARDS = frozenset({"with", "in", "on", "at", "by", "under", "among", "but"})
"""Words behind which a negation no longer holds."""

COLOR_WORDS = {
    "black": (20, 20, 20),
    "white": (250, 250, 250),
    "grey": (128, 128, 128),
    "gray": (128, 128, 128),
    "red": (215, 50, 50),
    "orange": (240, 140, 40),
    "yellow": (245, 210, 60),
    "green": (80, 170, 80),
    "blue": (65, 110, 215),
    "purple": (150, 90, 200),
    "violet": (150, 90, 200),
    "pink": (245, 150, 190),
    "brown": (125, 80, 50),
}
"""Middles of the basic colors, for pictures that only rules can look at."""
COLOR_REACH = 0.12
"""Distance in OKLab at which a color still goes by the name; half of the way from red to orange."""


def judge(
    vlm: "Vlm | None", request: JudgeRequest, files: Mapping[str, Path], cancelled: Callable[[], bool]
) -> JudgeResult:
    """The score is the mean of the verdicts, and 0 when there is nothing to have a verdict on."""
    picture = _opened(files[request.image.sha256])
    if request.subjects:
        return _subjects_judged(vlm, picture, request.subjects, files, cancelled)
    references = [_opened(files[source.sha256]) for source in request.references]
    if vlm is not None and vlm.sees and vlm.ability:
        look = _asked if vlm.ability == "chat" else _described
        verdicts = look(vlm, picture, references, request.attributes, cancelled)
        if verdicts is not None:
            return _result(verdicts, "vlm")
    return _result(_measured(picture, references, request.attributes), "fallback")


def _subjects_judged(
    vlm: "Vlm | None",
    picture: Image.Image,
    subjects: Sequence[Subject],
    files: Mapping[str, Path],
    cancelled: Callable[[], bool],
) -> JudgeResult:
    """Each where it is found best; rules for all of them as soon as the model talks nonsense of one."""
    shown = [{use.sha256: _opened(files[use.sha256]) for use in subject.references} for subject in subjects]
    places = regions(picture, len(subjects))
    if vlm is not None and vlm.sees and vlm.ability:
        look = _asked_of_subject if vlm.ability == "chat" else _described_of_subject
        found = [
            look(vlm, places, subject.attributes, references, cancelled)
            for subject, references in zip(subjects, shown, strict=True)
        ]
        if None not in found:
            return _worst([each for each in found if each is not None], "vlm")
    measured = [
        _measured_of_subject(places, subject.attributes, list(references.values()))
        for subject, references in zip(subjects, shown, strict=True)
    ]
    return _worst(measured, "fallback")


def _worst(found: list[SubjectResult], answered_by: AnsweredBy) -> JudgeResult:
    score = min(subject.score for subject in found)
    return JudgeResult(score=score, verdicts=[], subjects=found, answered_by=answered_by)


def _of_subject(likeness: list[float], verdicts: list[Verdict]) -> SubjectResult:
    """Likeness and verdicts count the same; 0 when there is neither."""
    means = [mean(each) for each in (likeness, [verdict.score for verdict in verdicts]) if each]
    return SubjectResult(score=mean(means) if means else 0.0, likeness=likeness, verdicts=verdicts)


def _opened(path: Path) -> Image.Image:
    picture = open_picture(path)
    picture.thumbnail((SIDE_MAX, SIDE_MAX))
    return picture


def _result(verdicts: list[Verdict], answered_by: AnsweredBy) -> JudgeResult:
    score = sum(verdict.score for verdict in verdicts) / len(verdicts) if verdicts else 0.0
    return JudgeResult(score=score, verdicts=verdicts, answered_by=answered_by)


def _verdict(attribute: str, score: float) -> Verdict:
    return Verdict(attribute=attribute, kept=score >= KEPT_FROM, score=score)


# ---------------------------------------------------------------- yes or no


def _asked(
    vlm: "Vlm",
    picture: Image.Image,
    references: Sequence[Image.Image],
    attributes: Sequence[str],
    cancelled: Callable[[], bool],
) -> list[Verdict] | None:
    """One question for each attribute and each reference; None as soon as one gets neither yes nor no."""
    questions = [
        (attribute, instructions.JUDGE_ATTRIBUTE.format(attribute.replace('"', "'")), [picture])
        for attribute in attributes
    ]
    questions += [
        (_sameness(n), instructions.JUDGE_REFERENCE, [reference, picture])
        for n, reference in enumerate(references, 1)
    ]
    verdicts = []
    for attribute, question, pictures in questions:
        share = _yes_share(vlm, question, pictures, cancelled)
        if share is None:
            return None
        verdicts.append(_verdict(attribute, 100 * share))
    return verdicts


def _sameness(n: int) -> str:
    return f"same character as reference {n}"


def _yes_share(
    vlm: "Vlm", question: str, pictures: list[Image.Image], cancelled: Callable[[], bool]
) -> float | None:
    for words in (question, f"{question}\n{instructions.JUDGE_AGAIN}"):
        turns: list[Turn] = [("system", instructions.JUDGE), ("user", words)]
        share = vlm.yes_share(turns, cancelled=cancelled, pictures=pictures)
        if share is not None:
            return share
    return None


def _asked_of_subject(
    vlm: "Vlm",
    places: Sequence[Image.Image],
    attributes: Sequence[str],
    references: Mapping[str, Image.Image],
    cancelled: Callable[[], bool],
) -> SubjectResult | None:
    """Readings and answers both say how alike a reference is."""
    known = [known_of(vlm, *item, cancelled) for item in references.items()]
    place, likeness = found_best(vlm, places, known, cancelled)
    verdicts = _asked(vlm, place, list(references.values()), attributes, cancelled)
    if verdicts is None:
        return None
    traits, same = verdicts[: len(attributes)], verdicts[len(attributes) :]
    return _of_subject([(a + b.score) / 2 for a, b in zip(likeness, same, strict=True)], traits)


# ---------------------------------------------------------------- descriptions compared


def _described(
    vlm: "Vlm",
    picture: Image.Image,
    references: Sequence[Image.Image],
    attributes: Sequence[str],
    cancelled: Callable[[], bool],
) -> list[Verdict] | None:
    """Every attribute, and every trait of the references, against a description of the picture."""
    seen = describe(vlm, picture, cancelled)
    wanted = [describe(vlm, reference, cancelled) for reference in references]
    if seen is None or None in wanted:
        return None
    traits = {item: None for one in wanted if one for item in one.items() if item[0] not in CIRCUMSTANCES}
    return [
        *(_verdict(attribute, 100.0 * agrees(attribute, seen)) for attribute in attributes),
        *(_verdict(f"{key}: {value}", 100.0 * (seen.get(key) == value)) for key, value in traits),
    ]


def _described_of_subject(
    vlm: "Vlm",
    places: Sequence[Image.Image],
    attributes: Sequence[str],
    references: Mapping[str, Image.Image],
    cancelled: Callable[[], bool],
) -> SubjectResult | None:
    """Traits that the references show are asked for beside the attributes."""
    known = [known_of(vlm, *item, cancelled) for item in references.items()]
    place, likeness = found_best(vlm, places, known, cancelled)
    seen = describe(vlm, place, cancelled)
    if seen is None:
        return None
    shown = {item: None for each in known for item in each.traits.items()}
    return _of_subject(
        likeness,
        [
            *(_verdict(attribute, 100.0 * agrees(attribute, seen)) for attribute in attributes),
            *(_verdict(f"{key}: {value}", 100.0 * (seen.get(key) == value)) for key, value in shown),
        ],
    )


def agrees(attribute: str, seen: Mapping[str, str]) -> bool:
    """Whether an attribute in words fits a description; a word that the description lacks does not."""
    clauses = [words_of(clause) for clause in re.split(r"[,;]|\band\b", fold(attribute))]
    return any(clauses) and all(_clause_agrees(clause, seen) for clause in clauses)


def _clause_agrees(clause: Sequence[str], seen: Mapping[str, str]) -> bool:
    words = " ".join(SYNONYMS.get(word, word) for word in clause).split()
    if "none" in words:  # "hat: none"
        words = ["no", *(word for word in words if word != "none")]
    said, denied = _scopes(words)
    return all(_found(said, seen)) and not any(_found(denied, seen))


def _scopes(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """(what is said, what is denied): a negation holds up to the next preposition."""
    scopes: tuple[list[str], list[str]] = ([], [])
    denying = False
    for word in words:
        denying = word in _NEGATIONS or (denying and word not in _ONWARDS)
        if word not in _NEGATIONS:
            scopes[denying].append(word)
    return scopes


def _found(words: Sequence[str], seen: Mapping[str, str]) -> list[bool]:
    """Whether the description has it, for every part and for every word that belongs to none."""
    parts = {n: _beside(words, n) for n, word in enumerate(words) if word in PARTS}
    spent = parts.keys() | parts.values()
    loose = [word for n, word in enumerate(words) if n not in spent and word not in _IDLE | seen.keys()]
    whole = {word for key, value in seen.items() if key not in PARTS for word in words_of(value)}
    return [word in whole for word in loose] + [
        _has_part(seen.get(words[n], "none"), None if value is None else words[value])
        for n, value in parts.items()
    ]


def _beside(words: Sequence[str], n: int) -> int | None:
    """Where it says how the part at ``n`` is: "red hat", "hat: red", "hat is red"; None for "a hat"."""
    if n and words[n - 1] not in _IDLE:
        return n - 1
    after = [m for m in range(n + 1, len(words)) if words[m] not in ("is", "are", "color")][:1]
    return after[0] if after and words[after[0]] not in _IDLE else None


def _has_part(value: str, wanted: str | None) -> bool:
    return value != "none" if wanted is None else wanted in words_of(value)


# ---------------------------------------------------------------- colors compared


def _measured(
    picture: Image.Image, references: Sequence[Image.Image], attributes: Sequence[str]
) -> list[Verdict]:
    """Without a model: the colors that attributes name, and those of the references.

    An attribute that names no color cannot be judged so and has no verdict.
    """
    verdicts = []
    for attribute in attributes:
        named = [word for word in words_of(attribute) if word in COLOR_WORDS]
        if named:
            verdicts.append(_verdict(attribute, min(_color_score(picture, word) for word in named)))
    for n, reference in enumerate(references, 1):
        verdicts.append(_verdict(f"colors of reference {n}", likeness(picture, reference)))
    return verdicts


def _measured_of_subject(
    places: Sequence[Image.Image], attributes: Sequence[str], references: Sequence[Image.Image]
) -> SubjectResult:
    """Without a model: the place whose palette and shape are the most like those of the references."""
    alike = [[measured_likeness(place, each) for each in references] for place in places]
    best = max(range(len(places)), key=lambda n: sum(alike[n]))
    return _of_subject(alike[best], _measured(places[best], (), attributes))


def _color_score(picture: Image.Image, word: str) -> float:
    """100 for the color itself, 50 at ``COLOR_REACH``, 0 at twice that."""
    distance = nearest_distance(picture, COLOR_WORDS[word])
    return max(0.0, 100 * (1 - distance / (2 * COLOR_REACH)))
