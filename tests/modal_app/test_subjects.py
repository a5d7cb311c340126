"""Task ``judge`` of several subjects: who is in a picture, and who was put in another one's place."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from modal_app import catalog
from modal_app.contract import JudgeRequest, JudgeResult, Source, Subject
from modal_app.engine import language
from modal_app.engine.language.consistency import measured_likeness, regions
from scripts.calibrate_consistency import Studio, judge, open_studio
from scripts.tiny import drawing
from scripts.tiny.creatures import Creature, Picture

MILA, REX = Creature("round", "red", "none"), Creature("pointy", "blue", "yellow")
NEARLY = Creature("pointy", "blue", "red")


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    yield open_studio(tmp_path_factory.mktemp("studio"))


def panel(*cast: Creature, scene: str = "beach") -> Image.Image:
    return drawing.draw(Picture(cast, scene=scene)).resize((432, 576))


def test_everybody_is_found_in_a_picture_of_two_whoever_is_asked_for_first(studio: Studio) -> None:
    for cast in ([MILA, REX], [REX, MILA]):
        found, _ = judge(studio, panel(MILA, REX), cast)
        assert found.answered_by == "vlm"
        assert min(subject.score for subject in found.subjects) > 80, found
        assert found.score == min(subject.score for subject in found.subjects)
        assert all(verdict.kept for subject in found.subjects for verdict in subject.verdicts)


def test_who_was_swapped_is_below_the_threshold_and_told_by_the_trait(studio: Studio) -> None:
    found, _ = judge(studio, panel(MILA, NEARLY), [MILA, REX])
    mila, rex = found.subjects
    row = catalog.find("tiny-qwen-edit")
    assert row is not None
    assert mila.score > row.consistency_threshold > rex.score
    assert "yellow hat" in [verdict.attribute for verdict in rex.verdicts if not verdict.kept]
    assert max(mila.likeness) > max(rex.likeness)


def test_a_reference_that_is_known_is_not_read_again_and_changes_nothing(studio: Studio) -> None:
    readings = studio.edit._vlm.readings  # type: ignore[attr-defined]
    readings.clear()
    first, _ = judge(studio, panel(REX, scene="night"), [REX])
    kept = dict(readings)
    again, _ = judge(studio, panel(REX, scene="night"), [REX])
    assert again == first
    assert len(kept) == 3
    assert all(readings[sha256] is known for sha256, known in kept.items())


def test_rules_answer_where_no_model_can_and_say_so(tmp_path: Path) -> None:
    files = {"a" * 64: tmp_path / "panel.png", "b" * 64: tmp_path / "reference.png"}
    for path, creature in zip(files.values(), (MILA, MILA), strict=True):
        drawing.draw(Picture((creature,))).save(path)
    image, reference = (Source(url="", sha256=sha256) for sha256 in files)
    request = JudgeRequest(model="a", image=image, subjects=[Subject(references=[reference])])
    result = language.answer(None, request, files, lambda: False)
    assert isinstance(result, JudgeResult)
    assert (result.answered_by, result.score) == ("fallback", pytest.approx(100))
    nothing = JudgeRequest(model="a", image=image, subjects=[Subject()])
    assert language.answer(None, nothing, files, lambda: False).score == 0  # type: ignore[union-attr]


def test_palette_and_shape_both_count() -> None:
    mila = drawing.draw(Picture((MILA,)))
    shape = drawing.draw(Picture((Creature("square", "red", "none"),)))
    color = drawing.draw(Picture((Creature("round", "green", "none"),)))
    same, other_shape, other_color = (measured_likeness(each, mila) for each in (mila, shape, color))
    assert same == pytest.approx(100)
    assert same > other_shape > other_color


def test_one_character_may_stand_anywhere_and_several_side_by_side() -> None:
    image = panel(MILA, REX)
    assert [place.size for place in regions(image, 1)] == [image.size]
    assert len(regions(image, 2)) == 6
    left = regions(image, 2)[0]
    assert left.size == image.size
    assert left.getpixel((0, 300)) == left.getpixel((100, 300)), "its edge is drawn on"
