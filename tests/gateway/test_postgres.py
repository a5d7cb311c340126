"""The server of the embedded default: who may use it, what a killed run leaves, where it can live."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from gateway import postgres
from gateway.config import ConfigurationError
from gateway.postgres import PostgresServer

ROOT = Path(__file__).parents[2]
HOLD = """
import sys, time
from pathlib import Path
from gateway.postgres import PostgresServer
with PostgresServer(Path(sys.argv[1])) as server:
    print(server.url, flush=True)
    time.sleep(600)
"""

Folder = Callable[[], Path]


def one(server: PostgresServer, sql: str) -> object:
    with psycopg.connect(server.url, autocommit=True) as connection:
        row = connection.execute(sql.encode()).fetchone() if sql.startswith("select") else None
        if row is None:
            connection.execute(sql.encode())
        return row and row[0]


def held(folder: Path) -> subprocess.Popen[str]:
    """A process that runs a server on the folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith("postgresql://")
    return process


def runs(pid: int) -> bool:
    """Whether the process does anything: one that ended may wait for its parent as a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_second_server_is_refused_where_one_must_be_alone(
    new_folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = new_folder() / "postgres"
    with PostgresServer(folder):
        monkeypatch.setattr(postgres, "START_SECONDS", 0.3)
        with pytest.raises(ConfigurationError, match="busy"), PostgresServer(folder, alone=True):
            pass
        with PostgresServer(folder, alone=False):
            pass


def test_a_broken_cluster_is_told_with_the_servers_own_words(new_folder: Folder) -> None:
    folder = new_folder() / "postgres"
    with PostgresServer(folder):
        pass
    (folder / "PG_VERSION").write_text("9.6\n")
    with pytest.raises(ConfigurationError, match=r"9\.6"), PostgresServer(folder):
        pass


def test_a_running_server_is_shared_and_outlives_who_shares_it(new_folder: Folder) -> None:
    folder = new_folder() / "postgres"
    with PostgresServer(folder) as owner:
        with PostgresServer(folder) as guest:
            assert one(guest, "select 1") == 1
        assert one(owner, "select 1") == 1


def test_nothing_is_left_when_it_stops(new_folder: Folder) -> None:
    folder = new_folder() / "postgres"
    with PostgresServer(folder) as server:
        pid = int((folder / "postmaster.pid").read_text().splitlines()[0])
        one(server, "create table kept (n int)")
    assert not runs(pid)
    assert not (folder / "postmaster.pid").exists()
    with PostgresServer(folder) as server:
        assert one(server, "select count(*) from kept") == 0


@pytest.mark.skipif(sys.platform != "linux", reason="a process is told of its parent's death on Linux only")
def test_it_ends_with_a_killed_owner_and_starts_again_at_once(new_folder: Folder) -> None:
    folder = new_folder() / "postgres"
    owner = held(folder)
    pid = int((folder / "postmaster.pid").read_text().splitlines()[0])
    owner.kill()
    owner.wait()
    with PostgresServer(folder, alone=True) as server:
        assert one(server, "select 1") == 1
        assert not runs(pid)


def test_a_killed_server_leaves_a_pid_file_that_stops_nobody(new_folder: Folder) -> None:
    folder = new_folder() / "postgres"
    owner = held(folder)
    os.kill(int((folder / "postmaster.pid").read_text().splitlines()[0]), signal.SIGKILL)
    owner.kill()
    owner.wait()
    pid_file = folder / "postmaster.pid"
    pid_file.write_text("\n".join([str(os.getpid()), *pid_file.read_text().splitlines()[1:]]))
    with PostgresServer(folder) as server:
        assert one(server, "select 1") == 1


def test_half_of_a_cluster_is_made_anew(new_folder: Folder) -> None:
    data = new_folder()
    (data / "postgres.part").mkdir()
    (data / "postgres.part" / "PG_VERSION").write_text("16\n")
    with PostgresServer(data / "postgres") as server:
        assert one(server, "select 1") == 1
    assert not (data / "postgres.part").exists()


def test_a_long_path_and_one_with_spaces_work(new_folder: Folder) -> None:
    for name in ("x" * 120, "with spaces & more"):
        folder = new_folder() / name / "postgres"
        folder.parent.mkdir()
        with PostgresServer(folder) as server:
            assert one(server, "select 1") == 1
            with PostgresServer(folder) as guest:
                assert one(guest, "select 1") == 1


def test_a_closed_folder_stays_closed_and_works_also_as_root(new_folder: Folder) -> None:
    closed = new_folder()
    closed.chmod(0o700)
    with PostgresServer(closed / "postgres") as server:
        assert one(server, "select 1") == 1
    assert closed.stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="only root needs another user for Postgres")
def test_programs_in_a_closed_folder_are_run_from_a_copy(
    new_folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = new_folder()
    programs.chmod(0o755)
    programs.parent.chmod(0o755)
    monkeypatch.setattr(postgres, "PROGRAMS", programs)
    monkeypatch.setattr(postgres, "_open_to_all", lambda program: False)
    with PostgresServer(new_folder() / "postgres") as server:
        assert one(server, "select 1") == 1
    assert len(list(programs.iterdir())) == 1
