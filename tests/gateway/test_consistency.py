"""Panels that are judged and repaired: what each try does otherwise, which is kept, and what it may cost."""

from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
import pytest_asyncio

from gateway.comics import consistency
from gateway.comics.drift import drift_of
from gateway.comics.plan import PanelPlan
from gateway.jobs.drafts import Drafts
from gateway.jobs.lifecycle import ClaimedJob
from gateway.jobs.plans import Complete, Next
from modal_app import catalog
from modal_app.contract import JudgeResult, SubjectResult, Verdict
from tests.gateway.conftest import DRAWN_BY
from tests.gateway.test_comics import begun, code_of, joined, statements_of
from tests.gateway.test_panels import chapter_of, debug, drawn, hired, sent
from tests.gateway.test_plans import JOB, ROW
from tests.support.stack import Stack
from tests.support.talking import Speech, talking_stack

SHAS = ["0" * 64, "1" * 64, "2" * 64]
FILES = [
    {"view": view, "sha256": sha, "key": sha}
    for view, sha in zip(("front", "side", "back"), SHAS, strict=True)
]


def cast(*names: str) -> list[dict[str, Any]]:
    return [
        {"character_id": name, "name": name, "attributes": ["red hat"], "references": FILES} for name in names
    ]


def panel_job(
    *, people: int = 1, cost: int = 0, state: dict[str, Any] | None = None, **asked: Any
) -> ClaimedJob:
    """With one stored picture of call 1, which cost 100."""
    members = cast("Mila", "Rex")[:people]
    judge = {"model": "instant", "pass_score": 70.0, "fallback_pass_score": 60.0, "repairs": 4}
    judge |= {"max_cost_usd_micros": None, "usd_micros_per_second": None, **asked}
    picture = {"seq": 1, "n": 0, "key": "1", "sha256": "3" * 64, "seed": 7}
    uses = [{**FILES[0], "role": "reference", "character_id": member["character_id"]} for member in members]
    columns = {
        **{"inputs": {"cast": members, "judge": judge, "raw": False}, "references": uses},
        **{"state": {"candidates": [picture], **(state or {})}, "cost_usd_micros": cost or 100},
    }
    return replace(JOB, plan="comic_panel", row={**ROW, **columns})


def said(*scores: float, by: Any = "vlm", likeness: tuple[float, ...] = (10.0, 30.0, 20.0)) -> JudgeResult:
    subjects = [
        SubjectResult(
            score=score,
            likeness=list(likeness),
            verdicts=[Verdict(attribute="red hat", kept=score > 50, score=score)],
        )
        for score in scores
    ]
    return JudgeResult(score=min(scores), verdicts=[], subjects=subjects, answered_by=by)


def after(job: ClaimedJob, outcome: Any) -> ClaimedJob:
    """The job once the next picture is stored."""
    assert isinstance(outcome, Next)
    changes = outcome.changes
    seq = len(changes.state["attempts"]) * 2 + 1
    pictures = [
        *job.row["state"]["candidates"],
        {"seq": seq, "n": 0, "key": f"{seq}", "sha256": "3" * 64, "seed": seq},
    ]
    row = {
        **job.row,
        **{
            name: value
            for name in ("seed", "prompt_final", "references")
            if (value := getattr(changes, name)) is not None
        },
        **{"state": {**job.row["state"], **changes.state, "candidates": pictures}},
        "cost_usd_micros": job.row["cost_usd_micros"] + 100,
    }
    return replace(job, row=row)


# The ladder


def test_each_repair_goes_one_rung_up_and_keeps_those_below() -> None:
    job, plan = panel_job(people=2), PanelPlan()
    for _ in range(4):
        job = after(job, plan.judged(job, said(20.0, 90.0)))
    done = plan.judged(job, said(20.0, 90.0))
    assert isinstance(done, Complete)
    tried = done.changes.state["attempts"]
    assert [each["repair"] for each in tried] == [None, "seed", "view", "wording", "steps"]
    assert len({each["seed"] for each in tried}) == 5
    assert [each["references"][0] for each in tried] == [SHAS[0], SHAS[0], SHAS[1], SHAS[1], SHAS[1]]
    assert {each["references"][1] for each in tried} == {SHAS[0]}, "who stayed the same keeps the picture"
    assert [each["prompt"].count("Keep Mila exactly as in Picture 1: red hat.") for each in tried] == [
        0,
        0,
        0,
        1,
        1,
    ]
    assert [each["steps"] for each in tried] == [1, 1, 1, 1, 2]
    assert plan.image_request(job)["num_inference_steps"] == 2


