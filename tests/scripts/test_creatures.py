"""The world of the tiny model, and the judge that reads its pictures."""

import random
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from scripts.tiny import captions
from scripts.tiny.creatures import BODIES, COLORS, FACTS, HAT_COLORS, SCENES, SIZE, STYLES, Picture
from scripts.tiny.creatures import random_picture as any_picture
from scripts.tiny.drawing import Canvas, draw, draw_scene, sheet
from tests.judge import judge, judge_pair, judge_style

CREATURE_FACTS = ("body", "color", "hat")


def pictures(count: int, seed: int) -> list[Picture]:
    rng = random.Random(seed)
    return [any_picture(rng) for _ in range(count)]


def changed_facts(before: Picture, after: Picture) -> set[str]:
    return {name for name in FACTS if before.facts[name] != after.facts[name]}


# ---------------------------------------------------------------- the judge


@pytest.mark.parametrize("scene", SCENES)
def test_the_judge_sees_no_creature_where_none_stands(scene: str) -> None:
    canvas = Canvas("standard")
    draw_scene(canvas, scene, sun_left=True)
    nothing = dict.fromkeys((*CREATURE_FACTS, "view"))
    assert judge(canvas.finished()) == {**nothing, "scene": scene}


def test_the_judge_sees_no_creature_in_noise() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    seen = judge(Image.fromarray(noise))
    assert (seen["body"], seen["view"]) == (None, None)


@pytest.mark.parametrize("kind", captions.EDIT_KINDS)
def test_the_judge_notices_one_wrong_fact(kind: str) -> None:
    rng = random.Random(kind)
    for wanted in pictures(30, seed=1):
        _, drawn = captions.edit(rng, wanted, kind)
        seen = judge(draw(drawn))
        assert {name for name in FACTS if seen[name] != wanted.facts[name]} == {kind}


def test_the_judge_notices_a_wrong_body() -> None:
    for wanted in pictures(30, seed=2):
        for body in set(BODIES) - {wanted.facts["body"]}:
            drawn = replace(wanted, creatures=(replace(wanted.creatures[0], body=body),))
            assert judge(draw(drawn))["body"] == body


def test_the_judge_notices_swapped_creatures() -> None:
    first, second = Picture((_creature("round", "red"),)), Picture((_creature("square", "blue"),))
    _, swapped = captions.pair(random.Random(0), second, first)
    seen, _ = judge_pair(draw(swapped))
    assert [found.color for found in seen] == ["blue", "red"]


def test_the_judge_is_right_about_every_drawing() -> None:
    for picture in pictures(300, seed=3):
        assert judge(draw(picture)) == picture.facts


@pytest.mark.parametrize("size", [(48 * 4, 48 * 4), (1024, 1024), (768, 1152)])
def test_the_judge_reads_pictures_of_any_size(size: tuple[int, int]) -> None:
    for picture in pictures(15, seed=4):
        enlarged = draw(picture).resize(size, Image.Resampling.LANCZOS)
        assert judge(enlarged) == picture.facts


def test_the_judge_is_right_about_every_pair() -> None:
    rng, singles = random.Random(5), pictures(200, seed=5)
    for first, second in zip(singles[0::2], singles[1::2], strict=True):
        _, both = captions.pair(rng, first, second)
        seen, scene = judge_pair(draw(both))
        assert scene == both.scene
        for found, creature in zip(seen, both.creatures, strict=True):
            wanted = (creature.body, creature.color, creature.hat, 2)
            assert (found.body, found.color, found.hat, found.eyes) == wanted


@pytest.mark.parametrize("style", STYLES)
def test_the_judge_knows_the_styles(style: str) -> None:
    styled = [replace(picture, style=style) for picture in pictures(40, seed=6)]
    right = sum(judge_style(draw(picture), picture) == style for picture in styled)
    assert right >= 38


# ---------------------------------------------------------------- words


