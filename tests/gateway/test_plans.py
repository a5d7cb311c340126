"""Jobs of several GPU calls, and jobs with children: enhanced, judged, repaired, fanned out."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from gateway import services
from gateway.auth import Principal
from gateway.jobs import judging, recipes
from gateway.jobs.drafts import Drafts
from gateway.jobs.image_plan import ImagePlan
from gateway.jobs.language_plan import fallback
from gateway.jobs.lifecycle import LOST, ClaimedJob, Fail
from gateway.jobs.plans import CallSpec, Complete, Next, Row, Statement
from gateway.jobs.service import JobService
from modal_app.contract import EnhanceRequest, EnhanceResult, JudgeRequest, JudgeResult, ServedModels
from tests.support import triptych
from tests.support.faults import all_ended, eventually, no_open_calls
from tests.support.stack import Stack, User
from tests.support.talking import Speech, talking_stack

CALLS = """
select seq, attempt, task, status, usd_micros from private.generation_calls where job_id = %s
order by seq, attempt
"""


@pytest.fixture
def folder(new_folder: Callable[[], Path]) -> Path:
    return new_folder()


@asynccontextmanager
async def speaking(admin_url: str, folder: Path, **settings: object) -> AsyncIterator[tuple[Stack, Speech]]:
    speech = Speech()
    async with talking_stack(admin_url, folder, speech, **settings) as product:
        yield product, speech


def calls(product: Stack, job_id: str) -> list[tuple[str, str]]:
    """(task, status) of each call, in their order."""
    return [(row["task"], row["status"]) for row in product.rows(CALLS, job_id)]


async def cancel(user: User, job_id: str) -> dict[str, Any]:
    answer = await user.http.post(f"/v1/jobs/{job_id}/cancel")
    assert answer.status_code == 200
    return dict(answer.json())


async def reaches(user: User, job_id: str, stage: str) -> None:
    async def there() -> bool:
        return bool((await user.job(job_id))["stage"] == stage)

    await eventually(there)


# The plans, without a world around them

ROW: dict[str, Any] = {
    **{"prompt_input": "a fox", "prompt_enhanced": None, "prompt_final": "a fox", "prompt_negative": None},
    **{"model": "instant", "width": 64, "height": 64, "num_images": 1, "seed": 7, "style": "design/anime"},
    **{"params": {"num_inference_steps": 1}, "references": [], "loras": [], "inputs": {}, "state": {}},
    **{"cost_usd_micros": 0, "estimated_usd_micros": 10},
}
JOB = ClaimedJob(
    id=UUID(int=1),
    user_id=UUID(int=2),
    plan="image",
    task="image",
    model="instant",
    stage="loading",
    version=1,
    seq=1,
    attempt=1,
    tries=0,
    step=0,
    call_id=None,
    call=None,
    waiting=False,
    visibility="public",
    expired=False,
    row=ROW,
)


def job(**columns: Any) -> ClaimedJob:
    return replace(JOB, row={**ROW, **columns})


def judged(*scores: float | None, seqs: int | None = None, **asked: Any) -> ClaimedJob:
    """A job with as many judged pictures as scores, and perhaps one more."""
    drawn = len(scores) if seqs is None else seqs
    pictures = [{"seq": n, "n": 0, "key": f"{n}", "sha256": "0" * 64, "seed": n} for n in range(1, drawn + 1)]
    verdicts = [{"seq": n, "score": score} for n, score in enumerate(scores, 1)]
    return job(inputs={"judge": asked}, state={"candidates": pictures, "verdicts": verdicts})


def task_of(following: object) -> str:
    assert isinstance(following, CallSpec)
    return following.task


def test_a_picture_that_cannot_be_drawn_fails_its_job() -> None:
    assert ImagePlan().give_up(job(), LOST) is LOST


def test_an_enhancement_that_comes_to_nothing_lets_the_job_go_on_with_its_prompt() -> None:
    asked = job(inputs={"enhance": {"mode": "reference"}})
    assert task_of(ImagePlan().next(asked, ())) == "enhance"
    outcome = ImagePlan().give_up(asked, LOST)
    assert isinstance(outcome, Next)
    assert (outcome.changes.prompt_final, outcome.changes.enhance_status) == (None, None)
    after = job(inputs=asked.row["inputs"], state=outcome.changes.state)
    assert task_of(ImagePlan().next(after, ())) == "image"


def test_the_style_is_applied_to_the_enhanced_prompt() -> None:
    result = EnhanceResult(prompt="a fox in the snow", answered_by="vlm")
    outcome = ImagePlan().settle(job(inputs={"enhance": {}}), result, ())
    assert isinstance(outcome, Next)
    assert outcome.changes.prompt_enhanced == "a fox in the snow"
    assert str(outcome.changes.prompt_final).startswith("a fox in the snow, vibrant")


def test_a_picture_below_the_score_is_drawn_again_with_another_seed() -> None:
    outcome = ImagePlan().settle(judged(seqs=1), JudgeResult(score=10, verdicts=[], answered_by="vlm"), ())
    assert isinstance(outcome, Next)
    assert outcome.changes.seed not in (None, ROW["seed"])


@pytest.mark.parametrize(
    ("asked", "score"),
    [({"repairs": 0}, 10.0), ({"max_cost_usd_micros": 9}, 10.0), ({"pass_score": 10}, 10.0), ({}, 60.0)],
    ids=["no repairs", "too expensive", "low standard", "good"],
)
def test_a_picture_is_accepted_when_it_is_good_or_no_other_may_be_drawn(
    asked: dict[str, Any], score: float
) -> None:
    result = JudgeResult(score=score, verdicts=[], answered_by="vlm")
    outcome = ImagePlan().settle(judged(seqs=1, **asked), result, ())
    assert isinstance(outcome, Complete)
    assert [picture["seq"] for picture in outcome.pictures] == [1]


def test_of_several_pictures_the_best_is_kept_and_one_that_nobody_judged_is_the_worst() -> None:
    for scores, best in (([40.0, 50.0], 2), ([50.0, 40.0], 1), ([None, 0.0], 2), ([30.0, 30.0], 1)):
        pictures = judging.best(judged(*scores), judged(*scores).row["state"]["verdicts"])
        assert [picture["seq"] for picture in pictures] == [best]


def test_a_repair_that_fails_leaves_the_picture_that_is_there() -> None:
    outcome = ImagePlan().give_up(judged(20.0), Fail("out_of_memory", "", retryable=False))
    assert isinstance(outcome, Complete)
    assert [picture["seq"] for picture in outcome.pictures] == [1]


def test_what_stands_in_for_an_enhancement_begins_with_the_trained_words() -> None:
    request = {"prompt": "the fox finds a letter", "mode": "lora", "trained_words": ["kmr_fox", " red "]}
    assert fallback("enhance", request).model_dump()["prompt"] == "kmr_fox, red, the fox finds a letter"
    assert fallback("enhance", request | {"mode": "reference"}).model_dump()["prompt"] == request["prompt"]


def test_trained_words_are_not_put_before_a_prompt_that_begins_with_them_nor_cut_a_word() -> None:
    assert recipes.with_trained_words("KMR_fox, asleep", ["kmr_fox"]) == "KMR_fox, asleep"
    long = recipes.with_trained_words("word " * 299, ["kmr_fox"])
    assert len(long) <= 1500
    assert long.endswith("word")


# Enhanced jobs


async def test_an_enhancer_that_breaks_is_done_without(admin_url: str, folder: Path) -> None:
    async with speaking(admin_url, folder) as (product, speech):
        speech.broken = True
        done = await product.user.create(prompt="a fox", size="64x64", style="Anime", enhance=True, wait=20)
        assert (done["status"], done["prompt"]["enhance_status"]) == ("completed", "fallback")
        assert done["prompt"]["enhanced"] is None
        assert done["prompt"]["final"] == "a fox, vibrant colors, detailed shading, anime art style"
        assert calls(product, done["id"]) == [("enhance", "failed"), ("image", "succeeded")]


async def test_an_enhancer_that_takes_too_long_is_done_without_and_its_call_is_ended(
    admin_url: str, folder: Path
) -> None:
    async with speaking(admin_url, folder, webhook_patience_seconds=0.02) as (product, speech):
        speech.seconds = 60
        made = await product.user.create(prompt="a fox", size="64x64", enhance=True)
        done = await product.user.ended(made["id"])
        assert (done["status"], done["prompt"]["enhance_status"]) == ("completed", "fallback")
        await eventually(lambda: no_open_calls(product))
        assert calls(product, done["id"]) == [("enhance", "canceled"), ("image", "succeeded")]


async def test_a_job_is_canceled_while_it_is_enhanced(admin_url: str, folder: Path) -> None:
    async with speaking(admin_url, folder) as (product, speech):
        speech.seconds = 20
        made = await product.user.create(prompt="a fox", size="64x64", enhance=True)
        await reaches(product.user, made["id"], "enhancing")
        assert (await cancel(product.user, made["id"]))["status"] == "canceled"
        await eventually(lambda: no_open_calls(product))
        assert calls(product, made["id"]) == [("enhance", "canceled")]
        after = await product.user.job(made["id"])
        assert (after["status"], after["images"]) == ("canceled", [])


async def test_a_job_whose_deadline_passes_while_it_is_enhanced_fails_as_expired(
    admin_url: str, folder: Path
) -> None:
    async with speaking(admin_url, folder) as (product, speech):
        speech.seconds = 20
        made = await product.user.create(prompt="a", size="64x64", enhance=True, expires_in_seconds=4)
        after = await product.user.ended(made["id"])
        assert (after["status"], after["error"]["code"]) == ("failed", "expired")
        assert after["error"]["stage"] == "enhancing"


async def test_a_prompt_is_enhanced_styled_and_drawn(admin_url: str, folder: Path) -> None:
    async with speaking(admin_url, folder) as (product, speech):
        done = await product.user.create(prompt="a fox", size="64x64", style="Anime", enhance=True, wait=20)
        final = "a detailed a fox, vibrant colors, detailed shading, anime art style"
        assert done["prompt"] == {
            "input": "a fox",
            "enhanced": "a detailed a fox",
            "final": final,
            "negative": None,
            "enhance_status": "done",
        }
        (asked,) = speech.asked
        assert isinstance(asked, EnhanceRequest)
        assert (asked.prompt, asked.mode) == ("a fox", "reference")
        answer = await product.user.http.get(f"/v1/jobs/{done['id']}/calls")
        enhance, image = answer.json()["data"]
        assert (enhance["task"], enhance["result"]["prompt"]) == ("enhance", "a detailed a fox")
        assert (image["task"], image["request"]["prompt"]) == ("image", final)
        assert done["cost"]["usd_micros"] == enhance["usd_micros"] + image["usd_micros"]
        (told,) = product.rows("select * from public.prompt_artifacts where job_id = %s", done["id"])
        assert (told["input"], told["enhanced"], told["final"]) == ("a fox", "a detailed a fox", final)
        (asset,) = product.rows("select * from public.generated_assets where job_id = %s", done["id"])
        assert (asset["prompt_artifact_id"], asset["kind"]) == (told["id"], "generation")


async def test_the_stages_of_an_enhanced_job_are_told_in_their_order(admin_url: str, folder: Path) -> None:
    async with speaking(admin_url, folder) as (product, speech):
        speech.seconds = 0.3
        done = await product.user.create(prompt="a fox", size="64x64", enhance=True, wait=20)
        rows = product.rows(
            "select stage from private.job_events where job_id = %s and event = 'status' order by id",
            done["id"],
        )
        stages = list(dict.fromkeys(row["stage"] for row in rows))
        assert [stage for stage in stages if stage in ("enhancing", "storing")] == ["enhancing", "storing"]
        assert stages[0] == "queued"


async def test_a_retry_takes_the_enhanced_prompt_over_and_does_not_ask_again(
    admin_url: str, folder: Path
) -> None:
    async with speaking(admin_url, folder) as (product, speech):
        old = await product.user.create(prompt="a fox", size="64x64", enhance=True, wait=20)
        product.rows(
            """insert into public.generation_jobs (user_id, prompt_input, prompt_enhanced, prompt_final,
                 enhance_status, model, width, height, seed, params, inputs, status, wake_at, error_code, id)
               select user_id, prompt_input, prompt_enhanced, prompt_final, enhance_status, model, width,
                 height, seed, params, inputs, 'failed', null, 'x', %s
               from public.generation_jobs where id = %s returning id""",
            UUID(int=77),
            old["id"],
        )
        answer = await product.user.http.post(f"/v1/jobs/{UUID(int=77)}/retry", headers={"Prefer": "wait=20"})
        new = answer.json()
        assert (new["status"], new["prompt"]) == ("completed", old["prompt"])
        assert len(speech.asked) == 1
        assert calls(product, new["id"]) == [("image", "succeeded")]


# Judged jobs


async def draw_judged(product: Stack, **asked: Any) -> str:
    """A job's id whose picture is judged."""
    service: JobService = product.app.state.jobs  # type: ignore[union-attr]
    caller = caller_of(product.user)
    columns = {**recipes.task_columns("image", "instant", {}), "width": 64, "height": 64, "steps": 1}
    columns |= {"inputs": {"judge": asked}, "params": {"num_inference_steps": 1}, "image_kind": "panel"}
    job_id = UUID(int=len(product.rows("select from public.generation_jobs")) + 1)
    await service.create_task(caller, columns, job_id=job_id)
    return str(job_id)


