"""From nothing to a comic whose character one recognises, over the API, drawn by the bundled model."""

import hashlib
import io
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_asyncio
from PIL import Image

from gateway.jobs import drafts
from tests.gateway.test_comics import begun, chaptered, code_of, seen
from tests.gateway.test_jobs import read_events
from tests.gateway.test_panels import debug, drawn, sent
from tests.judge import judge
from tests.support.faults import eventually
from tests.support.lora_server import FRAME
from tests.support.stack import Stack, User, stack
from tests.test_characters import finished, from_lora, registered

LOOKS = "a red round creature with a blue hat"
SEED = 7


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def studio(new_database: Callable[[], str], new_folder: Callable[[], Path]) -> AsyncIterator[Stack]:
    """On a GPU that costs something; every seed that nobody names is the same in every run."""
    gpu = {"GPU_MODELS": "tiny-qwen,tiny-qwen-edit", "GPU_PRELOAD": "tiny-qwen", "GPU_NAME": "A10"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drafts, "random", SimpleNamespace(randrange=lambda limit: SEED))
        async with stack(new_database(), new_folder(), gpu=gpu) as running:
            yield running


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def comic(studio: Stack) -> dict[str, Any]:
    return await begun(studio.user)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def ana(studio: Stack, comic: dict[str, Any]) -> dict[str, Any]:
    """A character from a LoRA, as it was begun."""
    lora = await registered(studio.user, FRAME)
    body = from_lora(lora["id"], project_id=comic["id"], description=LOOKS)
    answer = await studio.user.http.post("/v1/characters", json=body)
    assert answer.status_code == 202, answer.text
    return dict(answer.json())


def events_of(comic: dict[str, Any]) -> str:
    return f"/v1/comics/{comic['id']}/events"


async def shown(user: User, panel: dict[str, Any]) -> Image.Image:
    content = await user.http.get(panel["image"]["url"])
    return Image.open(io.BytesIO(content.content)).convert("RGB")


async def test_a_comic_without_its_model_or_the_money_is_refused(studio: Stack) -> None:
    user = studio.new_user()
    answer = await user.http.post("/v1/comics", json={"name": "a", "base_model": "SD 0.1"})
    assert code_of(answer) == (400, "unknown_base_model", "base_model")
    poor = await begun(user)
    await user.http.put("/v1/budget", json={"period": "day", "limit_usd_micros": 1})
    path = f"/v1/comics/chapters/{poor['chapters'][0]['id']}/panels"
    answer = await user.http.post(path, json={"prompt": "a walk"})
    assert code_of(answer)[:2] == (402, "budget_exceeded")
    assert answer.headers["x-should-retry"] == "false"
    assert (await seen(user, poor))["panel_count"] == 0


async def test_what_a_reference_will_cost_is_told_before_it_is_drawn(
    studio: Stack, comic: dict[str, Any]
) -> None:
    user = studio.user
    body = {"prompt": LOOKS, "size": "ref_portrait"}
    told = (await user.http.post("/v1/jobs/estimate", json=body)).json()
    assert told["low"] <= told["estimated_usd_micros"] <= told["high"]
    assert told["estimated_usd_micros"] > 0
    made = (await user.http.post("/v1/jobs", json=body, headers={"Prefer": "wait=60"})).json()
    assert made["status"] == "completed", made["error"]
    assert made["cost"]["estimated_usd_micros"] == told["estimated_usd_micros"]
    assert made["cost"]["usd_micros"] > 0


