"""PgBouncer in transaction mode, as a hosted project puts it in front of Postgres."""

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import psycopg

from gateway import postgres
from tests.support.stack import free_port

PROGRAM = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
SERVER_CONNECTIONS = 3
"""Of each login: far fewer than the gateway has clients, so that every one of them changes hands."""
CONFIGURATION = """
[databases]
* = host={sockets}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = trust
auth_file = {folder}/users.txt
pool_mode = {mode}
default_pool_size = {size}
max_client_conn = 200
"""


@contextlib.contextmanager
def pooler(admin_url: str, folder: Path, mode: str = "transaction") -> Iterator[str]:
    """PgBouncer in front of the database; yields the URL of the login ``gateway`` through it."""
    assert PROGRAM is not None
    port, parts = free_port(), urlsplit(admin_url)
    sockets = parse_qs(parts.query)["host"][0]
    configuration = folder / "pgbouncer.ini"
    configuration.write_text(
        CONFIGURATION.format(sockets=sockets, port=port, folder=folder, mode=mode, size=SERVER_CONNECTIONS)
    )
    (folder / "users.txt").write_text('"gateway" ""\n"gateway_service" ""\n')
    url = f"postgresql://gateway@127.0.0.1:{port}{parts.path}"
    with (folder / "pgbouncer.log").open("wb") as log:
        process = subprocess.Popen(
            [*postgres._as_user(_owner()), PROGRAM, str(configuration)], stdout=log, stderr=log
        )
    try:
        _wait_until_it_answers(url, process, folder / "pgbouncer.log")
        yield url
    finally:
        process.terminate()
        process.wait(60)


def _owner() -> int:
    return os.geteuid() or postgres.NOBODY  # it refuses to run as root


def _wait_until_it_answers(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            psycopg.connect(url, connect_timeout=2).close()
            return
        except psycopg.OperationalError:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
