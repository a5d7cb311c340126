"""What a character's pictures are asked for: exact words, and every invariant in every style."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

import styles
from gateway.characters.drawing import EXCLUDED, excluded
from gateway.characters.prompts import (
    ANGLES,
    VIEWS,
    Profile,
    angle_prompt,
    character_prompt,
    described_prompt,
    initial_image_prompt,
    scene_prompt,
    view_prompt,
)
from modal_app import catalog
from modal_app.catalog import Model

STORYBOOK = sorted(style.id for style in styles.STYLES.values() if style.set == "storybook")
FRAMING = (
    "chest-to-mid-thigh crop, equal headroom, characters pinned to left/right thirds, "
    "inter-subject gap ≈ 7% of frame width, matched eye level, 35mm lens."
)
words = st.text(st.characters(codec="utf-8", categories=["L", "N", "Zs"]), min_size=1, max_size=30).filter(
    str.strip
)


@pytest.mark.parametrize("style", STORYBOOK)
def test_the_parts_of_a_portrait_stand_in_their_order(style: str) -> None:
    profile = Profile(color_palette=["#aa3311", "#2244ee"], do_not_change=["red scarf", "freckles"])
    assert character_prompt(profile, styles.STYLES[style]) == (
        "Child portrait, friendly lighting, full body | palette: #aa3311, #2244ee | "
        f"keep red scarf; keep freckles | {styles.STYLES[style].keywords}"
    )


def test_empty_parts_are_left_out() -> None:
    assert character_prompt(Profile(), None) == "Child portrait, friendly lighting, full body"
    assert character_prompt(Profile(do_not_change=["hat"]), None, opening="") == "keep hat"


@given(kept=st.lists(words, max_size=8), style=st.sampled_from(sorted(styles.STYLES)))
def test_every_invariant_is_in_the_prompt_in_every_style(kept: list[str], style: str) -> None:
    prompt = character_prompt(Profile(do_not_change=kept), styles.STYLES[style])
    assert all(f"keep {trait}" in prompt for trait in kept)


def test_the_suggestion_is_the_photoreal_template_with_the_framing() -> None:
    ava = Profile(name="Ava", age="34", ethnicity="Japanese", gender="woman")
    assert initial_image_prompt(ava) == (
        "Ava, 34 Japanese woman, cinematic hero shot, slightly low angle, 35mm lens, f/4, ISO 200, 1/250s, "
        "natural lighting, dramatic shadows, neutral seamless studio background, high dynamic range, crisp "
        "focus, accurate skin tones, authentic skin texture with visible pores and subtle imperfections, "
        "realistic eye moisture and reflections, magazine-quality photorealism. "
        f"{FRAMING} "
        "NOT CGI, NOT 3D, NOT illustration, NOT cartoon, no uncanny valley. "
        "Focus solely on the character; no other objects, locations, actions, or props; "
        "no text or watermarks."
    )
    assert FRAMING not in initial_image_prompt(ava, "single")


@given(st.builds(Profile, name=words, age=words, ethnicity=words, gender=words))
def test_the_suggestion_says_what_is_stored_and_the_same_every_time(profile: Profile) -> None:
    prompt = initial_image_prompt(profile)
    assert prompt == initial_image_prompt(profile)
    assert not set(prompt) & set('"“”')


@pytest.mark.parametrize("model", catalog.CATALOG, ids=lambda model: model.id)
def test_what_the_template_forbids_is_a_negative_prompt_as_well_where_one_is_used(model: Model) -> None:
    suggestion = initial_image_prompt(Profile(name="Ava"))
    used = "negative_prompt" in model.supports and model.true_cfg_scale > 1
    assert excluded(suggestion, model) == ({"negative_prompt": EXCLUDED} if used else {})
    assert excluded("a fox", model) == {}
    for words in EXCLUDED.split(", "):
        assert words in suggestion


def test_views_from_a_reference_leave_looks_to_it() -> None:
    profile = Profile(description="a red round creature", trained_words=["zkw"], do_not_change=["blue hat"])
    for view in VIEWS:
        prompt = view_prompt(profile, view, from_reference=True)
        assert f"{view} view" in prompt
        assert not any(look in prompt for look in ("red", "zkw", "hat"))


def test_views_without_a_reference_begin_with_the_trained_words_and_say_the_looks() -> None:
    profile = Profile(description="a red round creature", trained_words=["zkw"], do_not_change=["blue hat"])
    assert view_prompt(profile, "side", from_reference=False) == (
        "zkw, a red round creature, blue hat, side view, full body, plain white background"
    )


@given(kept=st.lists(words, max_size=8), style=st.sampled_from(sorted(styles.STYLES)))
def test_every_invariant_is_in_a_view_that_has_no_reference_in_every_style(
    kept: list[str], style: str
) -> None:
    profile = Profile(do_not_change=kept)
    prompt = view_prompt(profile, "front", styles.STYLES[style], from_reference=False)
    assert all(trait in prompt for trait in kept)
    assert prompt.endswith(styles.STYLES[style].keywords)


@given(kept=st.lists(words, max_size=8), style=st.sampled_from(sorted(styles.STYLES)), looks=words)
def test_every_invariant_of_a_character_in_words_is_in_its_portrait_in_every_style(
    kept: list[str], style: str, looks: str
) -> None:
    prompt = described_prompt(Profile(description=looks, do_not_change=kept), styles.STYLES[style])
    assert prompt.startswith(looks)
    assert all(f"keep {trait}" in prompt for trait in kept)
    assert prompt.endswith(styles.STYLES[style].keywords)


def test_the_eight_angles_differ_and_any_other_is_named_by_its_nearest() -> None:
    assert len({angle_prompt(angle) for angle in ANGLES}) == len(ANGLES)
    assert angle_prompt(350) == (
        "the same character, front view, turned by 350 degrees, full body, plain white background"
    )


def test_a_scene_is_as_it_was_typed() -> None:
    assert scene_prompt("on a beach, waving") == "the same character, on a beach, waving"
