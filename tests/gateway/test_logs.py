"""What the log says of a job: a JSON object a step, with what ties it to the rest."""

import asyncio
import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import httpx
import psycopg
import pytest
from fastapi import FastAPI
from pydantic import ValidationError

from gateway import logs
from gateway.jobs.schemas import JobCreate
from tests.support.stack import SIGNING_KEY, WEBHOOK_SECRET, Stack, User, free_port, gateway_process, serve

PROMPT = "a dragon that nobody may read about"


async def test_every_step_of_a_job_is_a_line_with_its_ids(
    product: Stack, admin_url: str, new_folder: Callable[[], Path]
) -> None:
    """The GPU service's webhook goes to another gateway, so this one has to ask."""
    folder, port = new_folder(), free_port()
    gpu_url = product.gpu.url
    settings = {"LOG_LEVEL": "info", "DEFAULT_MODEL": "instant", "WEBHOOK_PATIENCE_SECONDS": "0.3"}
    gateway = gateway_process(folder, port, admin_url, gpu_url, **settings)
    gateway.start()
    try:
        user = User(f"http://127.0.0.1:{port}", admin_url, "a@b.example", ["generate", "read"])
        job = await user.ended((await user.create(prompt=PROMPT))["id"])
    finally:
        gateway.stop()
    text = gateway._log.read_text()
    lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    steps = [line for line in lines if line["event"] == "job_step"]
    asked = ["ask"] * max(1, len(steps) - 2)  # as often as its time is up before the picture is drawn
    assert [line["step"] for line in steps] == ["dispatch", *asked, "settle"]
    assert {line["job_id"] for line in steps} == {job["id"]}
    assert {line["trace_id"] for line in steps} == {UUID(job["id"]).hex}
    assert [bool(line["call_id"]) for line in steps] == [False, *(True for _ in asked), True]
    assert all(line["key"] == f"{job['id']}:1:1" and line["timestamp"] and line["level"] for line in steps)
    assert PROMPT not in text and user.key not in text


MARK = "nobodymayreadthis"


async def provoke(user: User, receiver: str) -> None:
    """Requests that carry the mark wherever something private can stand, most of them in vain."""
    http, prompt = user.http, {"prompt": f"{MARK} in a prompt", "size": "64x64"}
    drawn = await user.create(wait=30, visibility="private", metadata={"a": MARK}, **prompt)
    await httpx.AsyncClient().get(drawn["images"][0]["url"])
    await httpx.AsyncClient().get(drawn["images"][0]["url"] + MARK)
    await http.post("/v1/jobs", json={**prompt, MARK: 1, "width": MARK})
    await http.post("/v1/jobs", content=f'{{"prompt": "{MARK}', headers={"Content-Type": "application/json"})
    await http.post("/v1/jobs", json={**prompt, "prompt": f"{MARK}\x00"})
    await http.post("/v1/jobs", json={**prompt, "model": MARK})
    await http.post("/v1/jobs", json={**prompt, "negative_prompt": MARK})
    secret = f"http://u:{MARK}@127.0.0.1:9/"
    await http.post("/v1/webhook-endpoints", json={"url": secret})
    for url in (f"http://127.0.0.1:9/{MARK}?sig={MARK}", f"{receiver}/{MARK}?sig={MARK}"):
        await http.post("/v1/jobs", json={**prompt, "references": [{"url": url}]})
        hook = await http.post("/v1/webhook-endpoints", json={"url": url, "description": MARK})
        assert hook.status_code == 201, hook.text
        await http.post(f"/v1/webhook-endpoints/{hook.json()['id']}/test")
    ticket = {"filename": f"{MARK}.png", "content_type": "image/png", "bytes": 3}
    upload = (await http.post("/v1/uploads", json=ticket)).json()
    await httpx.AsyncClient().put(upload["url"], content=b"abc", headers=upload["headers"])
    await http.post(f"/v1/uploads/{upload['upload_id']}/complete")
    await http.post("/v1/prompt-templates", json={"name": MARK, "text": f"{MARK} {{{{a}}}}"})
    await http.post("/v1/images/generations", json={**prompt, "user": MARK, "model": "instant"})
    await http.post("/v1/images/edits", data={"prompt": MARK}, files={"image": (MARK, MARK.encode())})
    await http.post("/v1/session", json={"email": f"{MARK}@example.com", "password": MARK})
    await http.get(f"/v1/{MARK}?token={MARK}")
    await http.get("/v1/jobs", headers={"Authorization": f"Bearer tk_{MARK}"})
    await http.get("/v1/jobs", headers={"Cookie": f"tenkaigen_session={MARK}", "Authorization": MARK})
    await http.get("/v1/jobs", params={"metadata.a": f"{MARK}\x00", "after": MARK})


