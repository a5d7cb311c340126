"""The local executor: order, cancels, restarts, and what stays on disk."""

import asyncio
import threading
import time
from pathlib import Path

import pytest

from modal_app import catalog, engine, executor, results
from modal_app.contract import Call
from tests.modal_app.conftest import Client, new_key, run, service


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INSTANT_SECONDS", "5")


async def cancel(gpu: Client, call_id: str) -> Call:
    answer = await gpu.http.delete(f"/calls/{call_id}")
    assert answer.status_code == 200
    return Call.model_validate_json(answer.content)


async def test_an_engine_that_breaks_fails_its_call_and_nothing_else(
    gpu: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    await gpu.ended(await gpu.accepted())

    def broken(*args: object) -> engine.Drawing:
        raise RuntimeError("with secret words")

    with monkeypatch.context() as patch:
        patch.setattr("modal_app.engine.instant.InstantEngine.run", broken)
        call = await gpu.ended(await gpu.accepted())
    assert call.status == "failed" and call.error and call.result is None
    assert (call.error.code, call.error.retryable) == ("engine_failed", False)
    assert "secret words" not in call.error.message
    assert (await gpu.ended(await gpu.accepted())).status == "succeeded"


async def test_a_model_that_does_not_load_is_told_and_tried_again(
    gpu: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(engine, "servable", lambda model: False)
        call = await gpu.ended(await gpu.accepted())
    assert call.error and (call.error.code, call.error.retryable) == ("model_load_failed", True)
    assert (await gpu.ended(await gpu.accepted())).status == "succeeded"


async def test_a_disk_that_refuses_makes_the_call_unknown_not_the_service_dead(
    gpu: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(results.Results, "save", full)
        call_id = await gpu.accepted()
        async with asyncio.timeout(20):
            while (await gpu.http.get(f"/calls/{call_id}")).status_code == 200:
                await asyncio.sleep(0.01)
    assert (await gpu.ended(await gpu.accepted())).status == "succeeded"


@pytest.mark.usefixtures("slow")
async def test_a_queued_call_is_canceled_at_once_and_makes_room(tmp_path: Path) -> None:
    async with service(tmp_path, queue_limit=1) as gpu:
        await gpu.running(await gpu.accepted())
        queued = await gpu.accepted()
        call = await cancel(gpu, queued)
        assert (call.status, call.timing.gpu_seconds, call.error) == ("canceled", 0, None)
        assert (await gpu.submit()).status_code == 202


async def test_a_running_call_ends_within_a_step_and_says_what_it_cost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INSTANT_SECONDS", "60")
    async with service(tmp_path) as gpu:
        call_id = await gpu.accepted()
        await gpu.until(call_id, lambda call: call.stage == "generating")
        started = time.monotonic()
        await cancel(gpu, call_id)
        call = await gpu.ended(call_id)  # which the answer already was, unless this machine is very busy
        assert time.monotonic() - started < 15
        assert call.status == "canceled" and 0 < call.timing.gpu_seconds < 30 and call.result is None
        assert await cancel(gpu, call_id) == call
        key = call.key
        assert await gpu.accepted(key) == call_id  # a canceled call does not run again


async def test_an_ended_call_stays_as_it_is(gpu: Client) -> None:
    call = await gpu.ended(await gpu.accepted())
    assert await cancel(gpu, call.call_id) == call
    assert (await gpu.http.get(f"/calls/{call.call_id}/images/0")).status_code == 200


async def test_calls_run_in_order_of_arrival(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INSTANT_SECONDS", "0.3")
    ids, arrived = [], [time.monotonic()]
    async with service(tmp_path) as gpu:
        for _ in range(4):
            ids.append(await gpu.accepted())
            arrived.append(time.monotonic())
        waited = [(await gpu.ended(call_id)).timing.queue_seconds for call_id in ids]
    earliest = [at + seconds for at, seconds in zip(arrived[:-1], waited, strict=True)]
    latest = [at + seconds for at, seconds in zip(arrived[1:], waited, strict=True)]
    assert all(one < following for one, following in zip(earliest[:-1], latest[1:], strict=True))
    assert latest[3] - earliest[0] >= 0.9, "one after another"


async def test_the_tiny_model_draws_through_the_service_what_it_draws_alone(
    gpu: Client, tiny: engine.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    load, loaded, seen = engine.load, [], threading.Event()

    def watched(model: catalog.Model) -> engine.Engine:
        loaded.append(model.id)
        seen.wait(20)
        return load(model)

    monkeypatch.setattr(engine, "load", watched)
    call_id = await gpu.accepted(model="tiny-qwen", num_inference_steps=4, width=200, height=120)
    await gpu.until(call_id, lambda call: call.stage == "loading")
    seen.set()
    call = await gpu.ended(call_id)
    assert call.timing.load_seconds > 0.05
    assert call.result and (call.result.native_width, call.result.resampling) == (96, "lanczos")
    content = (await gpu.http.get(f"/calls/{call_id}/images/0")).content
    picture = run(tiny, num_inference_steps=4, width=200, height=120).pictures[0].image
    assert content == engine.pictures.encode(picture, "png", 90)
    repeated = await gpu.ended(
        await gpu.accepted(model="tiny-qwen", num_inference_steps=4, width=200, height=120)
    )
    assert repeated.result == call.result and loaded == ["tiny-qwen"], "a loaded model stays"


async def test_a_call_is_looked_up_quickly_while_a_picture_is_drawn(tmp_path: Path) -> None:
    async with service(tmp_path, preload=["tiny-qwen"]) as gpu:
        await gpu.ended(await gpu.accepted(model="tiny-qwen"))
        call_id = await gpu.accepted(model="tiny-qwen", num_inference_steps=100, width=1024, height=1024)
        taken, began = [], time.perf_counter()
        call = await gpu.call(call_id)
        while call.status != "succeeded":
            started = time.perf_counter()
            call = await gpu.call(call_id)
            taken.append(time.perf_counter() - started)
            await asyncio.sleep(0.005)
        drawn_in = time.perf_counter() - began
    assert len(taken) > 20
    assert sorted(taken)[len(taken) * 9 // 10] < drawn_in / 20, "a busy machine takes longer for both"


async def test_a_restarted_service_answers_for_ended_calls_and_runs_no_key_again(tmp_path: Path) -> None:
    key = new_key()
    async with service(tmp_path) as gpu:
        call = await gpu.ended(await gpu.accepted(key))
        picture = (await gpu.http.get(f"/calls/{call.call_id}/images/0")).content
    async with service(tmp_path) as gpu:
        assert await gpu.accepted(key, seed=99) == call.call_id
        assert await gpu.call(call.call_id) == call
        assert (await gpu.http.get(f"/calls/{call.call_id}/images/0")).content == picture


@pytest.mark.usefixtures("slow")
async def test_a_stopping_service_forgets_what_it_has_not_ended(tmp_path: Path) -> None:
    async with service(tmp_path) as gpu:
        running, queued = await gpu.accepted(), await gpu.accepted()
        await gpu.running(running)
        started = time.monotonic()
    assert time.monotonic() - started < 4, "it has waited for the picture"
    assert not gpu.executor.stuck
    async with service(tmp_path) as gpu:
        for call_id in (running, queued):
            assert (await gpu.http.get(f"/calls/{call_id}")).status_code == 404


async def test_what_a_kill_left_half_written_counts_as_nothing_and_is_removed(tmp_path: Path) -> None:
    key = new_key()
    async with service(tmp_path) as gpu:
        call = await gpu.ended(await gpu.accepted(key))
    folder = tmp_path / "calls" / call.call_id
    (folder / "call.json").rename(folder / "call.part")
    async with service(tmp_path) as gpu:
        assert not folder.exists()
        assert (await gpu.http.get(f"/calls/{call.call_id}")).status_code == 404
        again = await gpu.ended(await gpu.accepted(key))
        assert again.result == call.result


async def test_results_go_a_while_after_they_were_pulled_or_after_a_week(tmp_path: Path) -> None:
    async with service(tmp_path) as gpu:
        pulled, half, left = [await gpu.ended(await gpu.accepted(num_images=2)) for _ in range(3)]
        for call, n in ((pulled, 0), (pulled, 1), (half, 0)):
            assert (await gpu.http.get(f"/calls/{call.call_id}/images/{n}")).status_code == 200
        kept = results.Results(tmp_path / "calls")

        def known(after_seconds: float) -> list[bool]:
            kept.prune(time.time() + after_seconds)
            return [call.call_id in kept for call in (pulled, half, left)]

        assert known(results.FETCHED_TTL_SECONDS - 60) == [True, True, True]
        assert known(results.FETCHED_TTL_SECONDS + 60) == [False, True, True]
        assert known(results.RESULT_TTL_SECONDS + 60) == [False, False, False]
        assert list((tmp_path / "calls").iterdir()) == []
        assert (await gpu.http.get(f"/calls/{left.call_id}")).status_code == 404


async def test_waiting_calls_that_may_share_a_run_do_and_each_gets_its_own_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    everybody, step_on = threading.Event(), executor._Stepper.__call__

    def step(stepper: executor._Stepper, done: int, steps: int) -> None:
        everybody.wait(20)
        step_on(stepper, done, steps)

    monkeypatch.setattr(executor._Stepper, "__call__", step)
    async with service(tmp_path) as gpu:
        first = await gpu.accepted(model="tiny-qwen", num_inference_steps=7)
        await gpu.until(first, lambda call: call.stage == "generating")
        waiting = [await gpu.accepted(model="tiny-qwen", seed=seed) for seed in (1, 2, 3)]
        other = await gpu.accepted(model="tiny-qwen", seed=1, num_inference_steps=5)
        everybody.set()
        ended = [await gpu.ended(call_id) for call_id in (first, *waiting, other)]
    assert [call.status for call in ended] == ["succeeded"] * 5
    seconds = [call.timing.gpu_seconds for call in ended[1:4]]
    assert max(seconds) - min(seconds) < 1e-5, "a shared run is charged in equal parts"
    async with service(tmp_path / "alone") as gpu:
        alone = [await gpu.ended(await gpu.accepted(model="tiny-qwen", seed=seed)) for seed in (1, 2, 3)]
    assert [call.result for call in ended[1:4]] == [call.result for call in alone]


async def test_one_of_a_shared_run_can_be_canceled(tmp_path: Path) -> None:
    async with service(tmp_path) as gpu:
        await gpu.ended(await gpu.accepted(model="tiny-qwen"))
        blocking = await gpu.accepted(model="tiny-qwen", num_inference_steps=40)
        kept, dropped = [
            await gpu.accepted(model="tiny-qwen", seed=seed, num_inference_steps=80) for seed in (1, 2)
        ]
        await gpu.ended(blocking)
        await gpu.until(dropped, lambda call: call.step > 3)
        await gpu.http.delete(f"/calls/{dropped}")
        assert (await gpu.ended(dropped)).status == "canceled"
        assert (await gpu.ended(kept)).status == "succeeded"
