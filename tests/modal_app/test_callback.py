"""Events: signed, verifiable, repeated where that helps, and never in the way."""

import hashlib
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from standardwebhooks.webhooks import Webhook

from modal_app import callback as callbacks
from modal_app.callback import Callback
from modal_app.contract import EVENT_LIMIT_BYTES, Call, CallEvent
from tests.modal_app.conftest import SECRET, Gateway, new_key, service
from tests.support.stack import free_port, serve


def an_event(**changes: object) -> CallEvent:
    call = Call(call_id="c", key="00000000-0000-0000-0000-000000000001:0:1", task="image", status="running")
    return CallEvent(type="call.progress", seq=3, call=call.model_copy(update=changes))


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_%%%"])
def test_a_secret_that_signs_nothing_is_refused(secret: str) -> None:
    with pytest.raises(ValueError, match="webhook secret"):
        Callback("http://127.0.0.1", secret)


@pytest.mark.parametrize(
    "url", ["", "gateway", "ftp://gateway/", "http://", "http://[::1", "file:///etc/passwd"]
)
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValueError):
        Callback(url, SECRET)


@pytest.mark.parametrize("status", [400, 401, 404, 410, 422, 302])
async def test_a_refusal_is_not_repeated_and_a_redirect_not_followed(
    gateway: Gateway, callback: Callback, status: int
) -> None:
    gateway.answers = [status]
    assert not await callback.deliver(an_event())
    assert len(gateway.received) == 1


async def test_five_failures_are_enough(gateway: Gateway, callback: Callback) -> None:
    gateway.answers = [500] * 9
    assert not await callback.deliver(an_event())
    assert len(gateway.received) == 5


async def test_nobody_there_is_no_error() -> None:
    async with Callback(f"http://127.0.0.1:{free_port()}/", SECRET, first_delay_seconds=0) as nowhere:
        assert not await nowhere.deliver(an_event())
        await nowhere.mention(an_event())


async def test_a_passing_failure_is_repeated_under_the_same_id_with_a_signature_of_its_time(
    gateway: Gateway, callback: Callback
) -> None:
    gateway.answers = [503, 408, 429]
    assert await callback.deliver(an_event())
    assert len(gateway.received) == 4
    assert len({headers["webhook-id"] for headers, _ in gateway.received}) == 1
    for headers, body in gateway.received:
        Webhook(SECRET).verify(body, headers)


def test_the_id_names_the_news_not_the_try() -> None:
    assert callbacks.event_id(an_event()) == callbacks.event_id(an_event(step=4))
    others = [an_event().model_copy(update={"seq": 4}), an_event().model_copy(update={"type": "call.failed"})]
    assert len({callbacks.event_id(event) for event in (an_event(), *others)}) == 3
    assert "." not in callbacks.event_id(an_event())  # parts of what is signed are joined by dots


def test_the_timestamp_is_the_moment_of_the_try() -> None:
    now = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
    headers = callbacks.signed_headers(Webhook(SECRET), an_event(), "{}", now)
    assert headers["webhook-timestamp"] == "1795176000"


def test_a_call_that_is_too_long_leaves_its_fingerprint_behind() -> None:
    body = callbacks.body_of(an_event(fingerprint={"weights": "x" * EVENT_LIMIT_BYTES}))
    assert len(body) < EVENT_LIMIT_BYTES
    assert CallEvent.model_validate_json(body).call.fingerprint == {}


async def test_every_end_is_announced_with_the_call_itself(
    tmp_path: Path, gateway: Gateway, callback: Callback
) -> None:
    async with service(tmp_path, callback=callback) as gpu:
        drawn = await gpu.ended(await gpu.accepted(num_images=10))
        await gateway.until(lambda: bool(gateway.received))
    headers, body = gateway.received[0]
    Webhook(SECRET).verify(body, headers)
    assert len(body) < EVENT_LIMIT_BYTES and headers["content-type"] == "application/json"
    [event] = gateway.events()
    assert event.type == "call.succeeded" and event.call == drawn and event.call.result
    assert len(event.call.result.images) == 10


