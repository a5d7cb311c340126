"""The front door: every refusal first, then what it lets through."""

import asyncio
import hashlib
import io
from typing import Any

import httpx
import pytest
from PIL import Image

from modal_app import contract
from modal_app.service import BODY_LIMIT_BYTES
from tests.modal_app.conftest import Client, image_request, new_key, service

UNKNOWN = "00000000-0000-5000-8000-000000000000"


def refused(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = dict(answer.json())
    assert problem.keys() >= {"type", "title", "status", "detail", "code"}
    assert (problem["status"], problem["code"]) == (status, code)
    return problem


@pytest.mark.parametrize(
    "shown", [None, "", "Bearer", "Bearer wrong", "Basic token-of-the-tests", "Bearer tökén"]
)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/calls"),
        ("GET", f"/calls/{UNKNOWN}"),
        ("DELETE", f"/calls/{UNKNOWN}"),
        ("GET", f"/calls/{UNKNOWN}/images/0"),
        ("GET", "/models"),
        ("GET", "/no/such/path"),
    ],
)
async def test_nobody_enters_without_the_token(
    gpu: Client, method: str, path: str, shown: str | None
) -> None:
    del gpu.http.headers["Authorization"]
    headers = {} if shown is None else {"Authorization": shown.encode()}
    refused(await gpu.http.request(method, path, headers=headers), 401, "unauthenticated")


async def test_health_is_open(gpu: Client) -> None:
    del gpu.http.headers["Authorization"]
    assert (await gpu.http.get("/healthz")).status_code == 200


async def test_a_body_that_is_no_json_is_refused(gpu: Client) -> None:
    for content in (b"", b"{", b"[]", b'"text"', b"\xff\xfe"):
        refused(await gpu.http.post("/calls", content=content), 422, "validation_failed")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("width", 8),
        ("height", 5000),
        ("seed", -1),
        ("seed", 2**63),
        ("num_images", 0),
        ("num_images", 11),
        ("num_inference_steps", 0),
        ("num_inference_steps", None),
        ("true_cfg_scale", "much"),
        ("output_format", "gif"),
        ("output_compression", 101),
        ("prompt", None),
    ],
)
async def test_a_malformed_field_is_pointed_at_without_repeating_it(
    gpu: Client, field: str, value: Any
) -> None:
    request = {**image_request(model="instant", prompt="secret words").model_dump(), field: value}
    answer = await gpu.send({"key": new_key(), "task": "image", "request": request})
    problem = refused(answer, 422, "validation_failed")
    assert problem["errors"][0]["pointer"] == f"/request/{field}"
    assert "secret words" not in answer.text


@pytest.mark.parametrize(
    "key", ["", "x", UNKNOWN, f"{UNKNOWN}:0", f"{UNKNOWN}:0:1\n", f"{UNKNOWN}:0:99999", None]
)
async def test_a_key_of_another_form_is_refused(gpu: Client, key: str | None) -> None:
    answer = await gpu.send({"key": key, "task": "image", "request": image_request().model_dump()})
    assert refused(answer, 422, "validation_failed")["errors"][0]["pointer"] == "/key"


async def test_a_task_that_this_service_does_not_run_is_refused(gpu: Client) -> None:
    refused(await gpu.submit(task="dance"), 400, "unsupported_task")


async def test_an_unknown_model_is_refused(gpu: Client) -> None:
    refused(await gpu.submit(model="dall-e-9"), 400, "unknown_model")


async def test_a_model_of_the_catalog_that_is_not_served_here_is_refused(tmp_path: Any) -> None:
    async with service(tmp_path, models=["instant"]) as gpu:
        refused(await gpu.submit(model="tiny-qwen"), 400, "model_unavailable")


async def test_a_parameter_that_the_model_does_not_support_is_named(gpu: Client) -> None:
    problem = refused(await gpu.submit(negative_prompt="fog"), 400, "unsupported_parameter")
    assert "negative_prompt" in problem["detail"]
    assert problem["errors"][0]["pointer"] == "/request/negative_prompt"


async def test_a_body_over_a_megabyte_is_refused_announced_or_not(gpu: Client) -> None:
    content = b"x" * (BODY_LIMIT_BYTES + 1)

    async def unannounced() -> Any:
        yield content

    refused(await gpu.http.post("/calls", content=content), 413, "payload_too_large")
    refused(await gpu.http.post("/calls", content=unannounced()), 413, "payload_too_large")


