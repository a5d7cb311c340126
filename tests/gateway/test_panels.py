"""Panels over HTTP, drawn by the instant model: what is asked of the GPU service, and what comes of it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
import pytest_asyncio

from tests.gateway.conftest import DRAWN_BY
from tests.gateway.test_comics import begun, chaptered, code_of, joined, seen
from tests.support.faults import eventually
from tests.support.stack import Stack, User
from tests.support.talking import Speech, talking_stack

KINDS = ("front", "side", "back")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def speech() -> Speech:
    return Speech()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def studio(
    new_database: Callable[[], str], new_folder: Callable[[], Path], speech: Speech
) -> AsyncIterator[Stack]:
    settings = {**DRAWN_BY, "worker_interval_seconds": 0.05}
    async with talking_stack(new_database(), new_folder(), speech, **settings) as running:
        yield running


async def hired(user: User, name: str = "Mila", **body: Any) -> dict[str, Any]:
    """A character that is ready."""
    described = {"name": name, "source": "description", "description": "a small red fox", **body}
    answer = await user.http.post("/v1/characters", json=described)
    assert answer.status_code == 202, answer.text
    found: dict[str, Any] = {}

    async def ready() -> bool:
        found.update((await user.http.get(f"/v1/characters/{answer.json()['id']}")).json())
        assert found["status"] != "failed", found["error"]
        return bool(found["status"] == "ready")

    await eventually(ready, within=30)
    return found


async def chapter_of(user: User, **body: Any) -> str:
    return str((await begun(user, **body))["chapters"][0]["id"])


async def drawn(user: User, chapter_id: str, prompt: str, **body: Any) -> dict[str, Any]:
    """A panel that is ready."""
    place = f"/v1/comics/chapters/{chapter_id}/panels"
    answer = await user.http.post(place, json={"prompt": prompt, **body}, headers={"Prefer": "wait=60"})
    assert answer.status_code == 200, answer.text
    assert answer.json()["status"] == "ready", answer.text
    return dict(answer.json())


async def refused(user: User, chapter_id: str, **body: Any) -> tuple[int, str, str | None]:
    answer = await user.http.post(f"/v1/comics/chapters/{chapter_id}/panels", json={"prompt": "a", **body})
    return code_of(answer)


async def debug(user: User, panel: dict[str, Any]) -> dict[str, Any]:
    answer = await user.http.get(f"/v1/comics/panels/{panel['id']}/debug")
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def sent(told: dict[str, Any], task: str = "image") -> dict[str, Any]:
    """The last request of a task."""
    return dict([call["request"] for call in told["calls"] if call["task"] == task][-1])


# Refusals


async def test_what_cannot_be_drawn_is_refused_and_leaves_nothing(studio: Stack) -> None:
    user, other = studio.new_user(), studio.new_user()
    comic = await begun(user)
    chapter_id = comic["chapters"][0]["id"]
    theirs, child = await hired(other), await hired(user, age=9)
    for body, wanted in (
        ({"prompt": "a" * 1501}, (400, "prompt_too_long", "prompt")),
        ({"prompt": " "}, (422, "validation_failed", "prompt")),
        ({"style": "no such"}, (400, "unknown_style", "style")),
        ({"character_ids": [theirs["id"]]}, (404, "not_found", None)),
        ({"character_ids": [child["id"]], "prompt": "naked"}, (400, "content_refused", "prompt")),
        ({"character_ids": [child["id"]], "mode": "lora"}, (400, "lora_missing", "character_ids")),
        ({"mode": "lora"}, (400, "lora_missing", "character_ids")),
        ({"max_attempts": 9}, (422, "validation_failed", "max_attempts")),
        ({"surprise": 1}, (422, "validation_failed", "surprise")),
    ):
        assert await refused(user, chapter_id, **body) == wanted, body
    assert (await seen(user, comic))["panel_count"] == 0
    assert not studio.rows(
        "select from public.generation_jobs where user_id = %s and plan = 'comic_panel'", user.id
    )


async def test_more_characters_than_the_model_takes_are_refused(studio: Stack) -> None:
    user = studio.new_user()
    first = await hired(user)
    studio.rows(
        """with twins as (
             insert into public.characters (user_id, name, source, description)
             select user_id, 'twin', 'description', 'a' from public.characters, generate_series(1, 3)
             where id = %s returning id
           )
           insert into public.character_images (character_id, kind, asset_id, job_id, prompt, status)
           select twins.id, i.kind, i.asset_id, i.job_id, i.prompt, i.status
           from twins, public.character_images i
           where i.character_id = %s and i.kind = 'reference' returning id""",
        first["id"],
        first["id"],
    )
    everybody = [each["id"] for each in (await user.http.get("/v1/characters")).json()["data"]]
    answer = await refused(user, await chapter_of(user), character_ids=everybody)
    assert answer == (400, "too_many_characters", "character_ids")


async def test_without_the_money_there_is_no_panel(studio: Stack) -> None:
    user = studio.new_user()
    comic = await begun(user)
    await user.http.put("/v1/budget", json={"period": "day", "limit_usd_micros": 0})
    answer = await refused(user, comic["chapters"][0]["id"])
    assert answer[:2] == (402, "budget_exceeded")
    assert (await seen(user, comic))["panel_count"] == 0


async def test_a_viewer_draws_and_changes_nothing(studio: Stack) -> None:
    owner = studio.new_user()
    comic = await begun(owner)
    chapter_id = comic["chapters"][0]["id"]
    panel = await drawn(owner, chapter_id, "a fox")
    viewer, editor = [await joined(studio, owner, comic, role) for role in ("viewer", "editor")]
    place = f"/v1/comics/panels/{panel['id']}"
    assert (await refused(viewer, chapter_id))[:2] == (403, "forbidden")
    for method, path, body in (
        ("PATCH", place, {"prompt": "b"}),
        ("POST", f"{place}/regenerate", {}),
        ("DELETE", place, None),
    ):
        assert (await viewer.http.request(method, path, json=body)).status_code == 403, path
    shown = (await viewer.http.get(place)).json()
    assert (await viewer.http.get(shown["image"]["thumbnail_url"])).headers["content-type"] == "image/webp"
    told = await debug(viewer, panel)
    assert (told["workflow"], told["calls"], told["prompt"]) == (None, [], None)
    mine = await drawn(editor, chapter_id, "a hen")
    assert mine["position"] == 2
    assert (await owner.http.get(f"/v1/comics/panels/{mine['id']}")).json()["status"] == "ready"


# What is asked of the model


async def test_a_panel_carries_the_references_in_order_at_the_size_of_a_panel(studio: Stack) -> None:
    user = studio.new_user()
    mila = await hired(user)
    panel = await drawn(user, await chapter_of(user), "Mila walks away", character_ids=[mila["id"]])
    assert (panel["image"]["width"], panel["image"]["height"]) == (1728, 2304)
    assert (panel["image"]["kind"], panel["character_ids"]) == ("panel", [mila["id"]])
    told = await debug(user, panel)
    assert [use["view"] for use in told["references"]] == ["back", None, "front"]
    assert [use["sha256"] for use in told["references"]] == [
        use["sha256"] for use in sent(told)["references"]
    ]
    assert all(use["url"] for use in told["references"])
    assert (told["workflow"]["priority"], told["workflow"]["params"]["num_images"]) == ("low", 1)
    assert told["model"] == {"id": "instant", "revision": "1"}


async def test_of_two_characters_the_prompt_says_who_is_in_which_picture(studio: Stack) -> None:
    user = studio.new_user()
    mila, rex = await hired(user), await hired(user, "Rex")
    prompt = "Mila in profile, Rex seen from behind"
    panel = await drawn(user, await chapter_of(user), prompt, character_ids=[rex["id"], mila["id"]])
    told = await debug(user, panel)
    uses = [(use["character_id"], use["view"]) for use in told["references"]]
    assert uses == [(rex["id"], "back"), (mila["id"], "side")]
    assert sent(told)["prompt"] == f"Picture 1 is Rex. Picture 2 is Mila. a detailed {prompt}"
    assert panel["enhanced_prompt"] == f"a detailed {prompt}"
    asked = sent(told, "enhance")
    assert (asked["mode"], asked["names"], asked["trained_words"]) == ("reference", ["Rex", "Mila"], [])


async def test_without_enhancement_the_prompt_goes_byte_for_byte(studio: Stack) -> None:
    user = studio.new_user()
    mila, rex = await hired(user), await hired(user, "Rex")
    prompt = "  Mila,\tRex — naïve\n\n(raw) "
    chapter_id = await chapter_of(user, style="Anime")
    body = {"enhance": False, "style": "Anime", "character_ids": [mila["id"], rex["id"]]}
    panel = await drawn(user, chapter_id, prompt, **body)
    told = await debug(user, panel)
    assert sent(told)["prompt"] == prompt == panel["prompt"]
    assert "enhance" not in [call["task"] for call in told["calls"]]
    assert panel["enhanced_prompt"] is None


async def test_the_enhancement_knows_the_chapter_so_far_and_no_other(studio: Stack) -> None:
    user = studio.new_user()
    first, second = await chaptered(user, await begun(user, style="Anime"), 2)
    await drawn(user, first, "x" * 800, enhance=False)
    await drawn(user, first, "y" * 800, enhance=False)
    await drawn(user, first, "a fox")
    told = await debug(user, await drawn(user, first, "a hen"))
    assert sent(told, "enhance")["context"] == ["y" * 800, "a detailed a fox"]
    assert sent(told)["prompt"] == "a detailed a hen, vibrant colors, detailed shading, anime art style"
    told = await debug(user, await drawn(user, second, "a cat"))
    assert sent(told, "enhance")["context"] == []


async def test_an_enhancement_that_fails_costs_no_panel(studio: Stack, speech: Speech) -> None:
    user = studio.new_user()
    speech.broken = True
    try:
        panel = await drawn(user, await chapter_of(user), "a fox")
    finally:
        speech.broken = False
    told = await debug(user, panel)
    assert (told["prompt"]["enhance_status"], sent(told)["prompt"]) == ("fallback", "a fox")


# What becomes of a panel


async def test_a_panel_is_drawn_again_from_its_new_prompt(studio: Stack) -> None:
    user = studio.new_user()
    panel = await drawn(user, await chapter_of(user), "a fox")
    place = f"/v1/comics/panels/{panel['id']}"
    changed = (await user.http.patch(place, json={"prompt": "a hen", "caption": "Cluck"})).json()
    assert (changed["prompt"], changed["caption"], changed["image"]["id"]) == (
        "a hen",
        "Cluck",
        panel["image"]["id"],
    )
    wait = {"Prefer": "wait=30"}
    again = (await user.http.post(f"{place}/regenerate", json={"seed": 5}, headers=wait)).json()
    assert (again["status"], again["image"]["seed"]) == ("ready", 5)
    assert again["enhanced_prompt"] == "a detailed a hen"
    assert again["job_id"] != panel["job_id"]
    data = (await user.http.get(f"/v1/images?panel_id={panel['id']}")).json()["data"]
    assert [each["id"] for each in data] == [again["image"]["id"], panel["image"]["id"]]


async def test_two_who_regenerate_at_once_draw_once(
    studio: Stack, monkeypatch: pytest.MonkeyPatch, speech: Speech
) -> None:
    user = studio.new_user()
    panel = await drawn(user, await chapter_of(user), "a fox")
    monkeypatch.setattr(speech, "seconds", 20.0)  # none is ready before the last has asked
    place = f"/v1/comics/panels/{panel['id']}/regenerate"
    answers = await asyncio.gather(*(user.http.post(place) for _ in range(4)))
    assert {answer.status_code for answer in answers} <= {202, 409}
    (job_id,) = {answer.json()["job_id"] for answer in answers if answer.status_code == 202}
    await user.http.post(f"/v1/jobs/{job_id}/cancel")


async def test_a_panel_is_asked_for_once_however_often_it_is_sent(studio: Stack) -> None:
    user = studio.new_user()
    comic = await begun(user)
    place = f"/v1/comics/chapters/{comic['chapters'][0]['id']}/panels"
    headers = {"Idempotency-Key": str(uuid4())}
    first, again = [await user.http.post(place, json={"prompt": "a"}, headers=headers) for _ in range(2)]
    assert (first.json()["id"], again.headers["Idempotent-Replayed"]) == (again.json()["id"], "true")
    assert first.headers["Location"] == f"/v1/comics/panels/{first.json()['id']}"
    assert (await seen(user, comic))["panel_count"] == 1


async def test_a_panel_moves_to_another_chapter_and_nowhere_else(studio: Stack) -> None:
    user = studio.new_user()
    comic = await begun(user)
    first, second = await chaptered(user, comic, 2)
    here = [await drawn(user, first, f"{n}") for n in range(3)]
    there = await drawn(user, second, "there")
    place = f"/v1/comics/panels/{here[1]['id']}"
    moved = (await user.http.patch(place, json={"chapter_id": second, "position": 1})).json()
    assert (moved["chapter_id"], moved["position"]) == (second, 1)
    tree = await seen(user, comic)
    order = [[(each["id"], each["position"]) for each in chapter["panels"]] for chapter in tree["chapters"]]
    assert order == [
        [(here[0]["id"], 1), (here[2]["id"], 2)],
        [(here[1]["id"], 1), (there["id"], 2)],
    ]
    elsewhere = await user.http.patch(place, json={"chapter_id": await chapter_of(user)})
    assert code_of(elsewhere) == (400, "chapter_of_another_comic", "chapter_id")


async def test_a_deleted_panel_comes_back_where_it_stood(studio: Stack) -> None:
    user, stranger = studio.new_user(), studio.new_user()
    mila = await hired(user)
    comic = await begun(user)
    chapter_id = comic["chapters"][0]["id"]
    panels = [await drawn(user, chapter_id, f"{n}", character_ids=[mila["id"]]) for n in range(3)]
    place = f"/v1/comics/panels/{panels[1]['id']}"
    assert (await user.http.delete(place)).status_code == 204
    assert (await user.http.get(place)).status_code == 404
    assert (await user.http.get(f"/v1/images/{panels[1]['image']['id']}")).status_code == 404
    assert [each["position"] for each in (await seen(user, comic))["chapters"][0]["panels"]] == [1, 2]
    assert (await stranger.http.post(f"{place}/restore")).status_code == 404
    for _ in range(2):
        back = await user.http.post(f"{place}/restore")
        assert back.status_code == 200, back.text
    named = ("id", "prompt", "status", "character_ids", "position", "job_id")
    assert {name: back.json()[name] for name in named} == {name: panels[1][name] for name in named}
    assert back.json()["image"]["id"] == panels[1]["image"]["id"]
    after = (await seen(user, comic))["chapters"][0]["panels"]
    assert [each["id"] for each in after] == [each["id"] for each in panels]
    await user.http.delete(place)
    await user.http.delete(f"/v1/comics/chapters/{chapter_id}")
    assert (await user.http.post(f"{place}/restore")).json()["code"] == "chapter_deleted"


async def test_what_is_drawn_for_a_deleted_panel_is_stopped_and_leaves_no_picture(
    studio: Stack, monkeypatch: pytest.MonkeyPatch, speech: Speech
) -> None:
    user = studio.new_user()
    monkeypatch.setattr(speech, "seconds", 20.0)
    place = f"/v1/comics/chapters/{await chapter_of(user)}/panels"
    panel = (await user.http.post(place, json={"prompt": "a fox"})).json()
    assert (await user.http.delete(f"/v1/comics/panels/{panel['id']}")).status_code == 204
    job = await user.ended(panel["job_id"])
    assert (job["status"], job["images"]) == ("canceled", [])
    back = (await user.http.post(f"/v1/comics/panels/{panel['id']}/restore")).json()
    assert (back["status"], back["error"]["code"]) == ("failed", "deleted_while_drawn")


async def test_a_panel_says_why_it_failed_and_a_retry_of_its_job_draws_it(
    studio: Stack, monkeypatch: pytest.MonkeyPatch, speech: Speech
) -> None:
    user = studio.new_user()
    with monkeypatch.context() as patch:
        patch.setattr(speech, "seconds", 20.0)
        place = f"/v1/comics/chapters/{await chapter_of(user)}/panels"
        panel = (await user.http.post(place, json={"prompt": "a fox"})).json()
        await user.http.post(f"/v1/jobs/{panel['job_id']}/cancel")
    place = f"/v1/comics/panels/{panel['id']}"
    failed = (await user.http.get(place)).json()
    assert (failed["status"], failed["error"]["code"]) == ("failed", "canceled")
    retried = (await user.http.post(f"/v1/jobs/{panel['job_id']}/retry")).json()
    await user.ended(retried["id"])
    ready = (await user.http.get(place)).json()
    assert (ready["status"], ready["job_id"], ready["error"]) == ("ready", retried["id"], None)
    assert ready["image"]["job_id"] == retried["id"]


async def test_a_panel_tells_webhooks_once_and_caches_while_nothing_happens(studio: Stack) -> None:
    user = studio.new_user()
    panel = await drawn(user, await chapter_of(user), "a fox")
    told = studio.rows(
        "select kind, payload ->> 'panel_id' as panel from private.outbox where job_id = %s order by kind",
        UUID(panel["job_id"]),
    )
    assert [(row["kind"], row["panel"]) for row in told] == [
        ("job.completed", None),
        ("panel.ready", panel["id"]),
    ]
    place = f"/v1/comics/panels/{panel['id']}"
    first = await user.http.get(place)
    again = await user.http.get(place, headers={"If-None-Match": first.headers["ETag"]})
    assert again.status_code == 304