def caller_of(user: User) -> Principal:
    return Principal(UUID(str(user.id)), "test", frozenset({"generate", "read"}))


def no_strays(product: Stack) -> Callable[[], Any]:
    """Every object has a row, and no job has pictures left to tidy up."""

    async def check() -> bool:
        keys = {row["key"] for row in product.rows("select key from public.generated_assets")}
        left = product.rows(
            "select from public.generation_jobs where state ? 'candidates' and wake_at is null"
        )
        return set(product.objects()) == keys and not left

    return check


async def test_a_judge_that_breaks_keeps_nobody_from_the_picture(admin_url: str, folder: Path) -> None:
    async with speaking(admin_url, folder) as (product, speech):
        speech.broken = True
        job_id = await draw_judged(product, attributes=["a hat"])
        done = await product.user.ended(job_id)
        assert (done["status"], len(done["images"])) == ("completed", 1)
        assert calls(product, job_id) == [("image", "succeeded"), ("judge", "failed")]


async def test_a_job_canceled_while_it_is_judged_leaves_no_picture(admin_url: str, folder: Path) -> None:
    async with speaking(admin_url, folder) as (product, speech):
        speech.seconds = 20
        job_id = await draw_judged(product, attributes=["a hat"])
        await reaches(product.user, job_id, "judging")
        assert len(product.objects()) == 1
        assert (await cancel(product.user, job_id))["images"] == []
        await eventually(no_strays(product))
        assert product.objects() == []


