"""How well two characters stay the same over a chapter, and what repairs are worth.

    python -m scripts.bench_consistency [--panels 24] [--attempts 3]

Two characters are made from drawings and put into a chapter through the API, on the bundled model: each
alone and both together, by turns, under a cost cap.  A panel's first picture is what it would be without
repairs, so one run has both.  Then each picture is judged once more with somebody else in a member's place:
the other of the two where one stood alone, else a stranger who differs in a single trait.

Prints a line for each panel, mean and tenth percentile with and without repairs, the AUC of the right
character against the swapped one, and the most that any panel has used of its cap, as the ledger says.  Fails
when the AUC is below the goal or a cap was exceeded.
"""

import argparse
import asyncio
import io
import random
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import numpy as np

from gateway.auth import Principal
from gateway.embedded import EmbeddedPostgres
from gateway.jobs import recipes
from scripts.calibrate_consistency import PLACES, auc, looks_of
from scripts.process_figures import machine
from scripts.tiny import drawing
from scripts.tiny.creatures import Creature, Picture
from tests.support.stack import Stack, User, stack

AUC_MIN = 0.95
CAP_PICTURES = 6.0
"""The cap of a panel, in what a first panel of both has cost at once."""
PATIENCE_SECONDS = 300.0
MODEL = "tiny-qwen-edit"
GPU = {"GPU_MODELS": f"tiny-qwen,{MODEL}", "GPU_PRELOAD": MODEL, "GPU_NAME": "B200"}
"""The dearest price there is: cents are easier to compare than nothing."""

CREATURES = {"Mila": Creature("round", "red", "blue"), "Rex": Creature("square", "green", "yellow")}
STRANGERS = {"Mila": Creature("round", "red", "yellow"), "Rex": Creature("pointy", "green", "yellow")}
"""Who takes the place of whom; each differs in one trait."""
CASTS = (("Mila",), ("Rex",), ("Mila", "Rex"))
ALONE, TOGETHER = "the same creature {}", "both creatures side by side, {}"
"""In the words of the bundled model's small world, which knows no names."""

SETTLED = "select usd_micros from private.ledger where job_id = %s and kind = 'settle'"


