"""One protocol, two servers: every test runs against both.  Refusals first."""

import asyncio
import hashlib
import io
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image
from standardwebhooks.webhooks import Webhook
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

from modal_app import engine
from modal_app.callback import Callback
from modal_app.contract import Call, unseal
from modal_app.engine.pictures import sealed_recipe
from tests.modal_app.conftest import SECRET, Client, Gateway, image_request, new_key, run
from tests.modal_app.protocol import MODELS, SERVERS, Server
from tests.support.stack import serve

UNKNOWN = "00000000-0000-5000-8000-000000000000"


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest) -> Server:
    return SERVERS[request.param]


@pytest.fixture
async def gpu(server: Server, tmp_path: Path) -> AsyncIterator[Client]:
    async with server(tmp_path) as client:
        yield client


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INSTANT_SECONDS", "5")


def refused(answer: httpx.Response, status: int, code: str) -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == code


async def cancel(gpu: Client, call_id: str) -> Call:
    answer = await gpu.http.delete(f"/calls/{call_id}")
    assert answer.status_code == 200, answer.text
    return Call.model_validate_json(answer.content)


async def test_what_is_no_call_is_refused(gpu: Client) -> None:
    request = image_request(model="instant").model_dump()
    refused(await gpu.http.post("/calls", content=b"{"), 422, "validation_failed")
    refused(await gpu.send({"key": "x", "task": "image", "request": request}), 422, "validation_failed")
    refused(await gpu.submit(task="dance"), 400, "unsupported_task")
    refused(await gpu.submit(model="dall-e-9"), 400, "unknown_model")
    refused(await gpu.submit(model="sdxl"), 400, "model_unavailable")
    refused(await gpu.submit(negative_prompt="fog"), 400, "unsupported_parameter")


@pytest.mark.parametrize("call_id", [UNKNOWN, "x", "..", UNKNOWN.upper()])
async def test_a_call_that_nobody_submitted_is_not_found(gpu: Client, call_id: str) -> None:
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/images/0")):
        assert (await gpu.http.request(method, f"/calls/{call_id}{path}")).status_code == 404


@pytest.mark.usefixtures("slow")
async def test_pictures_of_a_call_that_has_not_ended_are_a_conflict(gpu: Client) -> None:
    call_id = await gpu.accepted()
    refused(await gpu.http.get(f"/calls/{call_id}/images/0"), 409, "call_not_ended")


async def test_a_picture_that_the_call_does_not_have_is_not_found(gpu: Client) -> None:
    call = await gpu.ended(await gpu.accepted())
    refused(await gpu.http.get(f"/calls/{call.call_id}/images/1"), 404, "picture_unknown")


@pytest.mark.usefixtures("slow")
async def test_a_full_queue_refuses_and_says_when_to_come_back(server: Server, tmp_path: Path) -> None:
    async with server(tmp_path, queue_limit=1) as gpu:
        await gpu.running(await gpu.accepted())
        await gpu.accepted(waiting := new_key())
        refused_key = new_key()
        answer = await gpu.submit(refused_key)
        refused(answer, 503, "queue_full")
        assert int(answer.headers["Retry-After"]) >= 1
        refused(await gpu.submit(refused_key), 503, "queue_full")
        assert await gpu.accepted(waiting), "one that is already in is told so, full or not"


async def test_an_engine_that_breaks_fails_its_call_and_nothing_else(
    gpu: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object) -> engine.Drawing:
        raise RuntimeError("with secret words")

    with monkeypatch.context() as patch:
        patch.setattr("modal_app.engine.instant.InstantEngine.run", broken)
        call = await gpu.ended(await gpu.accepted())
    assert call.error and (call.status, call.error.code) == ("failed", "engine_failed")
    assert not call.error.retryable and "secret words" not in call.error.message and call.result is None
    assert (await gpu.ended(await gpu.accepted())).status == "succeeded"


