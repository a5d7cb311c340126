"""Bad input: each a problem with a stable code, and nothing written."""

import datetime
import json
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import httpx
import pytest
from standardwebhooks.webhooks import Webhook

from tests.support.stack import WEBHOOK_SECRET, Stack

HOOK = "/api/generate/webhook"


def jobs(product: Stack) -> int:
    return int(product.rows("select count(*) as n from public.generation_jobs")[0]["n"])


def assert_problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    assert problem["code"] == problem["error"]["code"] == code
    assert {"type", "title", "status", "detail", "instance", "request_id", "retryable"} <= problem.keys()
    assert problem["request_id"] == answer.headers["x-request-id"]
    return problem


@pytest.mark.parametrize("path", ["/v1/jobs", "/api/generate"])
async def test_a_prompt_that_is_too_long_is_told_in_characters(product: Stack, path: str) -> None:
    answer = await product.user.http.post(path, json={"prompt": "x" * 1501})
    assert answer.json()["detail"] == "prompt: String should have at most 1500 characters"


@pytest.mark.parametrize(
    ("body", "status", "code", "param"),
    [
        ({}, 422, "validation_failed", "prompt"),
        ({"prompt": ""}, 422, "validation_failed", "prompt"),
        ({"prompt": "  \n "}, 422, "validation_failed", "prompt"),
        ({"prompt": "a" * 5000}, 422, "validation_failed", "prompt"),
        ({"prompt": "a\x00b"}, 422, "validation_failed", "prompt"),
        ({"prompt": ["a"]}, 422, "validation_failed", "prompt"),
        ({"prompt": "a", "model": "nothing-known"}, 400, "unknown_model", "model"),
        ({"prompt": "a", "model": "tiny-qwen"}, 400, "model_unavailable", "model"),
        ({"prompt": "a", "style": "Cubism"}, 400, "unknown_style", "style"),
        ({"prompt": "a", "size": "huge"}, 422, "invalid_size", "size"),
        ({"prompt": "a", "size": "1000x1001"}, 422, "invalid_size", "size"),
        ({"prompt": "a", "size": "64x2048"}, 422, "invalid_size", "size"),
        ({"prompt": "a", "size": "²x²"}, 422, "invalid_size", "size"),
        ({"prompt": "a", "width": 100}, 422, "validation_failed", "width"),
        ({"prompt": "a", "height": 100_000}, 422, "validation_failed", "height"),
        ({"prompt": "a", "num_images": 0}, 422, "validation_failed", "num_images"),
        ({"prompt": "a", "num_images": 11}, 422, "validation_failed", "num_images"),
        ({"prompt": "a", "seed": -1}, 422, "validation_failed", "seed"),
        ({"prompt": "a", "seed": 2**64}, 422, "validation_failed", "seed"),
        ({"prompt": "a", "num_inference_steps": 0}, 422, "validation_failed", "num_inference_steps"),
        ({"prompt": "a", "loras": [{"lora": "x"}]}, 404, "not_found", "loras"),
        (
            {"prompt": "a", "model": "instant", "loras": [{"lora": "x"}]},
            *(400, "unsupported_parameter", "loras"),
        ),
        ({"prompt": "a", "references": [{"url": "x"}]}, 422, "validation_failed", None),
        ({"prompt": "a", "references": [{"image_id": "x"}]}, 422, "validation_failed", None),
        ({"prompt": "a", "references": [{"image_id": str(uuid4())}]}, 404, "not_found", "references"),
        ({"prompt": "a", "model": "tiny-qwen-edit"}, 400, "model_unavailable", "model"),
        (
            {"prompt": "a", "references": [{"image_id": str(uuid4()), "role": "style"}]},
            400,
            "unsupported_parameter",
            "references",
        ),
        ({"prompt": "a", "mask": {"image_id": str(uuid4())}}, 400, "unsupported_parameter", "mask"),
        ({"prompt": "a", "negative_prompt": "b"}, 400, "unsupported_parameter", "negative_prompt"),
        ({"prompt": "a", "strength": 0.5}, 400, "unsupported_parameter", "strength"),
        ({"prompt": "a", "prio": "low"}, 422, "validation_failed", "prio"),
        ({"prompt": "a", "metadata": {"k": {"nested": 1}}}, 422, "validation_failed", None),
        ({"prompt": "a", "metadata": {"k": "\x00"}}, 422, "validation_failed", None),
        ({"prompt": "a", "expires_in_seconds": 0}, 422, "validation_failed", "expires_in_seconds"),
    ],
    ids=lambda value: json.dumps(value)[:40] if isinstance(value, dict) else str(value),
)
@pytest.mark.parametrize("path", ["/v1/jobs", "/api/generate"])
async def test_a_bad_body_is_refused_by_name(
    product: Stack, path: str, body: dict[str, Any], status: int, code: str, param: str | None
) -> None:
    before = jobs(product)
    problem = assert_problem(await product.user.http.post(path, json=body), status, code)
    if param:
        assert problem["error"]["param"] == param
    assert jobs(product) == before


