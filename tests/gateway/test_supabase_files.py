"""What stands in supabase/ for those who have its CLI: seed, database tests, settings."""

import re
import tomllib
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from gateway.config import Settings
from gateway.migrate import FOLDER
from tests.support.stack import ROOT

SUPABASE = ROOT / "supabase"
PGTAP = ROOT / "tests" / "support" / "pgtap.sql"
DATABASE_TESTS = sorted((SUPABASE / "tests" / "database").glob("*.test.sql"))


def test_the_seed_applies_and_a_second_time_changes_nothing(admin_url: str) -> None:
    with psycopg.connect(admin_url, autocommit=True) as connection:
        counts = []
        for _ in range(2):
            connection.execute((SUPABASE / "seed.sql").read_bytes())
            counts.append([_count(connection, f"public.{name}") for name in SEEDED])
    assert counts == [list(SEEDED.values())] * 2


SEEDED = {
    "profiles": 2,
    "prompt_templates": 1,
    "comic_projects": 1,
    "project_members": 2,
    "comic_chapters": 1,
    "comic_panels": 1,
    "characters": 1,
    "character_profiles": 1,
    "panel_characters": 1,
}

AUTH_SERVER = """
alter table auth.users add instance_id uuid, add encrypted_password text,
  add email_confirmed_at timestamptz, add confirmation_token text, add recovery_token text,
  add email_change text, add email_change_token_new text;
create table auth.identities (id uuid primary key, user_id uuid not null, provider_id text not null,
  provider text not null, identity_data jsonb not null, unique (provider_id, provider));
create function extensions.gen_salt(kind text) returns text language sql
  as 'select ''salt of '' || kind';
create function extensions.crypt(password text, salt text) returns text language sql
  as 'select password || '', '' || salt';
"""


def test_the_seeds_users_can_sign_in_where_there_is_an_auth_server(admin_url: str) -> None:
    with psycopg.connect(admin_url, autocommit=True) as connection:
        connection.execute(AUTH_SERVER)
        for _ in range(2):
            connection.execute((SUPABASE / "seed.sql").read_bytes())
        rows = connection.execute(
            """select encrypted_password, confirmation_token, email_confirmed_at <= now(),
                 i.provider_id = u.id::text
               from auth.users u join auth.identities i on i.user_id = u.id"""
        ).fetchall()
    assert rows == [("tenkaigen-dev, salt of bf", "", True, True)] * 2


@pytest.mark.parametrize("path", DATABASE_TESTS, ids=lambda path: path.name)
def test_the_database_tests_pass(admin_url: str, path: Path) -> None:
    """With pgTAP where the server has it, and else with a stand-in for the functions that they use."""
    with psycopg.connect(admin_url, autocommit=True) as connection:
        text = path.read_text()
        if not _count(connection, "pg_available_extensions where name = 'pgtap'"):
            connection.execute(PGTAP.read_bytes())
            text = re.sub("create extension .*?;", "", text)
        connection.execute("set search_path = public, extensions")
        lines = _lines(connection, text)
    assert lines[0] == f"1..{len(lines) - 1}"
    assert [line for line in lines[1:] if not line.startswith("ok ")] == []


def test_a_failing_database_test_is_seen(admin_url: str) -> None:
    with psycopg.connect(admin_url, autocommit=True) as connection:
        connection.execute(PGTAP.read_bytes())
        connection.execute("set search_path = public, extensions")
        lines = _lines(
            connection,
            """begin; select plan(3); select is(1, 2, 'a'); select throws_ok('select 1', '42501', null, 'b');
               select * from finish(); rollback;""",
        )
    assert lines == [
        "1..3",
        "not ok 1 - a, found 1",
        "not ok 2 - b, found no error",
        "planned 3, done 2",
    ]


def _lines(connection: psycopg.Connection, text: str) -> list[str]:
    """What the statements of a script select, one text a line."""
    cursor = connection.execute(text.encode())
    lines: list[str] = []
    while True:
        if cursor.description:
            lines += [row[0] for row in cursor.fetchall()]
        if not cursor.nextset():
            return lines


def _count(connection: psycopg.Connection, source: str) -> int:
    row = connection.execute(f"select count(*) from {source}".encode()).fetchone()
    assert row is not None
    return int(row[0])


def test_the_settings_expose_nothing_private_and_fit_the_buckets(new_database: Callable[[], str]) -> None:
    config = tomllib.loads((SUPABASE / "config.toml").read_text())
    assert config["api"]["schemas"] == ["public"]
    assert config["db"]["major_version"] == 17
    assert config["auth"]["site_url"].endswith(f":{Settings.model_fields['port'].default}")
    with psycopg.connect(new_database()) as connection:
        row = connection.execute("select max(file_size_limit) >> 20 from storage.buckets").fetchone()
    assert row is not None
    assert config["storage"]["file_size_limit"] == f"{row[0]}MiB"
    assert all((SUPABASE / path).exists() for path in config["db"]["seed"]["sql_paths"])


def test_file_names_are_those_that_the_cli_reads() -> None:
    stamps = [re.fullmatch(r"([0-9]{14})_(.+)\.sql", path.name) for path in sorted(FOLDER.iterdir())]
    assert all(stamps)
    assert len({stamp[1] for stamp in stamps if stamp}) == len(stamps)