async def test_a_character_from_a_lora_is_pending_then_processing_then_ready_with_three_views(
    studio: Stack, comic: dict[str, Any], ana: dict[str, Any]
) -> None:
    assert [chapter["name"] for chapter in comic["chapters"]] == ["Chapter 1"]
    polled = [ana["status"]]

    async def ready() -> bool:
        found = (await studio.user.http.get(f"/v1/characters/{ana['id']}")).json()
        polled.append(found["status"])
        return found["status"] in ("ready", "failed")

    await eventually(ready, within=300)
    in_order = ["pending", "processing", "ready"]
    assert list(dict.fromkeys(polled)) == [status for status in in_order if status in polled]
    found = await finished(studio.user, ana["id"])
    path = f"/v1/jobs/{found['job_id']}/events"
    moves = await read_events(studio.user, path, after=0, last=lambda event: event.name == "completed")
    statuses = [event.job["status"] for event in moves]
    assert list(dict.fromkeys(statuses)) == ["queued", "processing", "completed"]
    assert [each["view"] for each in found["reference_images"]] == ["front", "side", "back"]
    assert {(each["width"], each["height"]) for each in found["reference_images"]} == {(832, 1216)}


async def test_a_panel_is_watched_until_it_shows_a_character_that_one_recognises(
    studio: Stack, comic: dict[str, Any], ana: dict[str, Any]
) -> None:
    user = studio.user
    await finished(user, ana["id"])
    (chapter,) = comic["chapters"]
    body = {"prompt": "Ana walks in a forest", "character_ids": [ana["id"]], "seed": SEED}
    answer = await user.http.post(f"/v1/comics/chapters/{chapter['id']}/panels", json=body)
    assert answer.status_code == 202, answer.text
    assert answer.json()["status"] in ("pending", "generating")
    moves = await read_events(user, events_of(comic), after=0, last=lambda event: event.name == "ready")
    assert list(dict.fromkeys(event.job["status"] for event in moves)) == ["pending", "generating", "ready"]
    assert [event.job["image"] for event in moves[:-1]] == [None] * (len(moves) - 1)
    panel = moves[-1].job
    picture = await shown(user, panel)
    assert picture.size == (panel["image"]["width"], panel["image"]["height"]) == (1728, 2304)
    facts = judge(picture)
    assert (facts["color"], facts["body"], facts["hat"], facts["scene"]) == ("red", "round", "blue", "forest")
    found = panel["consistency"]
    assert found["judged_by"] == "vlm"
    assert found["score"] >= found["threshold"]
    path = f"/v1/comics/chapters/{chapter['id']}/consistency"
    told = (await user.http.get(path)).json()
    assert [(each["score"], each["judge"]) for each in told["panels"]] == [(found["score"], "model")]


async def test_panels_carry_the_references_in_order_and_the_story_of_their_chapter(
    studio: Stack, ana: dict[str, Any]
) -> None:
    user = studio.user
    character = await finished(user, ana["id"])
    first, second = await chaptered(user, await begun(user), 2)
    body = {"seed": SEED, "max_attempts": 1}
    told = await debug(
        user, await drawn(user, first, "Ana stands on a beach", character_ids=[ana["id"]], **body)
    )
    (front,) = [each["url"] for each in character["reference_images"] if each["view"] == "front"]
    sha256 = hashlib.sha256((await user.http.get(front)).content).hexdigest()
    assert [(use["view"], use["sha256"]) for use in told["references"]] == [("front", sha256)]
    assert [use["sha256"] for use in sent(told)["references"]] == [sha256]
    assert sent(told, "enhance")["context"] == []
    assert told["workflow"]["id"] == told["panel"]["job_id"]
    assert told["prompt"]["input"] == "Ana stands on a beach"
    next_one = await debug(user, await drawn(user, first, "Ana at night", **body))
    assert sent(next_one, "enhance")["context"] == ["Ana stands on a beach"]
    elsewhere = await debug(user, await drawn(user, second, "Ana on a sunny day", **body))
    assert sent(elsewhere, "enhance")["context"] == []
    raw = "  a beach,\tno words of anybody else "
    alone = await debug(user, await drawn(user, second, raw, enhance=False, seed=SEED))
    assert [call["task"] for call in alone["calls"]] == ["image"]
    assert sent(alone)["prompt"] == raw
