"""What a panel says and what it is drawn from: pure functions of the prompt and of stored data."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from modal_app.contract import ENHANCED_LIMIT

CONTEXT_LIMIT = ENHANCED_LIMIT
"""Characters of earlier panels that an enhancement is told, all together."""

_VIEW_WORDS = {
    "back": re.compile(
        r"\b(from|seen from|view from)( the)? (behind|back)\b|\bback view\b|\brear view\b|\bfrom behind\b"
        r"|\b(turn\w*|walk\w*|run\w*|look\w*|fac\w+|rid\w+) away\b|\bback (turned|to us|to the viewer)\b",
        re.IGNORECASE,
    ),
    "side": re.compile(r"\bside view\b|\bin profile\b|\bprofile view\b|\bfrom the side\b|\bsideways\b", re.I),
    "front": re.compile(
        r"\bfront view\b|\bfrom the front\b|\bfac(es|ing) (us|the viewer|the camera)\b", re.I
    ),
}
_CLAUSES = re.compile(r"[.;,:!?\n]|\band\b|\bwhile\b|\bas\b", re.IGNORECASE)

Member = Mapping[str, Any]
"""Of the cast: ``character_id``, ``name``, ``attributes``; and ``references``, files with their ``view``."""
Use = dict[str, Any]
"""A reference of a job, with the ``character_id`` whom it shows."""


def wanted_view(prompt: str, name: str, others: Iterable[str] = ()) -> str:
    """``front``, ``side`` or ``back``: how a character of this name is to be seen.

    A clause speaks of whoever it names, else of whom the clause before spoke of, else of all.
    """
    names = [name, *others]
    subjects: list[str] = []
    for clause in _CLAUSES.split(prompt):
        subjects = [each for each in names if _mentions(clause, each)] or subjects
        view = next((view for view, words in _VIEW_WORDS.items() if words.search(clause)), None)
        if view and (not subjects or name in subjects):
            return view
    return "front"


def chosen_references(prompt: str, cast: Sequence[Member], limit: int) -> list[Use]:
    """What is drawn from, in the order of the cast: of one character up to ``limit`` pictures, of several
    one each; first the one that fits the pose best."""
    each = limit if len(cast) == 1 else 1
    uses = []
    for member in cast:
        others = [other["name"] for other in cast if other is not member]
        view = wanted_view(prompt, member["name"], others)
        uses += [as_use(member, file) for file in best_first(member["references"], view)[:each]]
    return uses


def best_first(files: Sequence[Mapping[str, Any]], view: str) -> list[Mapping[str, Any]]:
    """The view itself, then the others as they stand; a portrait shows the front where no view does."""
    wanted = {view, None} if view == "front" and not any(file["view"] == view for file in files) else {view}
    return sorted(files, key=lambda file: file["view"] not in wanted)


def as_use(member: Member, file: Mapping[str, Any]) -> Use:
    return {**file, "role": "reference", "character_id": member["character_id"]}


def framed(prompt: str, uses: Sequence[Use], cast: Sequence[Member]) -> str:
    """The prompt behind a sentence for each character that says which pictures show them.

    One character needs none: whoever the prompt speaks of is in every picture.
    """
    if len(cast) < 2:
        return prompt
    sentences = [_pictured(numbers_of(uses, member), member["name"]) for member in cast]
    return " ".join([*(sentence for sentence in sentences if sentence), prompt])


def numbers_of(uses: Sequence[Use], member: Member) -> list[int]:
    """Which pictures show somebody, from 1."""
    return [n for n, use in enumerate(uses, 1) if use["character_id"] == member["character_id"]]


def context_of(prompts: Sequence[str]) -> list[str]:
    """The newest of the earlier prompts, oldest first, that together keep within ``CONTEXT_LIMIT``."""
    kept: list[str] = []
    left = CONTEXT_LIMIT
    for prompt in reversed(prompts):
        left -= len(prompt)
        if left < 0:
            break
        kept.insert(0, prompt)
    return kept


def _mentions(text: str, name: str) -> bool:
    return re.search(rf"\b{re.escape(name)}\b", text, re.IGNORECASE) is not None


def _pictured(numbers: Sequence[int], name: str) -> str:
    if not numbers:
        return ""
    pictures = " and ".join(f"Picture {n}" for n in numbers)
    return f"{pictures} {'is' if len(numbers) == 1 else 'are'} {name}."
