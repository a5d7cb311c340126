"""Who is seen from where, what is drawn from, and what the prompt says of it: pure functions."""

import pytest

from gateway.comics.prompts import CONTEXT_LIMIT, chosen_references, context_of, framed, wanted_view
from tests.gateway.test_panels import KINDS


def member(name: str, *views: str | None) -> dict[str, object]:
    return {"character_id": name.lower(), "name": name, "references": [{"view": view} for view in views]}


MILA, REX = member("Mila", None, *KINDS), member("Rex", None, *KINDS)


@pytest.mark.parametrize(
    ("prompt", "mila", "rex"),
    [
        ("a walk in the park", "front", "front"),
        ("two friends, seen from behind", "back", "back"),
        ("Mila walks away", "back", "front"),
        ("Mila in profile, Rex from behind", "side", "back"),
        ("Mila waves and Rex turns away", "front", "back"),
        ("Rex stands on a hill, back turned; Mila from the side", "side", "back"),
        ("MILA and Rex, side view", "front", "side"),
        ("Milan at night, back view", "back", "back"),
    ],
)
def test_a_clause_speaks_of_whoever_it_names(prompt: str, mila: str, rex: str) -> None:
    assert (wanted_view(prompt, "Mila", ["Rex"]), wanted_view(prompt, "Rex", ["Mila"])) == (mila, rex)


def test_the_view_that_fits_comes_first_and_one_character_brings_the_others() -> None:
    alone = chosen_references("from behind", [MILA], 3)
    assert [use["view"] for use in alone] == ["back", None, "front"]
    assert [use["view"] for use in chosen_references("a walk", [member("Mila", None, "side")], 3)] == [
        None,
        "side",
    ]
    both = chosen_references("Mila in profile, Rex from behind", [REX, MILA], 3)
    assert [(use["character_id"], use["view"]) for use in both] == [("rex", "back"), ("mila", "side")]


def test_the_prompt_names_pictures_where_there_is_more_than_one_character() -> None:
    uses = chosen_references("a walk", [MILA, REX], 3)
    assert framed("a walk", uses, [MILA, REX]) == "Picture 1 is Mila. Picture 2 is Rex. a walk"
    assert framed("a walk", uses[:1], [MILA]) == "a walk"


def test_the_context_keeps_the_newest_prompts_that_fit() -> None:
    prompts = ["a" * 700, "b" * 700, "c" * 700]
    assert context_of(prompts) == prompts[1:]
    assert context_of([*prompts, "d" * (CONTEXT_LIMIT + 1)]) == []
    assert sum(map(len, context_of(["e" * 100] * 40))) <= CONTEXT_LIMIT