@dataclass(frozen=True)
class Panel:
    """Scores 0 to 100, micro-dollars."""

    cast: tuple[str, ...]
    first: float | None
    """None where nobody has judged it: the judge was stopped by the cap."""
    shown: float | None
    threshold: float
    repairs: tuple[str, ...]
    usd_micros: int
    cap: int
    same: dict[str, float]
    """Of each member, in the picture that is shown; empty where nobody has judged it."""
    swapped: dict[str, float]
    """Of whoever was put in their place."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--panels", type=int, default=24)
    parser.add_argument("--attempts", type=int, default=3, help="pictures a panel may take")
    options = parser.parse_args()
    print(f"{machine()}\n")
    print(
        "| panel | who | first picture | shown | repairs | cost, micro-dollars |\n|---|---|---|---|---|---|"
    )
    panels = asyncio.run(_chapter(options.panels, options.attempts))
    _tell(panels)
    _fail_if_broken(panels)


def discrimination(panels: Sequence[Panel]) -> float:
    """AUC of every member against whoever was put in their place."""
    same = [score for panel in panels for score in panel.same.values()]
    return auc(same, [score for panel in panels for score in panel.swapped.values()])


async def _chapter(count: int, attempts: int) -> list[Panel]:
    """The panels of a new chapter, each told as soon as it is there."""
    panels: list[Panel] = []
    with (
        tempfile.TemporaryDirectory(prefix="tenkaigen-bench-") as name,
        EmbeddedPostgres(Path(name)) as server,
    ):
        async with stack(server.admin_url, Path(name), gpu=GPU) as product:
            async for panel in drawn(product, count, attempts):
                panels.append(panel)
                _tell_panel(len(panels), panel)
    return panels


async def drawn(product: Stack, count: int, attempts: int) -> AsyncIterator[Panel]:
    random.seed(7)  # of what the service draws without being told a seed
    studio = Studio(product)
    await studio.open()
    cap = round(CAP_PICTURES * await studio.cost_of_one())
    for n in range(count):
        yield await studio.panel(CASTS[n % len(CASTS)], PLACES[n % len(PLACES)], n, attempts, cap)


class Studio:
    """A comic with its two characters, drawn through the API, and files of strangers."""

    def __init__(self, product: Stack) -> None:
        self._product = product
        self._user: User = product.user
        self._caller = Principal(UUID(str(product.user.id)), "bench", frozenset({"generate", "read"}))
        self._characters: dict[str, str] = {}
        self._subjects: dict[str, dict[str, Any]] = {}

    async def open(self) -> None:
        for name, creature in CREATURES.items():
            self._characters[name] = await self._character(name, creature)
            self._subjects[name] = await self._subject(name, creature)
        self._strangers = {name: await self._stranger(each) for name, each in STRANGERS.items()}
        comic = await self._post("/v1/comics", name="Mila and Rex")
        self._chapter = comic["chapters"][0]["id"]
        self._trials = (await self._post(f"/v1/comics/{comic['id']}/chapters", name="Trials"))["id"]

    async def cost_of_one(self) -> int:
        """Of a panel of both, drawn once."""
        told = await self._drawn(self._trials, CASTS[-1], "on a beach", 0, max_attempts=1)
        return int(told["attempts"][0]["usd_micros"])

    async def panel(self, cast: tuple[str, ...], place: str, seed: int, attempts: int, cap: int) -> Panel:
        told = await self._drawn(
            self._chapter, cast, place, seed, max_attempts=attempts, max_cost_usd_micros=cap
        )
        tried, seen = told["attempts"], told["panel"]["consistency"]
        named = {self._characters[name]: name for name in cast}
        judged = seen["score"] is not None
        (settled,) = self._product.rows(SETTLED, told["panel"]["job_id"])
        return Panel(
            cast=cast,
            first=tried[0]["score"],
            shown=seen["score"],
            threshold=seen["threshold"],
            repairs=tuple(each["repair"] for each in tried[1:]),
            usd_micros=settled["usd_micros"],
            cap=cap,
            same={named[each["character_id"]]: each["score"] for each in seen["per_character"]},
            swapped={name: await self._swapped(told, cast, name) for name in cast if judged},
        )

    async def _drawn(
        self, chapter: str, cast: Sequence[str], place: str, seed: int, **limits: int
    ) -> dict[str, Any]:
        """The debug view of a new panel that is ready."""
        prompt = (ALONE if len(cast) == 1 else TOGETHER).format(place)
        body = {"prompt": prompt, "seed": seed, "character_ids": [self._characters[name] for name in cast]}
        panel = await self._post(f"/v1/comics/chapters/{chapter}/panels", **body, **limits)
        job = await self._user.ended(panel["job_id"], within=PATIENCE_SECONDS)
        assert job["status"] == "completed", job["error"]
        return dict((await self._user.http.get(f"/v1/comics/panels/{panel['id']}/debug")).json())

    async def _swapped(self, told: Mapping[str, Any], cast: Sequence[str], name: str) -> float:
        """What the shown picture scores for somebody who is not in it, in a member's place."""
        request, where = _judged(told), list(cast).index(name)
        other = next((each for each in CREATURES if each not in cast), None)
        request["subjects"][where] = self._subjects[other] if other else self._strangers[name]
        columns, job_id = recipes.task_columns("judge", MODEL, request), uuid4()
        assert self._product.app is not None
        jobs = self._product.app.state.jobs
        await jobs.create_task(self._caller, columns, job_id=job_id)
        row = await jobs.wait(self._caller, job_id, PATIENCE_SECONDS)
        assert row["status"] == "completed", row["error_message"]
        return float(row["state"]["result"]["subjects"][where]["score"])

    async def _character(self, name: str, creature: Creature) -> str:
        """The id of one that is ready, made from a drawing."""
        (upload,) = await self._uploaded(creature, ["front"])
        looks = {"do_not_change": looks_of(creature)}
        source = {"source": "photo", "upload_id": upload, "consent": True}
        character = await self._post("/v1/characters", name=name, attributes=looks, **source)
        job = await self._user.ended(character["job_id"], within=PATIENCE_SECONDS)
        assert job["status"] == "completed", job["error"]
        return str(character["id"])

    async def _subject(self, name: str, creature: Creature) -> dict[str, Any]:
        """A character as a subject of task ``judge``, as panels are judged."""
        assert self._product.app is not None
        character_id = UUID(self._characters[name])
        found = await self._product.app.state.characters.references(self._caller, [character_id])
        files = found[character_id]
        references = [{"url": f"{each['bucket']}/{each['key']}", "sha256": each["sha256"]} for each in files]
        return {"references": references, "attributes": looks_of(creature)}

    async def _stranger(self, creature: Creature) -> dict[str, Any]:
        """The same from drawings."""
        assert self._product.app is not None
        ids = [UUID(each) for each in await self._uploaded(creature, ["front", "side", "back"])]
        found = (await self._product.app.state.uploads.pictures(self._caller, ids)).values()
        references = [{"url": f"{file.bucket}/{file.key}", "sha256": file.sha256} for file in found]
        return {"references": references, "attributes": looks_of(creature)}

    async def _uploaded(self, creature: Creature, views: Sequence[str]) -> list[str]:
        ids = []
        for view in views:
            content = io.BytesIO()
            drawing.draw(Picture((creature,), view)).save(content, "PNG")
            ids.append(await self._user.upload(content.getvalue()))
        return ids

    async def _post(self, path: str, **body: Any) -> dict[str, Any]:
        answer = await self._user.http.post(path, json=body)
        assert answer.is_success, answer.text
        return dict(answer.json())