def test_a_caption_names_no_fact_that_the_picture_lacks() -> None:
    rng = random.Random(7)
    for picture in pictures(300, seed=7):
        text, left_open = captions.caption(rng, picture, drop=0.3)
        for name, said in _said(text).items():
            allowed = {picture.facts[name]} - ({picture.facts[name]} if name in left_open else set())
            assert said <= allowed, text


def test_a_caption_names_every_fact_that_it_does_not_leave_open() -> None:
    rng = random.Random(8)
    for picture in pictures(300, seed=8):
        text, left_open = captions.caption(rng, picture)
        unsaid = {name for name, said in _said(text).items() if not said} - left_open
        # Unsaid means no hat and the front view, so only those two go without saying.
        assert unsaid <= {"hat", "view"}
        assert "hat" not in unsaid or picture.facts["hat"] == "none"
        assert "view" not in unsaid or picture.facts["view"] == "front"


def test_a_caption_names_the_style() -> None:
    rng = random.Random(9)
    for style in STYLES[1:]:
        text, _ = captions.caption(rng, any_picture(rng, style))
        assert text.endswith(captions.STYLE_WORDS[style])


@pytest.mark.parametrize("kind", captions.EDIT_KINDS)
def test_an_edit_changes_one_fact_and_names_nothing_else(kind: str) -> None:
    rng = random.Random(kind)
    for picture in pictures(60, seed=10):
        text, edited = captions.edit(rng, picture, kind)
        assert changed_facts(picture, edited) == {kind}
        assert edited.pose == picture.pose
        said = _said(f"{text} creature" if kind == "color" else text)
        assert {name for name, values in said.items() if values} <= {kind}


def test_the_answers_state_the_facts() -> None:
    picture = Picture((_creature("pointy", "pink", "blue"),), "side", "beach")
    assert captions.json_answer(picture) == (
        '{"body": "pointy", "color": "pink", "hat": "blue", "view": "side", "scene": "beach"}'
    )
    assert captions.plain_caption(picture) == (
        "a pink pointy creature with a blue hat, side view, on a beach"
    )


# ---------------------------------------------------------------- drawings


def test_a_pose_changes_the_drawing_but_no_fact() -> None:
    one, other = pictures(2, seed=11)
    moved = replace(one, pose=replace(other.pose, dx=one.pose.dx + 2))
    assert draw(moved).tobytes() != draw(one).tobytes()
    assert judge(draw(moved)) == judge(draw(one))


def test_a_drawing_depends_on_nothing_but_its_description() -> None:
    for one, again in zip(pictures(5, seed=12), pictures(5, seed=12), strict=True):
        assert draw(one).tobytes() == draw(again).tobytes()


def test_a_sheet_holds_every_picture() -> None:
    assert sheet([draw(picture) for picture in pictures(5, seed=13)], 2, zoom=1).size == (192, 288)


# ---------------------------------------------------------------- helpers


def _creature(body: str, color: str, hat: str = "none"):
    return replace(pictures(1, seed=0)[0].creatures[0], body=body, color=color, hat=hat)


def _said(text: str) -> dict[str, set[str]]:
    """The facts that a text names, read without the code that wrote it."""
    hats = {hat for hat in HAT_COLORS if f"{hat} hat" in text or f"hat to {hat}" in text}
    hats |= (
        {"none"}
        if any(words in text for words in ("without a hat", "no hat", "the hat")) and not hats
        else set()
    )
    rest = text
    for hat in hats:
        rest = rest.replace(f"{hat} hat", "").replace(f"hat to {hat}", "")
    words = set(rest.replace(",", " ").split())
    return {
        "body": words & set(BODIES),
        "color": words & set(COLORS),
        "hat": hats,
        "view": {view for view in FACTS["view"] if f"{view} view" in text},
        "scene": {scene for scene in SCENES if any(part in text for part in captions.SCENE_WORDS[scene])},
    }
