"""``tenkaigen up``: the whole product on one machine, as production runs it.

This process owns Postgres and supervises two children, the GPU service and the gateway; one that dies is
started again.  Ctrl-C stops all three, and a child whose supervisor is killed ends by itself.
"""

import contextlib
import ctypes
import fcntl
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from urllib.parse import urlsplit

import httpx
from pydantic import SecretStr

from gateway import client
from gateway.auth import LOCAL_USER
from gateway.config import ConfigurationError, Settings
from gateway.embedded import EmbeddedPostgres, add_key, add_user

READY_SECONDS = 90.0
RESTART_SECONDS = 1.0
STOP_SECONDS = 12.0
FIRST_PROMPT = "a red round creature with a blue hat, front view, on a beach"
SCOPES = ["generate", "read", "admin"]
LOCK, STATE = "up.lock", "up.json"
"""Held while it runs; where it runs."""
PR_SET_PDEATHSIG = 1
"""<sys/prctl.h>"""


def run(data: Path, port: int) -> None:
    """Start everything, draw a first picture, tell where it is, and stay until Ctrl-C or SIGTERM."""
    for ending in (signal.SIGTERM, signal.SIGINT):  # a shell's background job would ignore SIGINT
        signal.signal(ending, _interrupt)
    data = _writable(data)
    with _only_one(data), _stopped_cleanly():
        _refuse_taken(port)
        with EmbeddedPostgres(data, alone=True) as postgres:
            key = _first_key(data, postgres.admin_url)
            running = Running(f"http://127.0.0.1:{port}", f"http://127.0.0.1:{_free_port()}")
            _write_private(data / STATE, json.dumps(asdict(running)))
            children = _children(data, running, postgres)
            try:
                url = running.url
                _wait_until_ready(url, children)
                _welcome(url, key, data)
                _supervise(children)
            finally:
                _stop(children)


@dataclass(frozen=True)
class Running:
    """Where the two children answer."""

    url: str
    gpu_url: str


def running(data: Path) -> Running | None:
    """What ``tenkaigen up`` runs on a folder now, if it does."""
    try:
        with (data / LOCK).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        with contextlib.suppress(OSError):
            return Running(**json.loads((data / STATE).read_text()))
    except OSError:
        pass
    return None


def dev_key(data: Path) -> str:
    """The key that ``tenkaigen up`` made; ConfigurationError when there is none."""
    try:
        return (data / "dev-key").read_text().strip()
    except OSError:
        raise ConfigurationError(
            f"no key: {data / 'dev-key'} is missing. Run `make up`, or pass --key."
        ) from None


@contextlib.contextmanager
def admin_url(data: Path) -> Iterator[str]:
    """The database as its owner: DATABASE_ADMIN_URL, or the embedded server, started if need be."""
    named = os.environ.get("DATABASE_ADMIN_URL", "")
    if named:
        yield named
        return
    with EmbeddedPostgres(_writable(data)) as postgres:
        yield postgres.admin_url


@contextlib.contextmanager
def settings(data: Path) -> Iterator[Settings]:
    """Those of the environment; with the embedded server, started if need be, where they name no database."""
    found = Settings(data=data)
    if found.database_url.get_secret_value():
        yield found
        return
    with EmbeddedPostgres(_writable(data)) as postgres:
        yield found.model_copy(update={"database_url": SecretStr(postgres.database_url)})


class Child:
    """One supervised process; its output goes to a log file."""

    def __init__(self, name: str, command: list[str], environment: dict[str, str], log: Path) -> None:
        self.name = name
        self._command = command
        self._environment = environment
        self.log = log
        self.start()

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command,
                env=self._environment,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C reaches the supervisor alone, which stops the rest in order
                preexec_fn=_end_with_parent,  # noqa: PLW1509 - this process has no threads when it starts them
            )
        self._started = time.monotonic()

    def revive(self) -> None:
        """Start again if it has died, at most once a second."""
        if self.process.poll() is not None and time.monotonic() - self._started > RESTART_SECONDS:
            print(f"{self.name} ended with {self.process.returncode}; starting it again (see {self.log})")
            self.start()


def _writable(data: Path) -> Path:
    try:
        data.mkdir(parents=True, exist_ok=True)
        probe = data / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ConfigurationError(
            f"the data folder {data} cannot be written to ({error.strerror}). Choose another with DATA=."
        ) from error
    return data.resolve()


