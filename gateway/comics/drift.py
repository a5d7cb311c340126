"""How like themselves characters stay over a chapter: pure functions of its panels' rows."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any, Literal
from uuid import UUID

from gateway.comics import schemas

Row = Mapping[str, Any]
_JUDGES: dict[str | None, Literal["model", "rules"]] = {"vlm": "model", "fallback": "rules"}


def drift_of(chapter: Row) -> schemas.ChapterConsistency:
    """``panels`` in order, with ``consistency`` as they keep it; ``names`` by the id of a character."""
    panels = [_panel(each) for each in chapter["panels"]]
    return schemas.ChapterConsistency(
        chapter_id=chapter["id"], panels=panels, characters=_characters(panels, chapter["names"])
    )


def _panel(row: Row) -> schemas.PanelDrift:
    told = row["consistency"] or {}
    return schemas.PanelDrift(
        panel_id=row["id"],
        position=row["position"],
        status=row["status"],
        score=told.get("score"),
        per_character=told.get("per_character", []),
        threshold=told.get("threshold"),
        judge=_JUDGES.get(told.get("judged_by")),
        attempts=row["attempts"],
    )


def _characters(
    panels: Sequence[schemas.PanelDrift], names: Mapping[str, str]
) -> list[schemas.CharacterDrift]:
    """As they enter the chapter."""
    scores: dict[UUID, list[tuple[float, bool]]] = {}
    for panel in panels:
        for each in panel.per_character:
            if each.score is not None:
                too_low = panel.threshold is not None and each.score < panel.threshold
                scores.setdefault(each.character_id, []).append((each.score, too_low))
    return [_character(who, names.get(str(who)), found) for who, found in scores.items()]


def _character(who: UUID, name: str | None, found: Sequence[tuple[float, bool]]) -> schemas.CharacterDrift:
    marks = [score for score, _ in found]
    return schemas.CharacterDrift(
        character_id=who,
        name=name,
        panels=len(marks),
        mean=fmean(marks),
        lowest=min(marks),
        below_threshold=sum(too_low for _, too_low in found),
    )
