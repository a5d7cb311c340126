"""The event stream of a comic: everybody's panels, for every member, over any replica, without loss."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import httpx
import pytest

from gateway import events as log
from gateway import tasks
from gateway.app import create_app
from tests.gateway.test_comics import begun, code_of, joined
from tests.gateway.test_jobs import Event, held_queue, read_events
from tests.support.stack import Stack, User, free_port, gateway_settings, serve


def place(comic: dict[str, Any]) -> str:
    return f"/v1/comics/{comic['id']}/events"


async def panel(user: User, comic: dict[str, Any], prompt: str, wait: int = 30) -> dict[str, Any]:
    path = f"/v1/comics/chapters/{comic['chapters'][0]['id']}/panels"
    answer = await user.http.post(
        path, json={"prompt": prompt, "enhance": False}, headers={"Prefer": f"wait={wait}"}
    )
    assert answer.status_code in (200, 202), answer.text
    return dict(answer.json())


def is_end_of(panel: dict[str, Any]) -> Any:
    return lambda event: event.job["id"] == panel["id"] and event.name in ("ready", "failed")


@contextlib.asynccontextmanager
async def following(user: User, path: str) -> AsyncIterator[asyncio.Queue[Event | None]]:
    """Events as they come, from before the body on; None at the end of the stream."""
    events: asyncio.Queue[Event | None] = asyncio.Queue()
    open_ = asyncio.Event()

    async def follow() -> None:
        def heard(event: Event) -> bool:
            events.put_nowait(event)
            return False

        try:
            await read_events(user, path, last=heard, opened=open_)
        finally:
            events.put_nowait(None)

    task = asyncio.create_task(follow())
    try:
        async with asyncio.timeout(100):
            await open_.wait()
            yield events
    finally:
        await tasks.end([task])


@contextlib.asynccontextmanager
async def replica(product: Stack) -> AsyncIterator[str]:
    """A second gateway, which works on no jobs."""
    assert product.app is not None
    gpu_url = product.app.state.settings.modal_generate_endpoint
    port = free_port()
    settings = gateway_settings(product.admin_url, product.folder, port, gpu_url, worker=False)
    async with serve(create_app(settings), port) as url:
        yield url


async def test_strangers_hear_nothing_and_an_id_of_no_stream_is_refused(product: Stack) -> None:
    owner, stranger = product.new_user(), product.new_user()
    comic = await begun(owner)
    assert code_of(await stranger.http.get(place(comic))) == (404, "not_found", None)
    assert code_of(await owner.http.get(place({"id": uuid4()}))) == (404, "not_found", None)
    for wrong in ("yesterday", "-1", "9" * 19):
        answer = await owner.http.get(place(comic), headers={"Last-Event-ID": wrong})
        assert code_of(answer)[:2] == (422, "invalid_last_event_id")


@pytest.mark.parametrize("role", ["owner", "viewer"])
async def test_members_hear_of_every_panel_of_their_comic_and_of_nothing_else(
    product: Stack, role: str
) -> None:
    owner = product.new_user()
    comic, other = await begun(owner), await begun(owner)
    editor = await joined(product, owner, comic, "editor")
    listener = owner if role == "owner" else await joined(product, owner, comic, "viewer")
    async with following(listener, place(comic)) as events:
        await panel(owner, other, "elsewhere")
        await owner.create(prompt="alone", size="64x64", wait=20)
        drawn = await panel(editor, comic, "here")
        heard = [await events.get()]
        while heard[-1] is not None and heard[-1].name != "ready":
            heard.append(await events.get())
    told = [event for event in heard if event is not None]
    ids = [event.id for event in told]
    assert ids == sorted(set(ids))
    assert {event.job["id"] for event in told} == {drawn["id"]}
    assert (told[0].name, told[0].job["status"], told[0].job["stage"]) == ("status", "pending", "queued")
    assert [event.job["image"] for event in told[:-1]] == [None] * (len(told) - 1)
    last = told[-1].job
    assert (last["object"], last["status"], last["image"]["id"]) == ("panel", "ready", drawn["image"]["id"])
    async with httpx.AsyncClient() as http:
        assert (await http.get(last["image"]["url"])).status_code == 200


async def test_a_stream_cut_anywhere_resumes_at_another_gateway(product: Stack) -> None:
    user = product.new_user()
    comic = await begun(user)
    first = await panel(user, comic, "0")
    panels = [await panel(user, comic, str(n)) for n in (1, 2)]
    is_last = is_end_of(panels[-1])
    async with replica(product) as url:
        there = User(url, product.admin_url, f"{uuid4()}@example.com", ["read"])
        body = {"user_id": str(there.id)}
        await user.http.post(f"/v1/comics/{comic['id']}/members", json=body)
        whole = await read_events(user, place(comic), after=0, last=is_last)
        assert [event.job["id"] for event in whole if event.name == "ready"] == [
            each["id"] for each in (first, *panels)
        ]
        for n, cut in enumerate(whole[:-1]):
            rest = await read_events(there, place(comic), after=cut.id, last=is_last)
            assert [(each.id, each.name, each.job["status"]) for each in rest] == [
                (each.id, each.name, each.job["status"]) for each in whole[n + 1 :]
            ]
        async with following(there, place(comic)) as events:
            live = await panel(user, comic, "drawn by the other gateway")
            while (event := await events.get()) is not None and event.name != "ready":
                assert event.job["id"] == live["id"]
        assert event is not None
        await there.http.aclose()


async def test_a_gateway_that_lags_behind_tells_nothing_twice(
    product: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "INTERVAL", 60)
    user = product.new_user()
    comic = await begun(user)
    async with replica(product) as url:
        there = User(url, product.admin_url, f"{uuid4()}@example.com", ["read"])
        await user.http.post(f"/v1/comics/{comic['id']}/members", json={"user_id": str(there.id)})
        async with following(there, place(comic)):
            is_last = is_end_of(await panel(user, comic, "drawn by the other gateway"))
            whole = await read_events(user, place(comic), after=0, last=is_last)
            rest = await read_events(there, place(comic), after=whole[0].id, last=is_last)
        assert [event.id for event in rest] == [event.id for event in whole[1:]]
        await there.http.aclose()


async def test_a_panel_keeps_its_picture_until_another_is_there_and_says_why_there_is_none(
    product: Stack,
) -> None:
    user = product.new_user()
    comic = await begun(user)
    drawn = await panel(user, comic, "a")
    async with following(user, place(comic)) as events, held_queue(product):
        again = f"/v1/comics/panels/{drawn['id']}/regenerate"
        job_id = (await user.http.post(again)).json()["job_id"]
        waiting = await events.get()
        await user.http.post(f"/v1/jobs/{job_id}/cancel")
        stopped = await events.get()
    assert waiting is not None
    assert stopped is not None
    assert (waiting.job["status"], waiting.job["image"]["id"]) == ("pending", drawn["image"]["id"])
    assert (stopped.name, stopped.job["error"]["code"]) == ("failed", "canceled")
    assert stopped.job["image"]["id"] == drawn["image"]["id"]


@pytest.mark.parametrize("how", ["dismissed", "deleted"])
async def test_a_stream_ends_for_whom_there_is_no_such_comic_any_more(product: Stack, how: str) -> None:
    owner = product.new_user()
    comic = await begun(owner)
    viewer = await joined(product, owner, comic, "viewer")
    async with following(viewer, place(comic)) as events:
        async with held_queue(product):
            await panel(owner, comic, "a", wait=0)
            assert (await events.get()) is not None
            here = f"/v1/comics/{comic['id']}"
            gone = f"{here}/members/{viewer.id}" if how == "dismissed" else here
            assert (await owner.http.delete(gone)).status_code == 204
        assert await events.get() is None


async def test_jobs_that_draw_no_panel_are_not_in_the_index(product: Stack) -> None:
    user = product.new_user()
    job = await user.create(prompt="a", size="64x64", wait=20)
    comic = await begun(user)
    drawn = await panel(user, comic, "a")
    found = product.rows(
        "select job_id::text, project_id::text from private.job_events where user_id = %s group by 1, 2",
        user.id,
    )
    assert {row["job_id"]: row["project_id"] for row in found} == {
        job["id"]: None,
        drawn["job_id"]: comic["id"],
    }
