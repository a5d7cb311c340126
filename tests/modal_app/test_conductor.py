"""The conductor and the executor on Modal: races, kills, lost results, a gateway that does not answer."""

import asyncio
import time
from pathlib import Path
from typing import Any

import modal
import pytest

from modal_app import conductor, conductor_modal, results
from modal_app.callback import Callback
from modal_app.calls import dead_letter_key, end_key, order, order_key, run_key, spawned_key
from modal_app.conductor import RunFailed, RunLost
from modal_app.conductor_memory import MemoryBackend
from modal_app.conductor_modal import ModalBackend, failure
from modal_app.contract import Call
from modal_app.engine.instant import InstantEngine
from modal_app.generator import GpuBroken
from modal_app.service import QueueFull
from tests.modal_app.conftest import Gateway, image_request, new_key
from tests.modal_app.protocol import ModalClient, modal_service


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INSTANT_SECONDS", "0.6")


async def until(reached: Any) -> None:
    async with asyncio.timeout(60):
        while not reached():
            await asyncio.sleep(0.005)


async def drawing(gpu: ModalClient, **changes: Any) -> str:
    """Id of a call whose picture is being drawn."""
    call_id = await gpu.accepted(**changes)
    await gpu.until(call_id, lambda call: call.stage == "generating")
    return call_id


@pytest.mark.parametrize(
    ("error", "code", "retryable"),
    [
        (modal.exception.FunctionTimeoutError("late"), "gpu_timeout", True),
        (modal.exception.InternalFailure("gone"), "gpu_lost", True),
        (modal.exception.RemoteError(""), "run_interrupted", True),
        (modal.exception.OutputExpiredError("old"), "result_lost", True),
        (modal.exception.NotFoundError("what"), "result_lost", True),
        (GpuBroken("CUDA error"), "gpu_failed", True),
        (modal.exception.DeserializationError("torch"), "engine_failed", False),
        (ValueError("with secret words"), "engine_failed", False),
    ],
)
def test_what_modal_raises_for_a_run_is_an_error_with_a_code(
    error: Exception, code: str, retryable: bool
) -> None:
    failed = failure(error)
    assert failed is not None
    assert (failed.error.code, failed.error.retryable) == (code, retryable)
    assert "secret words" not in failed.error.message
    assert isinstance(failed, RunLost) == (code == "result_lost")


@pytest.mark.parametrize(
    "error",
    [
        TimeoutError(),
        modal.exception.ConnectionError("down"),
        modal.exception.ServiceError("busy"),
        modal.exception.InternalError("oops"),
        modal.exception.ResourceExhaustedError("slow down"),
    ],
)
def test_what_says_nothing_of_the_run_does_not_end_it(error: Exception) -> None:
    assert failure(error) is None


class Remote:
    """A method of Modal's client: what its ``.aio`` form was called with, and what that gives."""

    def __init__(self, answer: Any = None) -> None:
        self.answer = answer
        self.asked: list[tuple[Any, ...]] = []
        self.aio = self._aio

    async def _aio(self, *args: Any, **named: Any) -> Any:
        self.asked.append((*args, *named.items()))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class Remotes:
    """An object whose attributes are remote methods."""

    def __init__(self, **answers: Any) -> None:
        for name, answer in answers.items():
            setattr(self, name, Remote(answer))


async def test_the_backend_on_modal_asks_the_dict_without_blocking() -> None:
    calls: Any = Remotes(get="kept", put=False, pop=None)
    backend = ModalBackend(calls, None, {})
    assert await backend.get("a") == "kept"
    await backend.put("a", 1)
    assert not await backend.put_if_absent("a", 2)
    await backend.pop("a")
    assert calls.put.asked == [("a", 1), ("a", 2, ("skip_if_exists", True))]
    assert calls.pop.asked == [("a", None)]


async def test_the_backend_on_modal_spawns_and_is_told_when_modal_takes_no_more() -> None:
    class Spawned:
        object_id = "fc-1"

    def method(answer: Any) -> Any:
        return lambda: type(
            "Class", (), {"generate": Remotes(spawn=answer), "conduct": Remotes(spawn=answer)}
        )

    backend = ModalBackend(None, method(Spawned), {"QwenGenerator": method(Spawned)})
    assert await backend.spawn_conductor("id") == await backend.spawn_run("QwenGenerator", "text") == "fc-1"
    full = ModalBackend(None, method(modal.exception.ResourceExhaustedError("full")), {})
    with pytest.raises(QueueFull):
        await full.spawn_conductor("id")