@pytest.mark.parametrize("call_id", [UNKNOWN, "x", "..", "%2e%2e", "%00", "calls", UNKNOWN.upper()])
async def test_an_unknown_call_is_not_found(gpu: Client, call_id: str) -> None:
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/images/0")):
        answer = await gpu.http.request(method, f"/calls/{call_id}{path}")
        assert answer.status_code == 404, answer.text
        assert answer.json()["code"] in ("call_unknown", "not_found")


async def test_another_method_is_refused(gpu: Client) -> None:
    refused(await gpu.http.put("/calls"), 405, "method_not_allowed")


async def test_pictures_of_a_call_that_has_not_ended_are_a_conflict(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INSTANT_SECONDS", "5")
    async with service(tmp_path) as gpu:
        call_id = await gpu.accepted()
        refused(await gpu.http.get(f"/calls/{call_id}/images/0"), 409, "call_not_ended")


async def test_a_picture_that_the_call_does_not_have_is_not_found(gpu: Client) -> None:
    call_id = await gpu.accepted()
    await gpu.ended(call_id)
    refused(await gpu.http.get(f"/calls/{call_id}/images/1"), 404, "picture_unknown")
    assert (await gpu.http.get(f"/calls/{call_id}/images/call.json")).status_code == 404


async def test_a_full_queue_refuses_and_says_when_to_come_back(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INSTANT_SECONDS", "5")
    async with service(tmp_path, queue_limit=2) as gpu:
        await gpu.running(await gpu.accepted())
        waiting = [new_key(), new_key()]
        for key in waiting:
            await gpu.accepted(key)
        answer = await gpu.submit()
        refused(answer, 503, "queue_full")
        assert int(answer.headers["Retry-After"]) >= 1
        assert await gpu.accepted(waiting[0])  # one that is already in is told so, full or not


async def test_a_call_goes_from_queued_to_pictures(gpu: Client) -> None:
    answer = await gpu.submit(num_images=2, width=64, height=48, output_format="webp")
    assert answer.status_code == 202
    contract.CallAccepted.model_validate_json(answer.content)
    call = await gpu.ended(answer.json()["call_id"])
    assert (call.status, call.stage, call.step, call.steps, call.gpu) == ("succeeded", None, 2, 2, "cpu")
    assert call.result and call.timing.gpu_seconds > 0 and call.fingerprint["model"] == "instant"
    for info in call.result.images:
        picture = await gpu.http.get(f"/calls/{call.call_id}/images/{info.n}")
        assert hashlib.sha256(picture.content).hexdigest() == info.sha256
        assert picture.headers["ETag"] == f'"{info.sha256}"'
        assert (len(picture.content), picture.headers["content-type"]) == (info.bytes, "image/webp")
        assert Image.open(io.BytesIO(picture.content)).size == (info.width, info.height) == (64, 48)
    assert [info.seed for info in call.result.images] == [7, 8]


async def test_a_picture_that_the_caller_has_is_not_sent_again(gpu: Client) -> None:
    call_id = await gpu.accepted()
    await gpu.ended(call_id)
    etag = (await gpu.http.get(f"/calls/{call_id}/images/0")).headers["ETag"]
    for known in (etag, f'"other", {etag}', f"W/{etag}", "*"):
        answer = await gpu.http.get(f"/calls/{call_id}/images/0", headers={"If-None-Match": known})
        assert (answer.status_code, answer.content, answer.headers["ETag"]) == (304, b"", etag)
    changed = await gpu.http.get(f"/calls/{call_id}/images/0", headers={"If-None-Match": '"other"'})
    assert changed.status_code == 200


async def test_twenty_requests_with_one_key_are_one_call(gpu: Client) -> None:
    key = new_key()
    ids = await asyncio.gather(*(gpu.accepted(key, seed=n) for n in range(20)))
    assert len(set(ids)) == 1
    call = await gpu.ended(ids[0])
    assert call.result and call.result.images[0].seed == 0  # the first one counts
    assert await gpu.accepted(key) == ids[0]


async def test_the_models_and_the_price_row_are_told(gpu: Client) -> None:
    told = (await gpu.http.get("/models")).json()
    assert set(told.pop("warm")) <= set(told["models"])  # those that the tests before this one have used
    assert told == {
        "models": ["instant", "tiny-qwen", "tiny-qwen-edit"],
        "gpu": "cpu",
        "tasks": ["image", "upscale", "enhance", "parse", "profile", "judge"],
    }


async def test_unknown_fields_are_ignored_so_that_versions_can_mix(gpu: Client) -> None:
    request = {**image_request(model="instant").model_dump(), "of_tomorrow": 1}
    answer = await gpu.send({"schema": 2, "key": new_key(), "task": "image", "request": request, "later": 1})
    assert answer.status_code == 202