def test_one_character_brings_the_view_that_is_most_alike_to_the_front() -> None:
    job = panel_job()
    job.row["references"][:] = [{**file, "role": "reference", "character_id": "Mila"} for file in FILES]
    plan = PanelPlan()
    job = after(job, plan.judged(job, said(20.0)))
    outcome = plan.judged(job, said(20.0, likeness=(10.0, 20.0, 30.0)))
    assert isinstance(outcome, Next) and outcome.changes.references is not None
    assert [use["view"] for use in outcome.changes.references] == ["back", "side", "front"]


def test_a_raw_prompt_is_never_worded_more_strongly() -> None:
    job, plan = panel_job(), PanelPlan()
    job.row["inputs"]["raw"] = True
    for _ in range(4):
        job = after(job, plan.judged(job, said(20.0)))
    tried = consistency.attempts_of(job.row)
    assert [each["repair"] for each in tried] == [None, "seed", "view", "steps"]
    assert job.row["state"]["repair"] == "seed"
    assert job.row["prompt_final"] == ROW["prompt_final"]


@pytest.mark.parametrize(
    ("result", "asked"),
    [
        (said(70.0), {}),
        (said(60.0, by="fallback"), {}),
        (said(10.0), {"repairs": 0}),
        (said(10.0), {"max_cost_usd_micros": 224}),
        (None, {}),
        (JudgeResult(score=0, verdicts=[], answered_by="vlm"), {}),
    ],
    ids=["good", "good by rules", "no repairs", "too expensive", "nobody looked", "an older service"],
)
def test_a_picture_is_kept(result: JudgeResult | None, asked: dict[str, Any]) -> None:
    assert isinstance(PanelPlan().judged(panel_job(**asked), result), Complete)


def test_a_repair_is_begun_while_it_fits_under_the_cap() -> None:
    assert isinstance(PanelPlan().judged(panel_job(max_cost_usd_micros=226), said(10.0)), Next)


def test_more_steps_are_expected_to_cost_more() -> None:
    job, plan = panel_job(), PanelPlan()
    for _ in range(3):
        job = after(job, plan.judged(job, said(20.0)))
    assert consistency.rung_of(job, [*consistency.attempts_of(job.row), {}][:3]) == "wording"
    job.row["inputs"]["judge"]["max_cost_usd_micros"] = (
        400 + 249
    )  # 125 would do at as many steps, 250 at twice
    assert isinstance(plan.judged(job, said(20.0)), Complete)
    job.row["inputs"]["judge"]["max_cost_usd_micros"] = 400 + 250
    assert isinstance(plan.judged(job, said(20.0)), Next)


def test_a_call_is_stopped_before_the_cap() -> None:
    job = panel_job(max_cost_usd_micros=1100, usd_micros_per_second=10.0)
    assert PanelPlan().judge_request(job)["limit_gpu_seconds"] == pytest.approx(90.0)
    assert PanelPlan().image_request(job)["limit_gpu_seconds"] == pytest.approx(90.0)
    assert "limit_gpu_seconds" not in PanelPlan().image_request(panel_job())


def test_the_best_picture_is_kept_with_what_drew_it() -> None:
    job, plan = panel_job(repairs=2), PanelPlan()
    for score in (30.0, 60.0):
        job = after(job, plan.judged(job, said(score)))
    done = plan.judged(job, said(40.0))
    assert isinstance(done, Complete)
    assert [picture["seq"] for picture in done.pictures] == [3]
    kept = next(each for each in done.changes.state["attempts"] if each["accepted"])
    assert (kept["score"], done.changes.seed, done.changes.prompt_final) == (
        60.0,
        kept["seed"],
        kept["prompt"],
    )
    assert [use["sha256"] for use in done.changes.references or []] == kept["references"]