async def test_a_cancel_is_announced_as_failed_and_the_call_says_which(
    tmp_path: Path, gateway: Gateway, callback: Callback, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INSTANT_SECONDS", "5")
    async with service(tmp_path, callback=callback) as gpu:
        running, queued = await gpu.accepted(), await gpu.accepted()
        await gpu.running(running)
        for call_id in (running, queued):
            await gpu.http.delete(f"/calls/{call_id}")
        await gateway.until(lambda: len(gateway.events("failed")) == 2)
    assert {(event.call.call_id, event.call.status) for event in gateway.events()} == {
        (running, "canceled"),
        (queued, "canceled"),
    }


async def test_progress_is_told_at_most_so_often_and_before_the_end(
    tmp_path: Path, gateway: Gateway, callback: Callback, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INSTANT_SECONDS", "2")
    monkeypatch.setattr("modal_app.executor.PROGRESS_SECONDS", 0.1)
    started = time.monotonic()
    async with service(tmp_path, callback=callback) as gpu:
        await gpu.accepted(num_inference_steps=100)
        await gateway.until(lambda: bool(gateway.events("succeeded")))
    told = gateway.events("progress")
    assert 2 <= len(told) <= (time.monotonic() - started) / 0.1
    assert all(event.call.status == "running" and event.call.stage == "generating" for event in told)
    numbers = [event.seq for event in gateway.events()]
    assert numbers == sorted(set(numbers))


async def test_a_gateway_that_hangs_does_not_slow_the_pictures(
    tmp_path: Path, gateway: Gateway, callback: Callback
) -> None:
    gateway.answers = [500] * 1000
    async with service(tmp_path, callback=callback) as gpu:
        calls = [await gpu.ended(await gpu.accepted()) for _ in range(20)]
    assert {call.status for call in calls} == {"succeeded"}


async def test_an_end_that_nobody_took_is_announced_at_the_next_start_under_the_same_id(
    tmp_path: Path,
) -> None:
    port, later = free_port(), Gateway()
    url, key = f"http://127.0.0.1:{port}/hook", new_key()
    async with (
        Callback(url, SECRET, first_delay_seconds=0) as unheard,
        service(tmp_path, callback=unheard) as gpu,
    ):
        call = await gpu.ended(await gpu.accepted(key))
        assert await gpu.call(call.call_id) == call
    async with serve(later.app(), port), Callback(url, SECRET) as heard:
        async with service(tmp_path, callback=heard) as gpu:
            await later.until(lambda: not list(gpu.executor._results.unannounced()))
        assert len(later.received) == 1
        async with service(tmp_path, callback=heard) as gpu:  # told once is told
            await gpu.ended(await gpu.accepted())
            await later.until(lambda: len(later.received) == 2)
    assert later.events()[0].call == call
    assert later.events()[1].call.key != key
    ids = [headers["webhook-id"] for headers, _ in later.received]
    assert ids[0] == callbacks.event_id(later.events()[0])


async def test_a_gateway_that_comes_back_in_time_is_told(tmp_path: Path) -> None:
    port, later = free_port(), Gateway()
    async with (
        Callback(f"http://127.0.0.1:{port}/", SECRET, first_delay_seconds=0.3) as callback,
        service(tmp_path, callback=callback) as gpu,
    ):
        call = await gpu.ended(await gpu.accepted())
        async with serve(later.app(), port):
            await later.until(lambda: bool(later.received))
    assert later.events()[0].call == call


async def test_a_gateway_that_always_breaks_leaves_the_call_readable(
    tmp_path: Path, gateway: Gateway, callback: Callback
) -> None:
    gateway.answers = [500] * 5
    async with service(tmp_path, callback=callback) as gpu:
        call = await gpu.ended(await gpu.accepted())
        await gateway.until(lambda: len(gateway.received) == 5)
        picture = await gpu.http.get(f"/calls/{call.call_id}/images/0")
        assert call.result and hashlib.sha256(picture.content).hexdigest() == call.result.images[0].sha256
    assert len(gateway.received) == 5