async def test_a_picture_that_is_not_accepted_is_drawn_again_and_the_better_one_kept(
    admin_url: str, folder: Path
) -> None:
    async with speaking(admin_url, folder) as (product, speech):
        speech.scores = [30.0, 80.0]
        job_id = await draw_judged(product, attributes=["a hat"], pass_score=60)
        done = await product.user.ended(job_id)
        tasks = [task for task, _ in calls(product, job_id)]
        assert (done["status"], tasks) == ("completed", ["image", "judge", "image", "judge"])
        (image,) = done["images"]
        first, second = [each for each in speech.asked if isinstance(each, JudgeRequest)]
        assert first.image.sha256 != second.image.sha256 == image["sha256"]
        assert (image["kind"], image["seed"]) == ("panel", done["params"]["seed"])
        assert done["cost"]["usd_micros"] == sum(row["usd_micros"] for row in product.rows(CALLS, job_id))
        await eventually(no_strays(product))
        prompts = product.rows("select seq from public.prompt_artifacts where job_id = %s", job_id)
        assert {row["seq"] for row in prompts} == {1, 3}


# Children


@asynccontextmanager
async def composing(
    admin_url: str, folder: Path, monkeypatch: pytest.MonkeyPatch, **settings: object
) -> AsyncIterator[Stack]:
    monkeypatch.setattr(services, "plans", triptych.plans)
    async with speaking(admin_url, folder, **settings) as (product, _):
        yield product


