"""The embedded default: Postgres of our own, dressed as a Supabase project."""

from contextlib import ExitStack
from pathlib import Path
from uuid import UUID

import psycopg
from psycopg.rows import DictRow, dict_row

from gateway.auth import key_sha256, new_key
from gateway.config import ConfigurationError
from gateway.migrate import migrate
from gateway.postgres import PostgresServer

SHIM = Path(__file__).with_name("supabase_shim.sql")

IS_SUPABASE = "select 1 from pg_roles where rolname = 'supabase_admin'"
FIND_USER = "select id from auth.users where lower(email) = lower(%(email)s) and deleted_at is null limit 1"
FIND_OR_ADD_USER = """
with added as (
  insert into auth.users (email) values (%(email)s) on conflict (email) do nothing returning id
)
select id from added union all select id from auth.users where email = %(email)s limit 1
"""
ADD_KEY = """
insert into public.api_keys (user_id, name, prefix, sha256, scopes) values (%s, %s, %s, %s, %s)
"""
FIND_KEYS = """
select k.id, u.email, k.name, k.prefix, k.scopes, k.created_at
from public.api_keys k join auth.users u on u.id = k.user_id
where k.revoked_at is null and (%(email)s = '' or lower(u.email) = lower(%(email)s))
order by k.created_at, k.id
"""
REVOKE_KEY = "update public.api_keys set revoked_at = now() where id = %s and revoked_at is null"


class EmbeddedPostgres:
    """A migrated database in ``folder``. ``with EmbeddedPostgres(folder) as postgres: ...``"""

    def __init__(self, folder: Path, *, alone: bool = False) -> None:
        self._server = PostgresServer(folder / "postgres", alone=alone)

    def __enter__(self) -> "EmbeddedPostgres":
        with ExitStack() as starting:
            starting.enter_context(self._server)
            with psycopg.connect(self.admin_url, autocommit=True) as connection:
                connection.execute(SHIM.read_bytes())
            migrate(self.admin_url)
            self._stack = starting.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    @property
    def log(self) -> Path:
        return self._server.log

    @property
    def admin_url(self) -> str:
        """For the owner, ``postgres``."""
        return self._server.url

    @property
    def database_url(self) -> str:
        """For the login ``gateway``."""
        return self.admin_url.replace("postgres:@", "gateway:@", 1)


def add_user(admin_url: str, email: str) -> UUID:
    """The id of a user, who is made if there is none.

    A Supabase project makes its users itself: there, ConfigurationError for one that it does not have.
    """
    with psycopg.connect(admin_url) as connection:
        row = connection.execute(FIND_USER, {"email": email}).fetchone()
        if row is None and connection.execute(IS_SUPABASE).fetchone():
            raise ConfigurationError(f"the Supabase project has no user {email}. Invite them there first.")
        row = row or connection.execute(FIND_OR_ADD_USER, {"email": email}).fetchone()
    assert row is not None
    return UUID(str(row[0]))


def add_key(admin_url: str, email: str, scopes: list[str], name: str = "") -> tuple[UUID, str]:
    """(user id, key): a new key for a user, who is made if there is none. The key is told only here."""
    key = new_key()
    user_id = add_user(admin_url, email)
    with psycopg.connect(admin_url) as connection:
        connection.execute(ADD_KEY, (user_id, name, key[:7], key_sha256(key), scopes))
    return user_id, key


def find_keys(admin_url: str, email: str = "") -> list[DictRow]:
    """Keys that work, of one user or of all, oldest first."""
    with psycopg.connect(admin_url, row_factory=dict_row) as connection:
        return connection.execute(FIND_KEYS, {"email": email}).fetchall()


def revoke_key(admin_url: str, key_id: UUID) -> None:
    """Gateways refuse the key within ten seconds; ConfigurationError when there is none to revoke."""
    with psycopg.connect(admin_url) as connection:
        if connection.execute(REVOKE_KEY, (key_id,)).rowcount == 0:
            raise ConfigurationError(f"no such key: {key_id}. `tenkaigen keys list` shows those that work.")
