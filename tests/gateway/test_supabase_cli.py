"""Supabase's own CLI agrees with us; run where `supabase` is on the path."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import psycopg
import pytest
from psycopg import sql

from gateway.embedded import SHIM, EmbeddedPostgres
from gateway.migrate import FOLDER, migrate

CLI = shutil.which("supabase")
VERSIONS = [path.name[:14] for path in sorted(FOLDER.glob("*.sql"))]
OFF_THE_RECORD = {"SUPABASE_TELEMETRY_DISABLED": "1", "DO_NOT_TRACK": "1"}

pytestmark = pytest.mark.skipif(CLI is None, reason="Supabase's CLI is not on the path")


@pytest.fixture
def port(postgres: EmbeddedPostgres) -> Iterator[int]:
    """A TCP port that leads to the embedded server's socket, which the CLI cannot open itself."""
    folder = parse_qs(urlsplit(postgres.admin_url).query)["host"][0]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_relay, args=(listener, f"{folder}/.s.PGSQL.5432"), daemon=True).start()
        yield listener.getsockname()[1]


def _relay(listener: socket.socket, path: str) -> None:
    with contextlib.suppress(OSError):  # the listener is closed at the end
        while True:
            client, _ = listener.accept()
            server = socket.socket(socket.AF_UNIX)
            server.connect(path)
            for ends in ((client, server), (server, client)):
                threading.Thread(target=_copy, args=ends, daemon=True).start()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


@pytest.fixture
def supabase(port: int, tmp_path: Path) -> Callable[..., Any]:
    """Runs a command against a database of the embedded server; returns what it prints as JSON."""
    shutil.copytree(FOLDER.parent, tmp_path / "supabase")
    environment = {**os.environ, **OFF_THE_RECORD, "HOME": str(tmp_path)}

    def run(admin_url: str, *command: str) -> Any:
        database = urlsplit(admin_url).path
        url = f"postgresql://postgres:none@127.0.0.1:{port}{database}?sslmode=disable"
        done = subprocess.run(
            [str(CLI), *command, f"--remote={url}", "--output-format", "json", "--workdir", str(tmp_path)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "deprecated" not in done.stderr
        return json.loads(done.stdout)

    return run


def test_the_cli_lists_what_our_migrator_applied(admin_url: str, supabase: Callable[..., Any]) -> None:
    listed = supabase(admin_url, "migration", "list")["migrations"]
    assert [(row["local"], row["remote"]) for row in listed] == [(stamp, stamp) for stamp in VERSIONS]


def test_our_migrator_finds_done_what_the_cli_pushed(
    postgres: EmbeddedPostgres, supabase: Callable[..., Any]
) -> None:
    empty = "pushed_by_the_cli"
    with psycopg.connect(postgres.admin_url, autocommit=True) as connection:
        connection.execute(sql.SQL("create database {} template template0").format(sql.Identifier(empty)))
    url = postgres.admin_url.replace("/postgres?", f"/{empty}?")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(SHIM.read_bytes())
    supabase(url, "db", "push", "--yes")
    assert migrate(url) == []


def test_the_advisors_find_nothing(admin_url: str, supabase: Callable[..., Any]) -> None:
    supabase(admin_url, "db", "advisors", "--level", "warn", "--fail-on", "warn")