def _judged(told: Mapping[str, Any]) -> dict[str, Any]:
    """The request by which the picture that is shown was judged."""
    shown = next(each["seq"] for each in told["attempts"] if each["accepted"])
    calls = [call for call in told["calls"] if call["task"] == "judge" and call["seq"] > shown]
    request = dict(min(calls, key=lambda call: int(call["seq"]))["request"])
    return {**request, "subjects": list(request["subjects"]), "limit_gpu_seconds": None}


def _tell_panel(n: int, panel: Panel) -> None:
    repairs, who = ", ".join(panel.repairs) or "none", " and ".join(panel.cast)
    scores = f"{_told(panel.first)} | {_told(panel.shown)}"
    print(f"| {n} | {who} | {scores} | {repairs} | {panel.usd_micros} |", flush=True)


def _tell(panels: Sequence[Panel]) -> None:
    print("\n| | mean | tenth percentile | at the threshold or above | pictures |\n|---|---|---|---|---|")
    pictures = len(panels) + sum(len(panel.repairs) for panel in panels)
    _tell_scores("without repairs", panels, [panel.first for panel in panels], len(panels))
    _tell_scores("with repairs", panels, [panel.shown for panel in panels], pictures)
    count = sum(len(panel.same) for panel in panels)
    print(f"\nAUC on swapped characters: {discrimination(panels):.3f} ({count} the same, {count} swapped)")
    used = max(panel.usd_micros / panel.cap for panel in panels)
    print(f"cap of a panel: {panels[0].cap} micro-dollars; the most that one used of it: {used:.0%}")


def _tell_scores(what: str, panels: Sequence[Panel], scores: Sequence[float | None], pictures: int) -> None:
    """Of panels that were judged; those that were not count as below the threshold."""
    known = [score for score in scores if score is not None]
    passed = sum((score or 0.0) >= panel.threshold for score, panel in zip(scores, panels, strict=True))
    mean, tenth = np.mean(known), np.percentile(known, 10)
    print(f"| {what} | {mean:.1f} | {tenth:.1f} | {passed} of {len(panels)} | {pictures} |")


def _told(score: float | None) -> str:
    return "not judged" if score is None else f"{score:.1f}"


def _fail_if_broken(panels: Sequence[Panel]) -> None:
    if any(panel.usd_micros > panel.cap for panel in panels):
        raise SystemExit("a panel cost more than its cap")
    if discrimination(panels) < AUC_MIN:
        raise SystemExit(f"AUC below {AUC_MIN}")


if __name__ == "__main__":
    main()
