"""House styles: their exact words, and what a bad file is told."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import styles

DESIGN = {
    "anime": ("Anime", "vibrant colors, detailed shading, anime art style"),
    "line-art": ("Line Art", "clean lines, minimalist, vector art"),
    "flat-logo": ("Flat Logo", "flat design, bold shapes, modern minimalist"),
    "watercolor": ("Watercolor", "soft blending, artistic brush strokes"),
    "abstract": ("Abstract", "geometric shapes, modern composition"),
    "minimalist": ("Minimalist", "simple clean composition, negative space"),
    "vintage": ("Vintage", "retro aesthetic, aged texture"),
    "grunge": ("Grunge", "distressed style, urban aesthetic, rough edges"),
    "standard": ("Standard", "professional design, balanced composition"),
}
STORYBOOK = {
    "watercolor": "soft watercolor wash, subtle grain",
    "storybook": "storybook classic, warm tones, gentle line",
    "anime": "anime clean lines, bright eyes, cel shading",
    "flat": "flat illustration, bold shapes, minimal shading",
    "colored-pencil": "colored pencil texture, visible strokes",
}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("label = ", "not TOML"),
        ('keywords = "a"\nversion = 1', "`label`"),
        ('label = "A"\nkeywords = ""\nversion = 1', "`keywords`"),
        ('label = "A"\nkeywords = "a"\nversion = "1"', "`version`"),
        ('label = "A"\nkeywords = "a"\nversion = 1\ncolour = "red"', "`colour`"),
    ],
)
def test_a_bad_file_is_refused_with_file_field_and_reason(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "design").mkdir()
    (tmp_path / "design" / "odd.toml").write_text(text)
    with pytest.raises(styles.StyleError, match=reason) as refused:
        styles.load(tmp_path)
    assert "odd.toml" in str(refused.value)


def test_an_unknown_style_is_none() -> None:
    assert styles.find("cubism") is None


@pytest.mark.parametrize("name", sorted(DESIGN))
def test_design_styles_have_their_words(name: str) -> None:
    style = styles.STYLES[f"design/{name}"]
    assert (style.label, style.keywords) == DESIGN[name]


@pytest.mark.parametrize("name", sorted(STORYBOOK))
def test_storybook_styles_have_their_words(name: str) -> None:
    assert styles.STYLES[f"storybook/{name}"].keywords == STORYBOOK[name]


def test_there_are_no_others() -> None:
    assert set(styles.STYLES) == {f"design/{n}" for n in DESIGN} | {f"storybook/{n}" for n in STORYBOOK}


@pytest.mark.parametrize("name", ["Line Art", "line art", "LINE ART", "line-art", "design/line-art"])
def test_a_style_is_found_by_id_or_label_in_any_case(name: str) -> None:
    assert styles.find(name) is styles.STYLES["design/line-art"]


def test_a_bare_name_in_both_sets_means_the_default_set() -> None:
    assert styles.find("watercolor") is styles.STYLES["design/watercolor"]
    assert styles.find("watercolor", "storybook") is styles.STYLES["storybook/watercolor"]


@pytest.mark.parametrize("style", styles.STYLES.values(), ids=lambda style: style.id)
@given(prompt=st.text(min_size=1))
def test_every_style_stands_behind_any_prompt_and_has_a_version(style: styles.Style, prompt: str) -> None:
    assert styles.apply(style, prompt) == f"{prompt}, {style.keywords}"
    assert style.version >= 1


def test_a_style_appends_its_keywords_and_no_style_appends_nothing() -> None:
    assert styles.apply(styles.find("Anime"), "a phoenix") == f"a phoenix, {DESIGN['anime'][1]}"
    assert styles.apply(None, " a  phoenix ") == " a  phoenix "