async def test_a_model_that_does_not_load_is_told_and_tried_again(
    gpu: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(engine, "servable", lambda model: False)
        call = await gpu.ended(await gpu.accepted())
    assert call.error and (call.error.code, call.error.retryable) == ("model_load_failed", True)
    assert (await gpu.ended(await gpu.accepted())).status == "succeeded"


async def test_a_file_from_elsewhere_fails_the_call_before_any_gpu_time(gpu: Client) -> None:
    reference = {"url": "http://127.0.0.1:9/x", "sha256": "0" * 64}
    call = await gpu.ended(await gpu.accepted(model="tiny-qwen-edit", references=[reference]))
    assert call.error and (call.error.code, call.timing.gpu_seconds) == ("source_refused", 0)


@pytest.mark.usefixtures("slow")
async def test_a_queued_call_is_canceled_at_once(gpu: Client) -> None:
    await gpu.running(await gpu.accepted())
    call = await cancel(gpu, await gpu.accepted())
    assert (call.status, call.timing.gpu_seconds, call.error) == ("canceled", 0, None)
    assert await gpu.call(call.call_id) == call


async def test_a_running_call_ends_within_a_step_and_says_what_it_cost(
    gpu: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INSTANT_SECONDS", "60")
    call_id = await gpu.accepted()
    await gpu.until(call_id, lambda call: call.stage == "generating")
    began = time.monotonic()
    await cancel(gpu, call_id)
    call = await gpu.ended(call_id)  # which the answer already was, unless this machine is very busy
    assert time.monotonic() - began < 15
    assert call.status == "canceled" and 0 < call.timing.gpu_seconds < 30 and call.result is None
    assert await gpu.call(call_id) == call == await cancel(gpu, call_id)
    assert await gpu.accepted(call.key) == call_id
    assert (await gpu.call(call_id)).status == "canceled", "a canceled call does not run again"


async def test_an_ended_call_stays_as_it_is(gpu: Client) -> None:
    call = await gpu.ended(await gpu.accepted())
    assert await cancel(gpu, call.call_id) == call
    assert (await gpu.http.get(f"/calls/{call.call_id}/images/0")).status_code == 200


async def test_a_call_goes_from_accepted_to_pictures(gpu: Client) -> None:
    call = await gpu.ended(await gpu.accepted(num_images=2, width=64, height=48, output_format="webp"))
    assert (call.status, call.stage, call.step, call.steps, call.gpu) == ("succeeded", None, 2, 2, "cpu")
    assert call.result and call.timing.gpu_seconds > 0 and call.fingerprint["model"] == "instant"
    for info in call.result.images:
        picture = await gpu.http.get(f"/calls/{call.call_id}/images/{info.n}")
        assert hashlib.sha256(picture.content).hexdigest() == info.sha256
        assert (len(picture.content), picture.headers["content-type"]) == (info.bytes, "image/webp")
        assert picture.headers["ETag"] == f'"{info.sha256}"'
        assert Image.open(io.BytesIO(picture.content)).size == (info.width, info.height) == (64, 48)
    assert [info.seed for info in call.result.images] == [7, 8]


async def test_twenty_requests_with_one_key_are_one_call(gpu: Client) -> None:
    key = new_key()
    ids = await asyncio.gather(*(gpu.accepted(key, seed=n) for n in range(20)))
    assert len(set(ids)) == 1
    call = await gpu.ended(ids[0])
    assert call.result and call.result.images[0].seed == 0, "the first one counts"
    assert await gpu.accepted(key) == ids[0]


async def test_both_servers_give_a_key_the_same_id(tmp_path: Path) -> None:
    key, ids = new_key(), []
    for name, made in SERVERS.items():
        async with made(tmp_path / name) as gpu:
            ids.append(await gpu.accepted(key))
    assert ids[0] == ids[1]


async def test_the_tiny_model_draws_through_the_service_what_it_draws_alone(
    server: Server, tmp_path: Path, tiny: engine.Engine
) -> None:
    async with server(tmp_path, recipe_secret="of the tests") as gpu:
        asked = {"num_inference_steps": 4, "width": 200, "height": 120}
        call_id = await gpu.accepted(model="tiny-qwen", **asked)
        stages = set()
        await gpu.until(call_id, lambda call: bool(stages.add(call.stage) or call.result))
        call = await gpu.ended(call_id)
        content = (await gpu.http.get(f"/calls/{call_id}/images/0")).content
    assert {"loading", "generating"} & stages and call.timing.load_seconds > 0.05
    assert call.result and (call.result.native_width, call.result.resampling) == (96, "lanczos")
    drawn = Image.open(io.BytesIO(content))
    assert drawn.convert("RGB").tobytes() == run(tiny, **asked).pictures[0].image.tobytes()
    recipe = unseal(str(sealed_recipe(drawn)), ["of the tests"])
    assert (recipe["model"], recipe["seed"]) == ("tiny-qwen", 7)


async def test_a_reference_picture_is_fetched_and_drawn_from(server: Server, tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.new("RGB", (96, 96), "teal").save(file, "PNG")

    async def answer(request: Any) -> Response:
        return Response(file.getvalue())

    async with serve(Starlette(routes=[Route("/picture", answer)])) as store:
        source = {"url": f"{store}/picture", "sha256": hashlib.sha256(file.getvalue()).hexdigest()}
        async with server(tmp_path, origins=[store]) as gpu:
            asked: dict[str, Any] = {"model": "tiny-qwen", "num_inference_steps": 4, "strength": 0.0}
            call_id = await gpu.accepted(**asked, references=[{**source, "role": "init"}])
            call = await gpu.ended(call_id)
            assert call.status == "succeeded", call.error
            picture = (await gpu.http.get(f"/calls/{call_id}/images/0")).content
            profiled = await gpu.send(
                {
                    "key": new_key(),
                    "task": "profile",
                    "request": {"model": "tiny-qwen", "image": {**source, "sha256": source["sha256"]}},
                }
            )
            profile = await gpu.ended(profiled.json()["call_id"])
    red, green, blue = Image.open(io.BytesIO(picture)).convert("RGB").resize((1, 1)).getpixel((0, 0))
    assert red < 80 and green > 80 and blue > 80, "strength 0 keeps the picture"
    assert profile.result and profile.result.task == "profile" and profile.result.color_palette


async def test_a_language_task_is_answered(gpu: Client) -> None:
    request = {"model": "instant", "prompt": "a fox"}
    answer = await gpu.send({"key": new_key(), "task": "enhance", "request": request})
    call = await gpu.ended(answer.json()["call_id"])
    assert call.result and call.result.task == "enhance" and "a fox" in call.result.prompt
    refused(await gpu.http.get(f"/calls/{call.call_id}/images/0"), 404, "picture_unknown")


async def test_the_end_is_announced_once_signed_and_is_the_call(
    server: Server, tmp_path: Path, gateway: Gateway, callback: Callback
) -> None:
    gateway.answers, gateway.picky = [503], "call.succeeded"
    async with server(tmp_path, callback=callback) as gpu:
        call = await gpu.ended(await gpu.accepted())
        await gateway.until(lambda: len(gateway.events("succeeded")) == 2)
        await asyncio.sleep(0.1)
    for headers, body in gateway.received:
        Webhook(SECRET).verify(body.decode(), headers)
    (event, repeated) = gateway.events("succeeded")
    assert event == repeated and event.call == call
    ends = [headers["webhook-id"] for headers, body in gateway.received if b"call.succeeded" in body]
    assert len(ends) == 2 and len(set(ends)) == 1


@pytest.mark.usefixtures("slow")
async def test_a_cancel_is_announced_as_a_failure(
    server: Server, tmp_path: Path, gateway: Gateway, callback: Callback
) -> None:
    async with server(tmp_path, callback=callback) as gpu:
        call_id = await gpu.accepted()
        await gpu.until(call_id, lambda call: call.stage == "generating")
        await cancel(gpu, call_id)
        await gateway.until(lambda: bool(gateway.events("failed")))
    (event,) = gateway.events("failed")
    assert (event.call.call_id, event.call.status) == (call_id, "canceled")


async def test_progress_is_told_with_numbers_that_grow(
    server: Server, tmp_path: Path, gateway: Gateway, callback: Callback, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INSTANT_SECONDS", "2.5")
    async with server(tmp_path, callback=callback) as gpu:
        await gpu.ended(await gpu.accepted(num_inference_steps=50))
        await gateway.until(lambda: bool(gateway.events("succeeded")))
    numbers = [event.seq for event in gateway.events()]
    assert len(numbers) >= 2 and numbers == sorted(set(numbers))
    assert all(event.call.result is None for event in gateway.events("progress"))


async def test_the_models_and_the_price_row_are_told(gpu: Client) -> None:
    told = (await gpu.http.get("/models")).json()
    assert told["models"] == list(MODELS) and told["gpu"] == "cpu" and "image" in told["tasks"]


async def test_unknown_fields_are_ignored_so_that_versions_can_mix(gpu: Client) -> None:
    request = {**image_request(model="instant").model_dump(), "of_tomorrow": 1}
    answer = await gpu.send({"schema": 2, "key": new_key(), "task": "image", "request": request, "later": 1})
    assert answer.status_code == 202
