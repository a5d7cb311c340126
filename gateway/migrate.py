"""Apply ``supabase/migrations`` in order, each file once and in one transaction.

Applied versions are kept in Supabase's own table, so ``supabase migration list`` agrees.
"""

from pathlib import Path

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from gateway.config import ConfigurationError, login_as

FOLDER = Path(__file__).parents[1] / "supabase" / "migrations"
LOCK = 4200
LOGINS = ("gateway", "gateway_service")

APPLIED = "select version from supabase_migrations.schema_migrations"
RECORD = "insert into supabase_migrations.schema_migrations (version, name, statements) values (%s, %s, %s)"
TABLE = """
create schema if not exists supabase_migrations;
create table if not exists supabase_migrations.schema_migrations (
  version text primary key, statements text[], name text
);
"""


def migrate(admin_url: str) -> list[str]:
    """Bring the database up to date as its owner; returns the names of the files applied now."""
    with _owner(admin_url) as connection:
        connection.execute("select pg_advisory_lock(%s)", (LOCK,))
        connection.execute(TABLE)
        known = {row[0] for row in connection.execute(APPLIED)}
        pending = [path for path in sorted(FOLDER.glob("*.sql")) if path.stem.partition("_")[0] not in known]
        for path in pending:
            _apply(connection, path)
    return [path.name for path in pending]


def set_passwords(admin_url: str, database_url: str) -> list[str]:
    """Give the two logins the password of ``database_url`` where they cannot log in with it yet.

    Returns the logins that were given it.  A login that works is left alone: a pooler may remember what the
    server keeps of a password, which is new each time.  ConfigurationError when the URL has no password.
    """
    refused = [role for role in LOGINS if not _logs_in(login_as(database_url, role))]
    password = str(conninfo_to_dict(database_url).get("password") or "")
    if refused and not password:
        raise ConfigurationError("DATABASE_URL has no password: choose one for the logins, and put it there.")
    with _owner(admin_url) as connection:
        for role in refused:
            _set_password(connection, role, password)
    return refused


def _owner(admin_url: str) -> psycopg.Connection:
    try:
        return psycopg.connect(admin_url, autocommit=True, connect_timeout=15, prepare_threshold=None)
    except psycopg.OperationalError as error:
        raise ConfigurationError(f"the database does not take its owner: {error}") from error


def _apply(connection: psycopg.Connection, path: Path) -> None:
    version, _, name = path.stem.partition("_")
    text = path.read_text()
    try:
        with connection.transaction():
            connection.execute(text.encode())
            connection.execute(RECORD, (version, name, [text]))
    except psycopg.Error as error:
        raise ConfigurationError(f"migration {path.name} failed and left nothing behind: {error}") from error


def _logs_in(database_url: str) -> bool:
    try:
        psycopg.connect(database_url, connect_timeout=5).close()
    except psycopg.OperationalError:
        return False
    return True


def _set_password(connection: psycopg.Connection, role: str, password: str) -> None:
    """Sent as SCRAM's verifier: a server that logs its statements does not log the password."""
    verifier = connection.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256")
    connection.execute(
        sql.SQL("alter role {} password {}").format(sql.Identifier(role), sql.Literal(verifier.decode()))
    )