async def test_the_backend_on_modal_gives_outcomes_and_swallows_no_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    call = order(new_key(), "image", image_request()).queued("cpu")
    answers: dict[str, Any] = {
        "ended": {"call": call.model_dump_json(by_alias=True), "pictures": [b"1"]},
        "running": TimeoutError(),
        "unknown": modal.exception.ConnectionError("down"),
        "canceled": modal.exception.RemoteError(""),
    }
    monkeypatch.setattr(
        conductor_modal.modal.FunctionCall,
        "from_id",
        lambda run_id: Remotes(get=answers[run_id], cancel=modal.exception.NotFoundError("ended")),
    )
    backend = ModalBackend(None, None, {})
    outcome = await backend.outcome("ended", 0.01)
    assert outcome is not None and (outcome.call, outcome.pictures) == (call, [b"1"])
    assert await backend.outcome("running", 0.01) is None
    assert await backend.outcome("unknown", 0.01) is None
    with pytest.raises(RunFailed):
        await backend.outcome("canceled", 0.01)
    await backend.cancel("ended")


async def test_requests_that_race_over_a_slow_dict_are_one_run(
    tmp_path: Path, gateway: Gateway, callback: Callback
) -> None:
    async with modal_service(tmp_path, callback=callback, delay_seconds=0.02) as gpu:
        key = new_key()
        ids = await asyncio.gather(*(gpu.accepted(key) for _ in range(10)))
        assert len(set(ids)) == 1
        await gpu.ended(ids[0])
        await gateway.until(lambda: bool(gateway.events("succeeded")))
        assert gpu.backend.runs_of(ids[0]) == 1


async def test_a_spawn_that_came_twice_is_one_run_and_one_webhook(
    tmp_path: Path, gateway: Gateway, callback: Callback
) -> None:
    async with modal_service(tmp_path, callback=callback) as gpu:
        gpu.backend.spawns_twice = True
        call = await gpu.ended(await gpu.accepted())
        await gateway.until(lambda: bool(gateway.events("succeeded")))
        await asyncio.sleep(0.1)
        assert gpu.backend.runs_of(call.call_id) == 1
    assert len(gateway.events("succeeded")) == 1


async def test_an_order_whose_taker_was_killed_counts_as_lost_and_is_taken_up_by_the_next(
    tmp_path: Path,
) -> None:
    async with modal_service(tmp_path, spawn_grace_seconds=60) as gpu:
        key = new_key()
        left = order(key, "image", image_request(model="instant"))
        await gpu.backend.put(order_key(left.call_id), left.text())
        assert (await gpu.call(left.call_id)).status == "queued"
        a_minute_ago = left.model_copy(update={"submitted_at": left.submitted_at - 61})
        await gpu.backend.put(order_key(left.call_id), a_minute_ago.text())
        assert (await gpu.http.get(f"/calls/{left.call_id}")).status_code == 404
        assert await gpu.accepted(key) == left.call_id
        assert (await gpu.ended(left.call_id)).status == "succeeded"


@pytest.mark.usefixtures("slow")
async def test_a_container_killed_in_the_middle_gets_its_input_again_and_one_end_is_told(
    tmp_path: Path, gateway: Gateway, callback: Callback
) -> None:
    async with modal_service(tmp_path, callback=callback) as gpu:
        undisturbed = await gpu.ended(await gpu.accepted())
        call_id = await drawing(gpu)
        gpu.backend.kill_container(call_id)
        call = await gpu.ended(call_id)
        await gateway.until(lambda: len(gateway.events("succeeded")) == 2)
        await asyncio.sleep(0.1)
        assert gpu.backend.runs_of(call_id) == 2
        assert (await gpu.http.get(f"/calls/{call_id}/images/0")).status_code == 200
    assert call.result == undisturbed.result
    assert [event.call.call_id for event in gateway.events("succeeded")] == [undisturbed.call_id, call_id]


