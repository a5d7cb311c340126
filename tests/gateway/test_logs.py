"""What the log says of a job: a JSON object a step, with what ties it to the rest."""

import json
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

from tests.support.stack import Stack, User, free_port, gateway_process

PROMPT = "a dragon that nobody may read about"


async def test_every_step_of_a_job_is_a_line_with_its_ids(
    product: Stack, admin_url: str, new_folder: Callable[[], Path]
) -> None:
    """The GPU service's webhook goes to another gateway, so this one has to ask."""
    folder, port = new_folder(), free_port()
    gpu_url = product.gpu._health_url.removesuffix("/healthz")
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
    assert [line["step"] for line in steps] == ["dispatch", "ask", "settle"]
    assert {line["job_id"] for line in steps} == {job["id"]}
    assert {line["trace_id"] for line in steps} == {UUID(job["id"]).hex}
    assert [bool(line["call_id"]) for line in steps] == [False, True, True]
    assert all(line["key"] == f"{job['id']}:1:1" and line["timestamp"] and line["level"] for line in steps)
    assert PROMPT not in text and user.key not in text