@pytest.mark.parametrize(
    ("content", "headers", "status", "code"),
    [
        (b"", {}, 422, "validation_failed"),
        (b"{", {"content-type": "application/json"}, 422, "invalid_json"),
        (b'"text"', {"content-type": "application/json"}, 422, "validation_failed"),
        (b'{"prompt": "\xff"}', {"content-type": "application/json"}, 422, "invalid_json"),
        (b'{"prompt": "\\ud800"}', {"content-type": "application/json"}, 422, "validation_failed"),
        (b'{"\\ud800": 1, "prompt": "a"}', {"content-type": "application/json"}, 422, "validation_failed"),
        (b"prompt=a", {"content-type": "application/x-www-form-urlencoded"}, 415, "unsupported_media_type"),
        (b'{"prompt": "a"}', {"content-type": "text/plain"}, 415, "unsupported_media_type"),
        (b'{"prompt": "a"}', {}, 415, "unsupported_media_type"),
        (b"x" * 2_000_000, {"content-type": "application/json"}, 413, "payload_too_large"),
    ],
)
async def test_a_body_that_is_no_small_json_is_refused(
    product: Stack, content: bytes, headers: dict[str, str], status: int, code: str
) -> None:
    before = jobs(product)
    assert_problem(await product.user.http.post("/v1/jobs", content=content, headers=headers), status, code)
    assert jobs(product) == before


async def test_a_body_that_hides_its_length_is_cut_off(product: Stack) -> None:
    async def endless() -> Any:
        for _ in range(2000):
            yield b" " * 1000

    headers = {"content-type": "application/json"}
    answer = await product.user.http.post("/v1/jobs", content=endless(), headers=headers)
    assert_problem(answer, 413, "payload_too_large")


@pytest.mark.parametrize(
    "method_and_path", ["POST /v1/jobs", "GET /v1/jobs", "POST /api/generate", "GET /v1/events"]
)
@pytest.mark.parametrize(
    "authorization", [None, "Bearer tk_wrong", "Basic dGs6", "Bearer", "tk_", "Bearer tk_\xe9"]
)
async def test_a_stranger_is_told_nothing_but_to_sign_in(
    product: Stack, method_and_path: str, authorization: str | None
) -> None:
    method, path = method_and_path.split()
    headers = {"authorization": authorization.encode("latin-1")} if authorization else {}
    async with httpx.AsyncClient(base_url=product.url) as http:
        answer = await http.request(method, path, headers=headers, content=b"not json")
    problem = assert_problem(answer, 401, "unauthenticated")
    assert problem["detail"] == "Authentication required"


async def test_a_key_without_the_scope_is_forbidden(product: Stack) -> None:
    reader = product.new_user(scopes=("read",))
    assert_problem(await reader.http.post("/v1/jobs", json={"prompt": "a"}), 403, "forbidden")
    writer = product.new_user(scopes=("generate",))
    assert_problem(await writer.http.get("/v1/jobs"), 403, "forbidden")


@pytest.mark.parametrize(
    "call", ["GET {}", "GET {}/calls", "GET {}/events", "POST {}/cancel", "POST {}/retry", "COMPAT"]
)
async def test_another_users_job_answers_like_one_that_does_not_exist(product: Stack, call: str) -> None:
    theirs = (await product.new_user().create(prompt="a", wait=20))["id"]

    async def ask(job_id: str) -> dict[str, Any]:
        method, path = (call if call != "COMPAT" else "GET {}").split()
        prefix = "/v1/jobs" if call != "COMPAT" else "/api/generate/status"
        answer = await product.user.http.request(method, path.format(f"{prefix}/{job_id}"))
        problem = assert_problem(answer, 404, "not_found")
        return json.loads(json.dumps({**problem, "request_id": ""}).replace(job_id, "ID"))  # type: ignore[no-any-return]

    assert await ask(theirs) == await ask(str(uuid4()))
    assert product.rows("select status::text from public.generation_jobs where id = %s", theirs) == [
        {"status": "completed"}
    ]


async def test_another_users_picture_is_not_there(product: Stack) -> None:
    job = await product.new_user().create(prompt="a", visibility="private", wait=20)
    image = job["images"][0]
    for path in ("", "/content", "/thumbnail"):
        assert_problem(await product.user.http.get(f"/v1/images/{image['id']}{path}"), 404, "not_found")
    assert_problem(await product.user.http.get(f"/images/{image['id']}.png"), 404, "not_found")


