"""With nothing configured, nothing leaves the machine: no telemetry, no update check, no hub of models."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx

from tests.support.loopback import confined
from tests.support.stack import free_port
from tests.test_up import Up

LEAVES = "import socket; socket.socket().connect(('192.0.2.1', 443))"
LOOKS_UP = "import socket; socket.getaddrinfo('example.com', 443)"
PAGES = (
    "/",
    "/docs",
    "/openapi.json",
    "/readyz",
    "/metrics",
    "/v1/models",
    "/v1/styles",
    "/v1/usage",
    "/v1/loras",
)


def test_whoever_tries_to_leave_is_kept_and_written_down(tmp_path: Path) -> None:
    escapes = tmp_path / "escapes"
    for attempt in (LEAVES, LOOKS_UP):
        environment = {**os.environ, **confined(escapes)}
        tried = subprocess.run(
            [sys.executable, "-c", attempt], env=environment, check=False, capture_output=True
        )
        assert tried.returncode == 1
    assert [line.split(" by ")[0] for line in escapes.read_text().splitlines()] == [
        "socket.connect 192.0.2.1",
        "socket.getaddrinfo example.com",
    ]


def test_the_whole_product_draws_without_a_connection_outside(new_folder: Callable[[], Path]) -> None:
    folder = new_folder()
    up = Up(folder / "data", free_port(), **confined(folder / "escapes"))
    try:
        up.ready()
        with httpx.Client(base_url=up.url, headers={"Authorization": f"Bearer {up.key}"}, timeout=70) as http:
            drawn = http.post("/v1/jobs", json={"prompt": "a red fox"}, headers={"Prefer": "wait=60"})
            assert drawn.json()["status"] == "completed", drawn.text
            assert http.get(drawn.json()["images"][0]["url"]).headers["content-type"] == "image/png"
            for page in PAGES:
                assert http.get(page, follow_redirects=True).status_code == 200, page
    finally:
        up.stop()
    assert not (folder / "escapes").exists(), (folder / "escapes").read_text()
