"""Where the line runs between a character and another one, on the bundled model.

    python -m scripts.calibrate_consistency [--count 60]

Panels of one and of two characters are drawn from references and judged twice: for whom they show, and for
somebody in whose place they were swapped.  Every second stranger differs in one trait alone.  Prints the ROC
curve and AUC, of the model and of the rules without one, and the figures for the catalogue's row.
"""

import argparse
import random
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from modal_app.contract import JudgeRequest, JudgeResult, Source, Subject, SubjectResult
from modal_app.engine import LanguageEngine, language
from modal_app.engine.pictures import resample
from scripts.evaluate_engine import Studio, open_studio
from scripts.tiny import creatures, drawing
from scripts.tiny.creatures import Creature, Picture

PANEL = (432, 576)
"""A quarter of a panel's sides: the judge reads it smaller still."""
PLACES = ("on a beach", "in a forest", "at night", "on a sunny day")


@dataclass(frozen=True)
class Case:
    """How a picture was judged for somebody who is in it, or is not."""

    same: bool
    by_model: SubjectResult
    by_rules: SubjectResult


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=60, help="characters; each is judged twice")
    count = parser.parse_args().count
    with tempfile.TemporaryDirectory() as folder:
        cases = list(judged(open_studio(Path(folder)), count))
    for name, kind in (("model", "by_model"), ("rules", "by_rules")):
        same, other = (
            [getattr(case, kind).score for case in cases if case.same is wanted] for wanted in (True, False)
        )
        print(f"{name}: AUC {auc(same, other):.3f}, threshold {best_threshold(same, other):.0f}")
        print("| threshold | kept who is the same | kept a stranger |\n|---|---|---|")
        for threshold, right, wrong in roc(same, other):
            print(f"| {threshold:.0f} | {right:.1%} | {wrong:.1%} |")


def judged(studio: Studio, count: int, seed: int = 1) -> Iterator[Case]:
    rng = random.Random(f"consistency {seed}")
    for n in range(count):
        cast = [creatures.random_creature(rng) for _ in range(1 + n % 2)]
        panel = drawn(studio, cast, PLACES[n % len(PLACES)], n)
        who = rng.randrange(len(cast))
        swapped = [stranger(rng, cast, hard=n % 4 > 1) if k == who else each for k, each in enumerate(cast)]
        for same, judged_for in ((True, cast), (False, swapped)):
            by_model, by_rules = judge(studio, panel, judged_for)
            yield Case(same, by_model.subjects[who], by_rules.subjects[who])


def drawn(studio: Studio, cast: Sequence[Creature], place: str, seed: int) -> Image.Image:
    """A panel of the cast, as the gateway words it."""
    fronts = [drawing.draw(Picture((creature,))) for creature in cast]
    pictured = "Picture 1 is Mila. Picture 2 is Rex. Mila and Rex"
    words = f"{pictured if len(cast) > 1 else 'Mila walks'} {place}"
    return resample(studio.change(fronts, words, seed), PANEL)


def stranger(rng: random.Random, cast: Sequence[Creature], *, hard: bool) -> Creature:
    """Nobody of the cast; a hard one differs from its first member in one trait."""
    while True:
        other = creatures.random_creature(rng)
        differs = sum(getattr(other, name) != getattr(cast[0], name) for name in ("body", "color", "hat"))
        if other not in cast and (differs == 1 or not hard):
            return other


def judge(studio: Studio, panel: Image.Image, cast: Sequence[Creature]) -> tuple[JudgeResult, JudgeResult]:
    """(by the model, by rules)"""
    files = dict([studio.keep(panel)])
    image = next(iter(files))
    subjects = []
    for creature in cast:
        views = [studio.keep(drawing.draw(Picture((creature,), view))) for view in creatures.VIEWS]
        files |= dict(views)
        subjects.append(
            Subject(
                references=[Source(url="", sha256=key) for key, _ in views], attributes=looks_of(creature)
            )
        )
    request = JudgeRequest(model="tiny-qwen-edit", image=Source(url="", sha256=image), subjects=subjects)
    assert isinstance(studio.edit, LanguageEngine)
    found = studio.edit.answer(request, files, lambda: False)
    measured = language.answer(None, request, files, lambda: False)
    assert isinstance(found, JudgeResult) and isinstance(measured, JudgeResult)
    return found, measured


def looks_of(creature: Creature) -> list[str]:
    """What must not change of it, in words."""
    hat = "no hat" if creature.hat == "none" else f"{creature.hat} hat"
    return [f"{creature.color} {creature.body} body", hat]


def auc(same: Sequence[float], other: Sequence[float]) -> float:
    """Share of pairs in which who is the same scores higher; half for a tie."""
    one, two = np.asarray(same)[:, None], np.asarray(other)[None]
    return float((one > two).mean() + (one == two).mean() / 2)


def roc(same: Sequence[float], other: Sequence[float]) -> list[tuple[float, float, float]]:
    """(threshold, share of the same that is kept, share of strangers that is)."""
    return [
        (t, float(np.mean(np.asarray(same) >= t)), float(np.mean(np.asarray(other) >= t)))
        for t in range(0, 101, 5)
    ]


def best_threshold(same: Sequence[float], other: Sequence[float]) -> float:
    """In the middle of those at which the two shares are furthest apart."""
    shares = [(np.mean(np.asarray(same) >= t) - np.mean(np.asarray(other) >= t), t) for t in range(101)]
    best = max(share for share, _ in shares)
    return float(np.median([t for share, t in shares if share > best - 1e-9]))


if __name__ == "__main__":
    main()