@pytest.mark.usefixtures("slow")
@pytest.mark.parametrize("phase", ["started", "drawing", "ended"])
async def test_a_killed_conductor_goes_on_where_it_was(
    tmp_path: Path, gateway: Gateway, callback: Callback, phase: str
) -> None:
    slow_dict = 0.05 if phase == "started" else 0.0  # or the run is spawned before anybody looks
    async with modal_service(tmp_path, callback=callback, delay_seconds=slow_dict) as gpu:
        gateway.answers, gateway.picky = [503] * 2 if phase == "ended" else [], "call.succeeded"
        call_id = await gpu.accepted()
        if phase == "started":
            await until(lambda: gpu.backend.read(f"conductor:{call_id}"))
        elif phase == "drawing":
            await gpu.until(call_id, lambda call: call.stage == "generating")
        else:
            await gpu.ended(call_id)
        gpu.backend.kill_conductor(call_id)
        call = await gpu.ended(call_id)
        await until(lambda: gpu.backend.read(f"announced:{call_id}"))
        assert call.status == "succeeded" and gpu.backend.runs_of(call_id) == 1
    assert {event.call.call_id for event in gateway.events("succeeded")} == {call_id}


async def test_a_gpu_that_breaks_is_tried_again_in_a_fresh_container_and_then_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    async with modal_service(tmp_path) as gpu:
        with monkeypatch.context() as patch:
            patch.setattr(InstantEngine, "run", broken)
            call = await gpu.ended(await gpu.accepted())
        assert call.error and (call.error.code, call.error.retryable) == ("gpu_failed", True)
        assert gpu.backend.runs_of(call.call_id) == 2
        assert (await gpu.ended(await gpu.accepted())).status == "succeeded"


async def test_too_little_memory_is_an_answer_and_costs_no_second_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class OutOfMemoryError(RuntimeError):
        """Named as torch's is."""

    def full(*args: object) -> None:
        raise OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")

    async with modal_service(tmp_path) as gpu:
        with monkeypatch.context() as patch:
            patch.setattr(InstantEngine, "run", full)
            call = await gpu.ended(await gpu.accepted())
        assert call.error and (call.error.code, call.error.retryable) == ("out_of_memory", False)
        assert gpu.backend.runs_of(call.call_id) == 1
        assert (await gpu.ended(await gpu.accepted())).status == "succeeded"


@pytest.mark.usefixtures("slow")
async def test_a_run_that_does_not_hear_of_its_cancel_is_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gateway: Gateway, callback: Callback
) -> None:
    monkeypatch.setenv("INSTANT_SECONDS", "30")
    monkeypatch.setattr("modal_app.reporter.Reporter.cancelled", lambda self: False)
    async with modal_service(tmp_path, callback=callback) as gpu:
        call_id = await drawing(gpu, num_inference_steps=100)
        answer = await gpu.http.delete(f"/calls/{call_id}")
        assert answer.status_code == 200
        call = await gpu.ended(call_id)
        await gateway.until(lambda: bool(gateway.events("failed")))
        assert call.status == "canceled" and call.error is None
        assert await drawing(gpu), "the container takes the next"


async def test_a_call_canceled_before_its_run_was_spawned_never_reaches_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched = asyncio.Event()

    async with modal_service(tmp_path) as gpu:

        async def slowly(sources: object) -> None:
            await fetched.wait()

        monkeypatch.setattr(gpu.conductor._fetcher, "fetch", slowly)
        call_id = await gpu.accepted()
        call = Call.model_validate_json((await gpu.http.delete(f"/calls/{call_id}")).content)
        assert call.status == "canceled"
        fetched.set()
        await asyncio.sleep(0.1)
        assert gpu.backend.runs_of(call_id) == 0 and await gpu.call(call_id) == call


async def test_a_call_that_no_gpu_draws_in_time_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INSTANT_SECONDS", "30")
    async with modal_service(tmp_path, patience_seconds=0.2) as gpu:
        call = await gpu.ended(await gpu.accepted())
    assert call.error and (call.error.code, call.error.retryable) == ("gpu_timeout", True)


async def test_a_result_that_expired_is_not_found(tmp_path: Path) -> None:
    async with modal_service(tmp_path) as gpu:
        call = await gpu.ended(await gpu.accepted())
        gpu.backend.expire(call.call_id)
        assert (await gpu.http.get(f"/calls/{call.call_id}/images/0")).status_code == 404
        end = await gpu.backend.get(end_key(call.call_id))
        end["at"] -= results.RESULT_TTL_SECONDS
        await gpu.backend.put(end_key(call.call_id), end)
        assert (await gpu.http.get(f"/calls/{call.call_id}")).status_code == 404