def test_a_repair_that_fails_leaves_the_best_picture_there_is() -> None:
    job, plan = panel_job(), PanelPlan()
    outcome = plan.judged(job, said(30.0))
    job = after(job, outcome)
    job.row["state"]["candidates"].pop()  # the second picture was never drawn
    done = plan.accepted(job, job.row["state"]["verdicts"])
    assert [picture["seq"] for picture in done.pictures] == [1]


def test_every_threshold_is_one_of_the_catalogue() -> None:
    for model in catalog.CATALOG:
        low, high = model.likeness
        assert 0 <= low < high <= 1 and 0 < model.consistency_threshold < 100


# The drift of a chapter


def test_a_drift_has_a_line_for_each_character_over_the_panels_that_were_looked_at() -> None:
    mila, rex = uuid4(), uuid4()

    def panel(position: int, by: str | None, threshold: float, **scores: float | None) -> dict[str, Any]:
        told = [
            {"character_id": {"mila": mila, "rex": rex}[name], "score": score, "kept": [], "lost": []}
            for name, score in scores.items()
        ]
        worst = {"score": min((each for each in scores.values() if each is not None), default=None)}
        seen = {**worst, "per_character": told, "judged_by": by, "threshold": threshold, "attempts": 2}
        return {"id": uuid4(), "position": position, "status": "ready", "consistency": seen, "attempts": 2}

    unseen = {"id": uuid4(), "position": 4, "status": "pending", "consistency": None, "attempts": 0}
    panels = [
        panel(1, "vlm", 80.0, mila=90.0),
        panel(2, "fallback", 60.0, mila=70.0, rex=50.0),
        panel(3, None, 60.0, mila=None),
        unseen,
    ]
    found = drift_of({"id": uuid4(), "panels": panels, "names": {str(mila): "Mila"}})
    assert [(each.position, each.judge, each.threshold, each.score) for each in found.panels] == [
        (1, "model", 80.0, 90.0),
        (2, "rules", 60.0, 50.0),
        (3, None, 60.0, None),
        (4, None, None, None),
    ]
    assert [
        (each.character_id, each.name, each.panels, each.mean, each.lowest, each.below_threshold)
        for each in found.characters
    ] == [(mila, "Mila", 2, 80.0, 70.0, 0), (rex, None, 1, 50.0, 50.0, 1)]


# Over HTTP


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def speech() -> Speech:
    return Speech()