@contextlib.contextmanager
def _only_one(data: Path) -> Iterator[None]:
    """A lock that the kernel drops with the process, however it ends."""
    with (data / LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigurationError(
                f"another `tenkaigen up` runs on {data}. Stop it first, or choose another folder with DATA=."
            ) from None
        yield


@contextlib.contextmanager
def _stopped_cleanly() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        print("Stopped.")


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _refuse_taken(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            raise ConfigurationError(f"port {port} is taken. Choose another with PORT=.") from None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _first_key(data: Path, admin: str) -> str:
    """The key of the local user, made at the first start and kept for its owner's eyes only."""
    path = data / "dev-key"
    if path.exists():
        return path.read_text().strip()
    _, key = add_key(admin, LOCAL_USER, SCOPES)
    _write_private(path, key + "\n")
    return key


def shared_secrets(data: Path) -> dict[str, str]:
    """Secrets that the two children share; one that is missing is made."""
    path = data / "secrets.json"
    kept = json.loads(path.read_text()) if path.exists() else {}
    made = {
        "WEBHOOK_SECRET": "whsec_" + b64encode(secrets.token_bytes(32)).decode(),
        "GPU_TOKEN": secrets.token_urlsafe(32),
        "URL_SIGNING_KEY": secrets.token_urlsafe(32),
        "RECIPE_SECRET": secrets.token_urlsafe(32),
    }
    if made.keys() - kept.keys():
        kept = made | kept
        _write_private(path, json.dumps(kept))
    return dict(kept)


def recipe_secrets(data: Path) -> list[str]:
    """With which the pictures of `tenkaigen up` are sealed; empty where it never ran."""
    try:
        return [json.loads((data / "secrets.json").read_text())["RECIPE_SECRET"]]
    except (OSError, ValueError, KeyError):
        return []


def _write_private(path: Path, text: str) -> None:
    part = path.with_suffix(".part")
    part.unlink(missing_ok=True)
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    part.replace(path)


def _children(data: Path, running: Running, postgres: EmbeddedPostgres) -> list[Child]:
    port = str(urlsplit(running.url).port)
    shared = {**os.environ, **shared_secrets(data), "DATA": str(data), "PORT": port}
    gpu = {
        **shared,
        "GPU_PORT": str(urlsplit(running.gpu_url).port),
        "GPU_DATA": str(data / "gpu"),
        "TENKAIGEN_WEBHOOK_URL": f"{running.url}/api/generate/webhook",
        "GPU_ORIGINS": os.environ.get("SITE_URL") or running.url,
        "TENKAIGEN_WEBHOOK_SECRET": shared["WEBHOOK_SECRET"],
        "GPU_PRELOAD": os.environ.get("GPU_PRELOAD", "tiny-qwen"),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
    }
    gateway = {
        **shared,
        "DATABASE_URL": postgres.database_url,
        "LOCAL_USER_ID": str(add_user(postgres.admin_url, LOCAL_USER)),
        "MODAL_GENERATE_ENDPOINT": running.gpu_url,
        **_unlimited(),
    }
    logs = data / "logs"
    logs.mkdir(exist_ok=True)
    return [
        Child("The GPU service", [sys.executable, "-m", "modal_app.local"], gpu, logs / "gpu.log"),
        Child("The gateway", [sys.executable, "-m", "gateway"], gateway, logs / "gateway.log"),
    ]


def _unlimited() -> dict[str, str]:
    """Whoever sits at the machine asks as often as they like, unless they have set a limit themselves."""
    names = [name for name in Settings.model_fields if name.startswith("rate_limit_")]
    return {name.upper(): "0" for name in names if name not in Settings().model_fields_set}


def _wait_until_ready(url: str, children: list[Child]) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        for child in children:
            if child.process.poll() is not None:
                raise ConfigurationError(f"{child.name.lower()} did not start; {child.log} says why.")
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"{url}/readyz", timeout=5).status_code == 200:
                return
        time.sleep(0.1)
    raise ConfigurationError(
        f"not ready after {READY_SECONDS:.0f} s; the logs in {children[0].log.parent} say why."
    )


def _welcome(url: str, key: str, data: Path) -> None:
    picture = data / "first.png"
    job = client.generate(url, key, {"prompt": FIRST_PROMPT, "size": "512x512", "seed": 7}, picture)
    print(
        f"""
  picture  {picture}
           {job["images"][0]["url"]}
  page     {url}/
  API key  {key}

  curl -s {url}/v1/jobs -H 'Authorization: Bearer {key}' \\
    -H 'Content-Type: application/json' -H 'Prefer: wait=30' \\
    -d '{{"prompt": "a yellow pointy creature at night"}}'

Ctrl-C stops everything.""",
        flush=True,
    )


def _supervise(children: list[Child]) -> None:
    while True:
        time.sleep(0.5)
        for child in children:
            child.revive()


def _end_with_parent() -> None:
    """Runs in the child before its program: SIGTERM when the supervisor dies, however it dies (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _stop(children: list[Child]) -> None:
    for child in children:
        if child.process.poll() is None:
            child.process.terminate()
    deadline = time.monotonic() + STOP_SECONDS
    for child in children:
        try:
            child.process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            child.process.kill()
            child.process.wait()
