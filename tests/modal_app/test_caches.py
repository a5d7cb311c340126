"""What is kept of one panel for the next changes nothing but the time."""

from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any

import pytest

from modal_app import engine
from modal_app.contract import JudgeRequest, JudgeResult, Source, Subject
from modal_app.engine import Engine, LanguageEngine
from scripts.tiny import drawing
from scripts.tiny.creatures import Creature, Picture
from tests.modal_app.conftest import kept, load, run

MODEL = "tiny-qwen-edit"
MILA, REX = Creature("round", "red", "blue"), Creature("square", "green", "yellow")
CHAPTER = (
    ("the same creature on a beach", (MILA,), 1),
    ("both creatures side by side, at night", (MILA, REX), 2),
    ("the same creature on a beach", (MILA,), 1),
    ("both creatures side by side, at night", (REX, MILA), 2),
    ("the same creature in a forest", (REX,), 3),
)
"""(words, who, seed): words and references that come again, alone, together and in another order."""


@pytest.fixture(scope="module")
def edit() -> Engine:
    return load(MODEL)


@pytest.fixture
def caches(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    def turned(on: bool) -> None:
        monkeypatch.setattr(engine, "options", replace(engine.options, caches=on))

    return turned


@pytest.fixture
def encoded(edit: Engine, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A line for each time that the VAE has encoded a picture or the text encoder has read one."""
    done: list[str] = []
    for name in ("vae.encode", "text_encoder.forward"):
        part, _, method = name.partition(".")
        owner = getattr(edit._edit, part)  # type: ignore[attr-defined]
        inner = getattr(owner, method)
        monkeypatch.setattr(owner, method, noted(inner, done, name))
    return done


def noted(inner: Callable[..., Any], done: list[str], name: str) -> Callable[..., Any]:
    @wraps(inner)
    def call(*args: Any, **named: Any) -> Any:
        done.append(name)
        return inner(*args, **named)

    return call


def chapter(edit: Engine, folder: Path) -> list[bytes]:
    """The pixels of its panels, drawn one after another."""
    return [panel(edit, folder, *each) for each in CHAPTER]


def panel(edit: Engine, folder: Path, prompt: str, cast: tuple[Creature, ...], seed: int) -> bytes:
    references = [kept(folder, drawing.draw(Picture((creature,)))) for creature in cast]
    files = {sha256: path for _, each in references for sha256, path in each.items()}
    uses = [{"url": "", "sha256": sha256} for sha256, _ in references]
    drawn = run(edit, files=files, model=MODEL, prompt=prompt, seed=seed, references=uses)
    return drawn.pictures[0].image.tobytes()


def test_panels_of_a_chapter_are_the_same_bytes_with_the_caches_on_and_off(
    edit: Engine, tmp_path: Path, caches: Callable[[bool], None], encoded: list[str]
) -> None:
    caches(True)
    chapter(edit, tmp_path)
    encoded.clear()
    warm = chapter(edit, tmp_path)
    assert encoded == [], "everything is known by now"
    caches(False)
    cold = chapter(edit, tmp_path)
    pictures = sum(len(cast) for _, cast, _ in CHAPTER)
    assert [encoded.count(name) for name in ("vae.encode", "text_encoder.forward")] == [
        pictures,
        len(CHAPTER),
    ]
    assert cold == warm
    assert warm[0] == warm[2] and len(set(warm)) == len(CHAPTER) - 1


def test_what_was_computed_from_pictures_is_forgotten_with_them(
    edit: Engine, tmp_path: Path, caches: Callable[[bool], None], encoded: list[str]
) -> None:
    caches(True)
    before = panel(edit, tmp_path, *CHAPTER[0])
    encoded.clear()
    engine.forgettings += 1
    assert panel(edit, tmp_path, *CHAPTER[0]) == before
    assert "vae.encode" in encoded
    encoded.clear()
    panel(edit, tmp_path, *CHAPTER[0])
    assert encoded == []


def test_panels_are_judged_the_same_with_the_caches_on_and_off(
    edit: Engine, tmp_path: Path, caches: Callable[[bool], None], encoded: list[str]
) -> None:
    assert isinstance(edit, LanguageEngine)
    image, files = kept(tmp_path, drawing.draw(Picture((MILA, REX), scene="beach")))
    subjects = []
    for creature in (MILA, REX):
        sha256, more = kept(tmp_path, drawing.draw(Picture((creature,))))
        files = {**files, **more}
        subjects.append(
            Subject(references=[Source(url="", sha256=sha256)], attributes=[f"{creature.hat} hat"])
        )
    request = JudgeRequest(model=MODEL, image=Source(url="", sha256=image), subjects=subjects)
    found, readings = [], []
    for on in (True, True, False):
        caches(on)
        encoded.clear()
        found.append(edit.answer(request, files, lambda: False))
        readings.append(len(encoded))
    first, warm, cold = found
    assert isinstance(cold, JudgeResult) and min(each.score for each in cold.subjects) > 80
    assert first == warm == cold
    assert readings[1] < readings[2], "what is known of a reference is not read again"