@pytest.fixture(autouse=True)
def perfect(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test that changes the scores leaves them as they were."""
    yield
    if "speech" in request.fixturenames:
        request.getfixturevalue("speech").scores = [100.0]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def studio(
    new_database: Callable[[], str], new_folder: Callable[[], Path], speech: Speech
) -> AsyncIterator[Stack]:
    settings = {**DRAWN_BY, "worker_interval_seconds": 0.05}
    async with talking_stack(new_database(), new_folder(), speech, **settings) as running:
        yield running


async def test_a_panel_is_repaired_until_its_character_is_the_same(studio: Stack, speech: Speech) -> None:
    user = studio.new_user()
    mila = await hired(user, attributes={"do_not_change": ["red scarf"]})
    speech.scores = [20.0, 40.0, 90.0]
    panel = await drawn(user, await chapter_of(user), "a walk", character_ids=[mila["id"]])
    assert panel["consistency"] == {
        "score": 90.0,
        "per_character": [{"character_id": mila["id"], "score": 90.0, "kept": ["red scarf"], "lost": []}],
        "attempts": 3,
        "threshold": 60.0,
        "judged_by": "vlm",
    }
    told = await debug(user, panel)
    tried = [(each["repair"], each["score"], each["accepted"]) for each in told["attempts"]]
    assert tried == [(None, 20.0, False), ("seed", 40.0, False), ("view", 90.0, True)]
    assert told["attempts"][0]["per_character"][0]["lost"] == ["red scarf"]
    assert told["attempts"][2]["references"] == [use["sha256"] for use in told["references"]]
    assert [use["sha256"] for use in sent(told)["references"]] == told["attempts"][2]["references"]
    assert [call["task"] for call in told["calls"]] == ["enhance", *["image", "judge"] * 3]
    assert (
        len(studio.rows("select from public.generated_assets where job_id = %s", UUID(panel["job_id"]))) == 1
    )
    subject = sent(told, "judge")["subjects"][0]
    assert (len(subject["references"]), subject["attributes"]) == (4, ["red scarf"])


async def test_the_best_of_a_bad_lot_is_kept_and_webhooks_are_told(studio: Stack, speech: Speech) -> None:
    user = studio.new_user()
    mila = await hired(user)
    speech.scores = [30.0, 10.0]
    panel = await drawn(user, await chapter_of(user), "a walk", character_ids=[mila["id"]], max_attempts=2)
    assert (panel["status"], panel["consistency"]["score"], panel["consistency"]["attempts"]) == (
        "ready",
        30.0,
        2,
    )
    told = studio.rows(
        "select payload from private.outbox where job_id = %s and kind = 'panel.low_consistency'",
        UUID(panel["job_id"]),
    )
    assert [(row["payload"]["panel_id"], row["payload"]["score"]) for row in told] == [(panel["id"], 30.0)]


async def test_a_chapter_tells_its_drift_in_one_query_and_names_to_whom_they_belong(
    studio: Stack, speech: Speech, monkeypatch: pytest.MonkeyPatch
) -> None:
    user, stranger = studio.new_user(), studio.new_user()
    people = [(await hired(user, name))["id"] for name in ("Mila", "Rex")]
    comic = await begun(user)
    viewer = await joined(studio, user, comic, "viewer")
    chapter_id = comic["chapters"][0]["id"]
    speech.scores = [90.0, 30.0, 55.0]
    panels = [
        await drawn(user, chapter_id, "Mila walks", character_ids=people[:1]),
        await drawn(user, chapter_id, "both walk", character_ids=people, max_attempts=2),
        await drawn(user, chapter_id, "an empty street"),
    ]
    place = f"/v1/comics/chapters/{chapter_id}/consistency"
    assert code_of(await stranger.http.get(place)) == (404, "not_found", None)
    statements = statements_of(studio, monkeypatch)
    told = (await user.http.get(place)).json()
    assert len([text for text in statements if "comic_panels" in text]) == 1
    assert (told["object"], told["chapter_id"]) == ("chapter.consistency", chapter_id)
    shown = ("panel_id", "position", "score", "threshold", "judge", "attempts")
    assert [[each[name] for name in shown] for each in told["panels"]] == [
        [panels[0]["id"], 1, 90.0, 60.0, "model", 1],
        [panels[1]["id"], 2, 55.0, 60.0, "model", 2],
        [panels[2]["id"], 3, None, None, None, 1],
    ]
    assert [[each["score"] for each in panel["per_character"]] for panel in told["panels"]] == [
        [90.0],
        [55.0, 100.0],
        [],
    ]
    lines = [
        (each["character_id"], each["name"], each["mean"], each["lowest"]) for each in told["characters"]
    ]
    assert lines == [(people[0], "Mila", 72.5, 55.0), (people[1], "Rex", 100.0, 100.0)]
    theirs = (await viewer.http.get(place)).json()
    assert [each["name"] for each in theirs["characters"]] == [None, None]
    assert theirs["panels"] == told["panels"]


async def test_a_cap_that_is_too_low_for_one_picture_is_refused(
    studio: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def priced(self: Drafts, columns: dict[str, Any]) -> dict[str, Any]:
        return columns | {"estimated_usd_micros": 50, "reserved_usd_micros": 100, "reserved_gpu_seconds": 10}

    user = studio.new_user()
    body: dict[str, Any] = {"prompt": "a", "character_ids": [(await hired(user))["id"]]}
    place = f"/v1/comics/chapters/{await chapter_of(user)}/panels"
    monkeypatch.setattr(Drafts, "priced", priced)
    refused = await user.http.post(place, json=body | {"max_cost_usd_micros": 49})
    assert code_of(refused) == (400, "cost_cap_too_low", "max_cost_usd_micros")
    made = await user.http.post(place, json=body | {"max_cost_usd_micros": 50}, headers={"Prefer": "wait=30"})
    told = await debug(user, made.json())
    assert (told["max_cost_usd_micros"], told["max_attempts"]) == (50, 3)
    assert sent(told)["limit_gpu_seconds"] == pytest.approx(4.5)