async def test_a_signed_address_cannot_be_turned_into_another(product: Stack) -> None:
    job = await product.user.create(prompt="a", visibility="private", wait=20)
    url = job["images"][0]["url"]
    async with httpx.AsyncClient() as stranger:
        assert (await stranger.get(url)).status_code == 200
        for wrong in (url.replace("1-1-0", "1-1-1"), url[:-1] + ("0" if url[-1] != "0" else "1")):
            assert_problem(await stranger.get(wrong), 404, "not_found")
        later = url.replace("expires=", "expires=9")
        assert_problem(await stranger.get(later), 404, "not_found")
        assert_problem(
            await stranger.get(url.split("?")[0] + "?expires=x&signature=é"), 422, "validation_failed"
        )


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/v1/nothing", 404, "not_found"),
        ("/v1/jobs/not-an-id", 422, "validation_failed"),
        ("/v1/jobs?limit=0", 422, "validation_failed"),
        ("/v1/jobs?limit=101", 422, "validation_failed"),
        ("/v1/jobs?status=odd", 422, "validation_failed"),
        ("/v1/jobs?model=a%00", 422, "validation_failed"),
        ("/v1/jobs?metadata.a=%00", 422, "validation_failed"),
    ],
)
async def test_a_bad_address_is_a_problem_too(product: Stack, path: str, status: int, code: str) -> None:
    assert_problem(await product.user.http.get(path), status, code)


async def test_a_wrong_method_and_a_wrong_event_id_are_problems(product: Stack) -> None:
    refused = await product.user.http.delete("/v1/jobs")
    assert_problem(refused, 405, "method_not_allowed")
    assert refused.headers["allow"] == "GET, POST"
    answer = await product.user.http.get("/v1/events", headers={"Last-Event-ID": "yesterday"})
    assert_problem(answer, 422, "invalid_last_event_id")


# Webhooks


def event(key: str, **call: Any) -> bytes:
    facts = {"call_id": "c", "key": key, "task": "image", "status": "failed", **call}
    return json.dumps({"schema": 1, "type": "call.failed", "seq": 1, "call": facts}).encode()


def signed(
    body: bytes, secret: str = WEBHOOK_SECRET, age_seconds: int = 0, name: str = "msg_1"
) -> dict[str, str]:
    at = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=age_seconds)
    signature = Webhook(secret).sign(name, at, body.decode("latin-1"))
    stamp = str(int(at.timestamp()))
    return {"webhook-id": name, "webhook-timestamp": stamp, "webhook-signature": signature}


BODY = event(f"{uuid4()}:1:1")


@pytest.mark.parametrize(
    ("body", "headers", "status", "code"),
    [
        (BODY, lambda: {}, 401, "bad_signature"),
        (BODY, lambda: signed(BODY, "whsec_" + "b3RoZXIgc2VjcmV0" * 2), 401, "bad_signature"),
        (BODY + b" ", lambda: signed(BODY), 401, "bad_signature"),
        (BODY, lambda: {**signed(BODY), "webhook-id": "msg_2"}, 401, "bad_signature"),
        (BODY, lambda: signed(BODY, age_seconds=360), 401, "bad_signature"),
        (BODY, lambda: signed(BODY, age_seconds=-360), 401, "bad_signature"),
        (BODY, lambda: {**signed(BODY), "webhook-timestamp": "soon"}, 401, "bad_signature"),
        (BODY, lambda: {**signed(BODY), "webhook-signature": "v1,%%%"}, 401, "bad_signature"),
        (BODY, lambda: {**signed(BODY), "webhook-signature": "nonsense"}, 401, "bad_signature"),
        (b"\xff\xfe", lambda: signed(BODY), 401, "bad_signature"),
        (b"x" * 30_000, lambda: signed(BODY), 413, "payload_too_large"),
        (b"{}", lambda: signed(b"{}"), 422, "validation_failed"),
        (b"not json", lambda: signed(b"not json"), 422, "validation_failed"),
        (event("not-a-key"), lambda: signed(event("not-a-key")), 422, "validation_failed"),
    ],
)
async def test_a_webhook_that_is_not_ours_is_refused(
    product: Stack, body: bytes, headers: Callable[[], dict[str, str]], status: int, code: str
) -> None:
    async with httpx.AsyncClient(base_url=product.url) as http:
        assert_problem(await http.post(HOOK, content=body, headers=headers()), status, code)
    assert not product.rows("select * from private.webhook_inbox where webhook_id = 'msg_2'")


async def test_a_webhook_for_an_unknown_job_is_kept_and_changes_nothing(product: Stack) -> None:
    body = event(f"{uuid4()}:1:1")
    async with httpx.AsyncClient(base_url=product.url) as http:
        for _ in range(2):
            answer = await http.post(HOOK, content=body, headers=signed(body, name="msg_unknown"))
            assert answer.status_code == 204
    kept = product.rows("select count(*) as n from private.webhook_inbox where webhook_id = 'msg_unknown'")
    assert kept == [{"n": 1}]


async def test_a_late_webhook_does_not_move_a_job_that_has_ended(product: Stack) -> None:
    job = await product.user.create(prompt="a", wait=20)
    body = event(f"{job['id']}:1:1", error={"code": "late", "message": "", "retryable": False})
    async with httpx.AsyncClient(base_url=product.url) as http:
        assert (await http.post(HOOK, content=body, headers=signed(body))).status_code == 204
    after = await product.user.job(job["id"])
    assert (after["status"], after["error"], after["cost"]) == ("completed", None, job["cost"])
