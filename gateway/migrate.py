"""Apply ``supabase/migrations`` in order, each file once and in one transaction.

Applied versions are kept in Supabase's own table, so ``supabase migration list`` agrees.
"""

from pathlib import Path

import psycopg
from psycopg import sql

from gateway.config import ConfigurationError

FOLDER = Path(__file__).parents[1] / "supabase" / "migrations"
LOCK = 4200

APPLIED = "select version from supabase_migrations.schema_migrations"
RECORD = "insert into supabase_migrations.schema_migrations (version, name, statements) values (%s, %s, %s)"
TABLE = """
create schema if not exists supabase_migrations;
create table if not exists supabase_migrations.schema_migrations (
  version text primary key, statements text[], name text
);
"""


def migrate(admin_url: str, *, password: str = "") -> list[str]:
    """Bring the database up to date as its owner; returns the names of the files applied now.

    ``password`` becomes that of both login roles; left out where sockets need none.
    """
    with psycopg.connect(admin_url, autocommit=True) as connection:
        connection.execute("select pg_advisory_lock(%s)", (LOCK,))
        connection.execute(TABLE)
        known = {row[0] for row in connection.execute(APPLIED)}
        pending = [path for path in sorted(FOLDER.glob("*.sql")) if path.stem.partition("_")[0] not in known]
        for path in pending:
            _apply(connection, path)
        if password:
            _set_passwords(connection, password)
    return [path.name for path in pending]


def _apply(connection: psycopg.Connection, path: Path) -> None:
    version, _, name = path.stem.partition("_")
    text = path.read_text()
    try:
        with connection.transaction():
            connection.execute(text.encode())
            connection.execute(RECORD, (version, name, [text]))
    except psycopg.Error as error:
        raise ConfigurationError(f"migration {path.name} failed and left nothing behind: {error}") from error


def _set_passwords(connection: psycopg.Connection, password: str) -> None:
    for role in ("gateway", "gateway_service"):
        connection.execute(
            sql.SQL("alter role {} password {}").format(sql.Identifier(role), sql.Literal(password))
        )
