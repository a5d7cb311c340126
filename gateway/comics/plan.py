"""The plan of a panel: that of a picture, with words that say who is who.

``inputs`` of its row tell it, beside what every picture is told:

    panel_id, project_id
    cast        everybody in it, in order (``prompts.Member``)
    raw         the prompt goes to the model byte for byte
"""

from collections.abc import Sequence

from psycopg.types.json import Jsonb

from gateway.comics import statements
from gateway.comics.prompts import framed
from gateway.jobs.image_plan import ImagePlan
from gateway.jobs.plans import Picture, Row, Statement

PANEL = "comic_panel"
"""Name of the plan."""

POLL_AFTER_MS = 3000
"""How often a frontend should ask after a panel."""


class PanelPlan(ImagePlan):
    """``enhance?`` → ``image`` → ``judge?`` → ready, and repairs between; see ``consistency``."""

    poll_after_ms = POLL_AFTER_MS

    def final_prompt(self, row: Row, prompt: str) -> str:
        return super().final_prompt(row, framed(prompt, row["references"], row["inputs"]["cast"]))

    def ended(self, job: Row, pictures: Sequence[Picture]) -> Sequence[Statement]:
        """The panel shows what came of its own job; what another has drawn for it goes."""
        values = {
            **{"id": job["inputs"]["panel_id"], "job_id": job["id"], "retry_of": job["retry_of"]},
            **{"image_id": pictures[0]["id"] if pictures else None},
            **{"enhanced_prompt": job["prompt_enhanced"]},
            **{"consistency": None, "attempts": 0},
        }
        discarded = [Statement(statements.DISCARD_PICTURE, values)] if pictures else []
        return [Statement(statements.KEEP_PANEL, values), *discarded, *_announced(job)]


def _announced(job: Row) -> list[Statement]:
    kinds = ["panel.ready" if job["status"] == "completed" else "panel.failed"]
    payload = Jsonb({"panel_id": job["inputs"]["panel_id"], "project_id": job["inputs"]["project_id"]})
    told = {"job_id": job["id"], "user_id": job["user_id"], "payload": payload}
    return [Statement(statements.ANNOUNCE, told | {"kind": kind}) for kind in kinds]