async def test_nothing_private_is_logged_whatever_goes_wrong(
    product: Stack, admin_url: str, new_folder: Callable[[], Path]
) -> None:
    folder, port = new_folder(), free_port()
    gpu_url = product.gpu.url
    settings = {"LOG_LEVEL": "info", "DEFAULT_MODEL": "instant", "ALLOW_PRIVATE_URLS": "true"}
    gateway = gateway_process(
        folder, port, admin_url, gpu_url, **settings | {"WEBHOOK_PATIENCE_SECONDS": "0.3"}
    )
    gateway.start()
    receiver = FastAPI()
    receiver.post("/{path:path}", status_code=500)(lambda path: None)
    try:
        async with serve(receiver) as url:
            user = User(f"http://127.0.0.1:{port}", admin_url, f"{MARK}@b.example", ["generate", "read"])
            await provoke(user, url)
            async with asyncio.timeout(20):
                while gateway._log.read_text().count('"webhook_sent"') < 2:
                    await asyncio.sleep(0.1)
    finally:
        gateway.stop()
    text = gateway._log.read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert [line for line in lines if MARK in json.dumps(line)] == []
    for secret in (user.key, "signature=", WEBHOOK_SECRET, SIGNING_KEY, "whsec_"):
        assert secret not in text
    requests = [line for line in lines if line["event"] == "request"]
    assert len(requests) > 25
    for line in requests:
        assert {"request_id", "method", "route", "status", "ms", "timestamp"} <= line.keys()
        assert line["status"] < 500


@pytest.mark.parametrize(
    "error",
    [
        httpx.ConnectError(f"cannot reach https://a.example/b?signature={MARK}"),
        ValueError(f"Bearer {MARK}"),
        ValueError(f"key tk_{MARK} and whsec_{MARK} and {MARK}@example.com"),
        psycopg.OperationalError(f"no connection to postgresql://gateway:{MARK}@h/db"),
        ValueError(f"token eyJhbGciOi.{MARK}.c2ln"),
    ],
)
def test_a_traceback_is_told_without_what_looks_like_a_secret(error: Exception) -> None:
    said = formatted(error)
    assert MARK not in said
    assert type(error).__name__ in said and "test_logs.py" in said


def test_a_refused_row_is_told_by_its_constraint_and_not_by_its_values(admin_url: str) -> None:
    with psycopg.connect(admin_url) as connection, pytest.raises(psycopg.Error) as refused:
        connection.execute("create temporary table t (prompt text check (length(prompt) < 3))")
        connection.execute("insert into t values (%s)", [MARK])
    assert MARK in str(refused.value)
    said = formatted(RuntimeError("step broke"), refused.value)
    assert MARK not in said and "t_prompt_check" in said and "led to" in said


def test_a_value_that_does_not_fit_its_model_is_not_told() -> None:
    with pytest.raises(ValidationError) as refused:
        JobCreate.model_validate({"prompt": [MARK]})
    assert MARK not in formatted(refused.value)


def formatted(error: Exception, cause: Exception | None = None) -> str:
    """As a library's line about an error comes out."""
    try:
        raise error from cause
    except Exception:
        record = logging.LogRecord("lib", logging.ERROR, "f", 1, "it broke", None, sys.exc_info())
    line = logs.LINES.format(record)
    assert json.loads(line)["event"] == "it broke"
    return line
