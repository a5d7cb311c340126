"""Named templates, franchises, the negative filter: exact words, and what a bad file is told."""

from pathlib import Path

import pytest

import styles
from styles import franchises, negative, templates

PHOTOREAL = (
    "Ava, 34 Japanese woman, cinematic hero shot, slightly low angle, 35mm lens, f/4, ISO 200, 1/250s, "
    "natural lighting, dramatic shadows, neutral seamless studio background, high dynamic range, "
    "crisp focus, accurate skin tones, authentic skin texture with visible pores and subtle imperfections, "
    "realistic eye moisture and reflections, magazine-quality photorealism."
)
EXCLUSIONS = "NOT CGI, NOT 3D, NOT illustration, NOT cartoon, no uncanny valley."
CLOSING = (
    "Focus solely on the character; no other objects, locations, actions, or props; no text or watermarks."
)
FRAMING = (
    "chest-to-mid-thigh crop, equal headroom, characters pinned to left/right thirds, inter-subject gap ≈ 7% "
    "of frame width, matched eye level, 35mm lens."
)
AVA = {"name": "Ava", "age": "34", "ethnicity": "Japanese", "gender": "woman"}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("opening = ", "not TOML"),
        ('label = "A"\nversion = 1', "`opening`"),
        ('label = "A"\nversion = 1\nopening = "a"\nframing = { two = 2 }', "`framing`"),
        ('label = "A"\nversion = 1\nopening = "a"\nending = "b"', "`ending`"),
    ],
)
def test_a_bad_template_is_refused_with_file_field_and_reason(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "odd.toml").write_text(text)
    with pytest.raises(styles.StyleError, match=reason) as refused:
        templates.load(tmp_path)
    assert "odd.toml" in str(refused.value)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("version = 1", "`franchise`"),
        ('version = 1\nfranchise = [{ name = "A" }]', "`keywords`"),
        ('version = 1\nfranchise = [{ name = "A", keywords = [1] }]', "`keywords`"),
        ('version = 1\nfranchise = [{ name = "A", keywords = ["a"], loras = { SDXL = 1 } }]', "`loras`"),
    ],
)
def test_a_bad_franchise_is_refused_with_file_field_and_reason(
    tmp_path: Path, text: str, reason: str
) -> None:
    path = tmp_path / "odd.toml"
    path.write_text(text)
    with pytest.raises(styles.StyleError, match=reason):
        franchises.load(path)


def test_a_negative_filter_without_words_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "odd.toml"
    path.write_text("version = 1")
    with pytest.raises(styles.StyleError, match="`words`"):
        negative.load(path)


def test_a_framing_that_the_template_lacks_is_an_error() -> None:
    with pytest.raises(KeyError):
        styles.TEMPLATES["child-portrait"].render({}, "two")


def test_photoreal_says_its_exact_words_in_their_order() -> None:
    photoreal = styles.TEMPLATES["photoreal"]
    assert photoreal.render(AVA) == f"{PHOTOREAL} {EXCLUSIONS} {CLOSING}"
    assert photoreal.render(AVA, "two") == f"{PHOTOREAL} {FRAMING} {EXCLUSIONS} {CLOSING}"


def test_the_framing_for_one_person_asks_for_skin_and_thirds() -> None:
    single = styles.TEMPLATES["photoreal"].render(AVA, "single")
    assert FRAMING not in single
    for words in (
        *("natural skin texture", "subsurface scattering", "micro-expressions", "chest-to-mid-thigh crop"),
        *("equal headroom", "thirds positioning", "matched eye level", "slightly low angle"),
    ):
        assert words in single


@pytest.mark.parametrize(
    ("known", "beginning"),
    [
        ({}, "cinematic hero shot,"),
        ({"name": "Ava"}, "Ava, cinematic hero shot,"),
        ({"name": "Ava", "gender": "woman"}, "Ava, woman, cinematic hero shot,"),
        ({"age": "34", "gender": "woman"}, "34 woman, cinematic hero shot,"),
        ({**AVA, "name": '"Ava"', "age": ""}, "Ava, Japanese woman, cinematic hero shot,"),
    ],
)
def test_what_is_not_known_is_left_out_and_nothing_is_quoted(known: dict[str, str], beginning: str) -> None:
    prompt = styles.TEMPLATES["photoreal"].render(known, "two")
    assert prompt.startswith(beginning)
    assert not set(prompt) & set('"“”{}')


def test_the_child_portrait_and_the_two_subjects_have_their_words() -> None:
    assert styles.TEMPLATES["child-portrait"].render({}) == "Child portrait, friendly lighting, full body"
    two = styles.TEMPLATES["two-subject"].render({"name": "Ava", "other": "Ben"}, "two")
    assert two.startswith(f"Two characters: Ava, Ben. {FRAMING}")


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        ("Luffy on a ship", "One Piece"),
        ("a cat in the style of ONE PIECE", "One Piece"),
        ("Pikachu meets Naruto", "Pokémon"),
        ("a two-piece suit, one piecework", None),
        ("a phoenix rising", None),
    ],
)
def test_a_franchise_is_known_by_whole_words_and_the_first_one_counts(prompt: str, name: str | None) -> None:
    found = franchises.mentioned(prompt)
    assert (found.name if found else None) == name


def test_a_franchise_names_its_loras_by_group(tmp_path: Path) -> None:
    path = tmp_path / "franchises.toml"
    path.write_text(
        'version = 1\nfranchise = [{ name = "A", keywords = ["a"], loras = { SDXL = "civitai:7" } }]'
    )
    assert franchises.load(path)[0].loras == {"SDXL": "civitai:7"}


def test_the_negative_filter_is_sent_only_where_it_is_understood() -> None:
    assert styles.NEGATIVE_WORDS.startswith("blurry, deformed, bad anatomy")
    assert styles.negative_prompt("rain", supported=False) is None
    assert styles.negative_prompt(None, supported=True) == styles.NEGATIVE_WORDS
    assert styles.negative_prompt("rain", supported=True) == f"rain, {styles.NEGATIVE_WORDS}"