async def test_pictures_of_a_call_are_one_download(tmp_path: Path) -> None:
    async with modal_service(tmp_path) as gpu:
        call = await gpu.ended(await gpu.accepted(num_images=2))
        assert (await gpu.http.get(f"/calls/{call.call_id}/images/0")).status_code == 200
        gpu.backend.expire(call.call_id)
        assert (await gpu.http.get(f"/calls/{call.call_id}/images/1")).status_code == 200


async def test_a_call_whose_route_a_deployment_took_away_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with modal_service(tmp_path) as gpu:
        monkeypatch.setattr(gpu.conductor, "_routes", {})
        call = await gpu.ended(await gpu.accepted())
    assert call.error and (call.error.code, call.error.retryable) == ("model_unavailable", False)


async def test_a_lost_run_fails_its_call_in_a_way_that_may_be_tried_again(tmp_path: Path) -> None:
    async with modal_service(tmp_path) as gpu:
        left = order(new_key(), "image", image_request(model="instant"))
        await gpu.backend.put(order_key(left.call_id), left.text())
        await gpu.backend.put(spawned_key(left.call_id), time.time())
        await gpu.backend.put(run_key(left.call_id), "fc-of-yesterday")
        await gpu.backend.spawn_conductor(left.call_id)
        call = await gpu.ended(left.call_id)
    assert call.error and (call.error.code, call.error.retryable) == ("result_lost", True)


async def test_an_event_that_the_gateway_does_not_take_is_kept_and_can_be_told_later(
    tmp_path: Path, gateway: Gateway, callback: Callback
) -> None:
    gateway.answers, gateway.picky = [404], "call.succeeded"
    async with modal_service(tmp_path, callback=callback) as gpu:
        call = await gpu.ended(await gpu.accepted())
        await until(lambda: gpu.backend.read(dead_letter_key(call.call_id)))
        assert (await gpu.call(call.call_id)).status == "succeeded"
        assert await gpu.conductor.announce(call.call_id)
        assert await gpu.conductor.announce(call.call_id), "and that is known"
        assert gpu.backend.read(dead_letter_key(call.call_id)) is None
    assert len(gateway.events("succeeded")) == 2


async def test_rounds_of_tries_come_with_a_pause_between(
    tmp_path: Path, gateway: Gateway, callback: Callback, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway.answers, gateway.picky = [503] * 7, "call.succeeded"
    async with modal_service(tmp_path, callback=callback) as gpu:
        monkeypatch.setattr(gpu.conductor, "_webhook_rounds", 2)
        call = await gpu.ended(await gpu.accepted())
        await until(lambda: gpu.backend.read(f"announced:{call.call_id}"))
    assert len(gateway.events("succeeded")) == 8


async def test_modal_that_takes_no_more_runs_is_asked_again_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spawn, refusals = MemoryBackend.spawn_run, [QueueFull(0), QueueFull(0)]

    async def reluctant(self: MemoryBackend, generator: str, order_text: str) -> str:
        if refusals:
            raise refusals.pop()
        return await spawn(self, generator, order_text)

    monkeypatch.setattr(MemoryBackend, "spawn_run", reluctant)
    async with modal_service(tmp_path) as gpu:
        assert (await gpu.ended(await gpu.accepted())).status == "succeeded"


async def test_a_front_door_that_cannot_spawn_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with modal_service(tmp_path) as gpu:
        key = new_key()
        with monkeypatch.context() as patch:
            patch.setattr(gpu.backend, "spawn_conductor", Remote(QueueFull(3)).aio)
            answer = await gpu.submit(key)
            assert (answer.status_code, answer.headers["Retry-After"]) == (503, "3")
        assert (await gpu.ended(await gpu.accepted(key))).status == "succeeded"


async def test_notes_that_cannot_be_left_cost_progress_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def down(*args: object) -> None:
        raise ConnectionError("down")

    async with modal_service(tmp_path) as gpu:
        monkeypatch.setattr("modal_app.reporter.Reporter._exchange", down)
        assert (await gpu.ended(await gpu.accepted())).status == "succeeded"


def test_a_watch_gives_a_canceled_run_its_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = conductor._Watch("id", grace_seconds=10.0)
    now = [100.0]
    monkeypatch.setattr(conductor.time, "monotonic", lambda: now[0])
    assert not watch.is_overdue(canceled=False)
    assert not watch.is_overdue(canceled=True)
    now[0] = 110.0
    assert watch.is_overdue(canceled=True)
