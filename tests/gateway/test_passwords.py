"""Passwords of the two logins, on a server that asks for them as a hosted one does."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from gateway.config import ConfigurationError, Settings, login_as
from gateway.doctor import examine
from gateway.doctor.subject import Subject
from gateway.embedded import EmbeddedPostgres
from gateway.migrate import set_passwords

SECRET = "p@ss/w%rd"
RULES = "local all postgres trust\nlocal all all scram-sha-256\n"


@pytest.fixture(scope="module")
def server(new_folder: Callable[[], Path]) -> Iterator[EmbeddedPostgres]:
    folder = new_folder()
    with EmbeddedPostgres(folder) as postgres:
        (folder / "postgres" / "pg_hba.conf").write_text(RULES)
        with psycopg.connect(postgres.admin_url, autocommit=True) as connection:
            connection.execute("alter system set log_statement = 'all'")
            connection.execute("select pg_reload_conf()")
        yield postgres


def login_url(server: EmbeddedPostgres, password: str) -> str:
    return server.database_url.replace("gateway:@", f"gateway:{password}@", 1)


def stored(server: EmbeddedPostgres) -> list[str]:
    """What the server keeps of both passwords."""
    with psycopg.connect(server.admin_url) as connection:
        rows = connection.execute(
            "select rolpassword from pg_authid where rolname like 'gateway%' order by rolname"
        )
        return [row[0] for row in rows]


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("tenkaigen")), *arguments]
    return subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=60, check=False
    )


def test_a_url_without_a_password_is_refused(server: EmbeddedPostgres) -> None:
    with pytest.raises(ConfigurationError, match="DATABASE_URL has no password"):
        set_passwords(server.admin_url, server.database_url)


def test_an_owner_that_the_database_does_not_take_is_one_clear_line() -> None:
    refused = run("migrate", DATABASE_ADMIN_URL="postgresql://postgres:hidden@127.0.0.1:1/postgres")
    assert refused.returncode == 1
    assert refused.stderr.startswith("tenkaigen: the database does not take its owner")
    assert "hidden" not in refused.stderr + refused.stdout
    assert "Traceback" not in refused.stderr


async def test_the_doctor_says_what_gives_the_logins_their_password(server: EmbeddedPostgres) -> None:
    settings = Settings(_env_file=None, database_url=login_url(server, "unknown"))
    (result,) = await examine(Subject("a test", settings=settings), ["database"])
    assert result.finding.verdict == "failed"
    assert "cannot log in" in result.finding.detail and "unknown" not in result.finding.detail
    assert "`tenkaigen migrate`" in result.finding.next_step


def test_migrating_gives_both_logins_the_password_and_says_it_nowhere(server: EmbeddedPostgres) -> None:
    url = login_url(server, "p%40ss%2Fw%25rd")
    first = run("migrate", DATABASE_ADMIN_URL=server.admin_url, DATABASE_URL=url)
    assert first.returncode == 0, first.stderr
    assert first.stdout.count("has the password of DATABASE_URL now") == 2
    for role in ("gateway", "gateway_service"):
        psycopg.connect(login_as(url, role)).close()
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(login_as(login_url(server, "another"), role))
    said = first.stdout + first.stderr + server.log.read_text()
    assert SECRET not in said and "p%40ss" not in said


def test_a_password_that_works_is_left_as_it_is(server: EmbeddedPostgres) -> None:
    url = login_url(server, "kept")
    assert set_passwords(server.admin_url, url) == ["gateway", "gateway_service"]
    before = stored(server)
    assert set_passwords(server.admin_url, url) == []
    assert stored(server) == before