def children(product: Stack, parent: str) -> dict[str, str]:
    """Status by slot."""
    rows = product.rows(
        "select slot, status::text from public.generation_jobs where parent_id = %s order by slot", parent
    )
    return {row["slot"]: row["status"] for row in rows}


def endings(product: Stack) -> list[tuple[str, str]]:
    rows = product.rows("select job_id::text, status from private.endings")
    return [(row["job_id"], row["status"]) for row in rows]


async def test_a_parent_fails_when_its_children_fail_twice(
    admin_url: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with composing(admin_url, folder, monkeypatch) as product:
        refused = {"num_inference_steps": 1, "strength": 0.5}
        parent = triptych.begin(product, product.user.id, params=refused)
        after = await product.user.ended(parent)
        assert (after["status"], after["error"]["code"], after["task"]) == (
            "failed",
            "views_failed",
            "triptych",
        )
        views = [f"{view}{again}" for view in triptych.VIEWS for again in ("", ":2")]
        assert children(product, parent) == dict.fromkeys(sorted(views), "failed")
        assert endings(product) == [(parent, "failed")]
        retried = (await product.user.http.post(f"/v1/jobs/{parent}/retry")).json()
        assert (retried["task"], retried["retry_of"]) == ("triptych", parent)
        assert (await product.user.ended(retried["id"]))["error"]["code"] == "views_failed"
        assert len(children(product, retried["id"])) == 6


async def test_canceling_a_parent_cancels_its_children(
    admin_url: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INSTANT_SECONDS", "20")
    async with composing(admin_url, folder, monkeypatch) as product:
        parent = triptych.begin(product, product.user.id)
        await eventually(lambda: has_children(product, parent))
        assert (await cancel(product.user, parent))["status"] == "canceled"
        assert set(children(product, parent).values()) == {"canceled"}
        assert endings(product) == [(parent, "canceled")]
        await eventually(lambda: no_open_calls(product))


async def test_children_that_their_user_cannot_pay_for_fail_their_parent(
    admin_url: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with composing(admin_url, folder, monkeypatch) as product:
        limit = {"period": "day", "limit_usd_micros": 100}
        assert (await product.user.http.put("/v1/budget", json=limit)).status_code == 200
        parent = triptych.begin(product, product.user.id, reserved_usd_micros=50)
        after = await product.user.ended(parent)
        assert (after["status"], after["error"]["code"]) == ("failed", "budget_exceeded")
        assert children(product, parent) == {}
        assert endings(product) == [(parent, "failed")]


@pytest.mark.parametrize("broken", ["next", "ended"])
async def test_a_plan_that_is_broken_fails_its_job_instead_of_keeping_it_for_ever(
    admin_url: str, folder: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    def breaks(*args: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(triptych.Triptych, broken, breaks)
    async with composing(admin_url, folder, monkeypatch) as product:
        parent = triptych.begin(product, product.user.id)
        after = await product.user.ended(parent, within=40)
        assert (after["status"], after["error"]["code"]) == ("failed", "internal_error")
        assert endings(product) == ([(parent, "failed")] if broken == "next" else [])


async def test_a_plan_that_is_broken_does_not_keep_its_job_from_being_canceled(
    admin_url: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def misspelled(plan: triptych.Triptych, job: Row, pictures: object) -> list[Statement]:
        return [Statement("insert into private.no_such_table values (1)", {})]

    monkeypatch.setattr(triptych.Triptych, "ended", misspelled)
    async with composing(admin_url, folder, monkeypatch, jobs_in_flight=0) as product:
        parent = triptych.begin(product, product.user.id)
        assert (await cancel(product.user, parent))["status"] == "canceled"
        assert endings(product) == []


async def has_children(product: Stack, parent: str) -> bool:
    return len(children(product, parent)) == len(triptych.VIEWS)


async def test_nothing_runs_on_for_a_parent_that_has_ended(
    admin_url: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INSTANT_SECONDS", "20")
    async with composing(admin_url, folder, monkeypatch) as product:
        parent = triptych.begin(product, product.user.id)
        await eventually(lambda: has_children(product, parent))
        product.rows(
            """update public.generation_jobs set expires_at = now(), wake_at = now()
               where id = %s returning id""",
            parent,
        )
        assert (await product.user.ended(parent))["error"]["code"] == "expired"
        await eventually(lambda: none_runs(product, parent))
        assert set(children(product, parent).values()) == {"canceled"}
        await eventually(lambda: no_open_calls(product))


async def none_runs(product: Stack, parent: str) -> bool:
    return not {"queued", "processing"} & set(children(product, parent).values())


async def test_a_parent_whose_deadline_passes_in_the_queue_fails_and_has_no_children(
    admin_url: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with composing(admin_url, folder, monkeypatch, jobs_in_flight=0) as product:
        parent = triptych.begin(product, product.user.id, expires_in=1)
        after = await product.user.ended(parent)
        assert (after["error"]["code"], children(product, parent)) == ("expired", {})
        assert endings(product) == [(parent, "failed")]


async def test_children_are_drawn_while_their_parents_wait_without_taking_their_place(
    admin_url: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with composing(admin_url, folder, monkeypatch, jobs_in_flight=2) as product:
        parents = [triptych.begin(product, product.user.id) for _ in range(4)]
        await all_ended(product, parents, within=20)  # nobody looks unasked before half a minute is over
        for parent in parents:
            done = await product.user.job(parent)
            assert (done["status"], done["poll_after_ms"], done["parent_id"]) == ("completed", 5000, None)
            assert children(product, parent) == dict.fromkeys(sorted(triptych.VIEWS), "completed")
            assert calls(product, parent) == []
        assert sorted(endings(product)) == sorted((parent, "completed") for parent in parents)
        listed = await product.user.http.get(f"/v1/jobs?parent_id={parents[0]}")
        assert len(listed.json()["data"]) == 3
        assert len((await product.user.http.get("/v1/jobs?task=triptych")).json()["data"]) == 4


# Language tasks, waited for


@pytest.mark.parametrize(
    ("draws", "served", "speaks"),
    [
        ("sdxl", ["sdxl", "qwen-image-fast"], "qwen-image-fast"),
        ("qwen-image", ["qwen-image-fast", "qwen-image"], "qwen-image"),
        ("instant", ["instant"], "instant"),
    ],
)
async def test_words_are_for_the_model_that_draws_unless_only_another_follows_instructions(
    admin_url: str, folder: Path, draws: str, served: list[str], speaks: str
) -> None:
    async with speaking(admin_url, folder) as (product, _):
        drafts: Drafts = product.app.state.drafts  # type: ignore[union-attr]
        drafts._gpu._served = ServedModels(models=served, gpu="cpu")
        drafts._gpu._ask_again_at = float("inf")
        assert await drafts.speaker(draws) == speaks


async def test_an_answer_that_does_not_come_in_time_is_stood_in_for_and_its_job_is_ended(
    admin_url: str, folder: Path
) -> None:
    async with speaking(admin_url, folder) as (product, speech):
        speech.seconds = 20
        service: JobService = product.app.state.jobs  # type: ignore[union-attr]
        answer = await service.run(caller_of(product.user), "enhance", {"prompt": "a fox"}, 1.0)
        assert answer.model_dump() == {"task": "enhance", "prompt": "a fox", "answered_by": "fallback"}
        await eventually(lambda: no_open_calls(product))
        (row,) = product.rows("select status::text from public.generation_jobs")
        assert row["status"] in ("canceled", "failed")


async def test_a_language_task_is_answered_and_told_as_a_job(admin_url: str, folder: Path) -> None:
    async with speaking(admin_url, folder) as (product, _):
        service: JobService = product.app.state.jobs  # type: ignore[union-attr]
        answer = await service.run(caller_of(product.user), "enhance", {"prompt": "a fox"}, 20)
        assert (answer.model_dump()["prompt"], answer.answered_by) == ("a detailed a fox", "vlm")
        parsed = await service.run(caller_of(product.user), "parse", {"prompt": "a fox, no text"}, 20)
        assert parsed.answered_by == "fallback"
        parse, enhance = (await product.user.http.get("/v1/jobs")).json()["data"]
        assert (enhance["task"], enhance["params"]) == ("enhance", {"prompt": "a fox"})
        assert enhance["result"]["prompt"] == "a detailed a fox"
        assert (parse["task"], parse["images"], parse["status"]) == ("parse", [], "completed")
