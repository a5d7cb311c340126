"""The gateway's image, as far as a machine without Docker reaches: its files run by themselves."""

import contextlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from gateway.config import login_as
from tests.support.stack import free_port
from tests.test_architecture import HEAVY

ROOT = Path(__file__).parents[1]


def instructions() -> list[tuple[str, str]]:
    """(word, rest) of every instruction, continued lines joined."""
    text = re.sub(r"\\\n\s*", "", (ROOT / "Dockerfile").read_text())
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in lines]


def all_of(word: str) -> list[str]:
    return [rest for found, rest in instructions() if found == word]


def copied() -> list[tuple[str, str]]:
    """(source, target) of every file or folder that is copied."""
    pairs = []
    for line in all_of("COPY"):
        *sources, target = shlex.split(line)
        pairs += [(source, target) for source in sources]
    return pairs


def command(instruction: str) -> list[str]:
    """The argument list of CMD, or of the one inside HEALTHCHECK, with this interpreter."""
    words: list[str] = json.loads(instruction[instruction.index("[") :])
    assert words[0] == "python"
    return [sys.executable, *words[1:]]


def test_the_base_image_is_named_without_a_registry() -> None:
    (base,) = all_of("FROM")
    assert re.fullmatch(r"[a-z]+:[a-z0-9.-]+", base)
    version = tuple(int(part) for part in re.findall(r"\d+", base)[:2])
    assert version >= (3, 11)


def test_it_does_not_run_as_root() -> None:
    (user,) = all_of("USER")
    assert user not in ("root", "0")
    words = [word for word, _ in instructions()]
    assert words.index("USER") < words.index("CMD")


@pytest.mark.parametrize(("source", "target"), copied())
def test_what_is_copied_exists_and_is_let_through(source: str, target: str) -> None:
    assert (ROOT / source).exists()
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] not in ("#", "")]
    assert rules[0] == "*"
    assert any(source == rule[1:] or source.startswith(f"{rule[1:]}/") for rule in rules if rule[0] == "!")


@pytest.mark.parametrize("secret", [".env", ".data", ".git", "modal_app/engine", "tests", ".deploy"])
def test_nothing_else_gets_in(secret: str) -> None:
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"]
    assert not [rule for rule in allowed if fnmatch(secret, rule) or f"{secret}/".startswith(f"{rule}/")]
    assert not [source for source, _ in copied() if Path(source) in (Path(secret), Path())]


def test_every_package_of_the_gateway_is_pinned_by_the_lock() -> None:
    assert any("-c requirements.lock" in line for line in all_of("RUN"))
    lock = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if "==" in line]
    pinned = {Requirement(line).name.lower().replace("_", "-"): Requirement(line) for line in lock}
    for line in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]:
        wanted = Requirement(line)
        (version,) = pinned[wanted.name.lower().replace("_", "-")].specifier
        assert wanted.specifier.contains(version.version), line
        assert wanted.name not in HEAVY


@pytest.fixture(scope="module")
def image(new_folder: Callable[[], Path]) -> Path:
    """/app of the image, beside modules that cannot be imported in it."""
    root = new_folder()
    for source, target in copied():
        origin, goal = ROOT / source, root / "app" / target
        goal = goal / origin.name if target.endswith("/") else goal
        goal.parent.mkdir(parents=True, exist_ok=True)
        if origin.is_dir():
            shutil.copytree(origin, goal, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(origin, goal)
    for name in HEAVY:
        (root / "absent" / name).mkdir(parents=True)
        (root / "absent" / name / "__init__.py").write_text(f"raise ImportError('no {name} in the image')")
    return root


@contextlib.contextmanager
def running(words: list[str], image: Path, environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    with (image / "log").open("wb") as log:
        process = subprocess.Popen(words, cwd=image / "app", env=environment, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(60)


def environment_of(image: Path, admin_url: str, port: int) -> dict[str, str]:
    (image / "data").mkdir(exist_ok=True)
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": f"{image / 'absent'}:{image / 'app'}",
        "PYTHONDONTWRITEBYTECODE": "1",
        "HOST": "127.0.0.1",
        "PORT": str(port),
        "DATA": str(image / "data"),
        "DATABASE_URL": login_as(admin_url, "gateway"),
        "MODAL_GENERATE_ENDPOINT": "http://127.0.0.1:1",
        "WEBHOOK_SECRET": "whsec_c2VjcmV0IG9mIHRoZSB0ZXN0cywgMzIgYnl0ZXMhISE=",
        "URL_SIGNING_KEY": "k",
    }


def test_its_files_serve_and_its_health_check_sees_it(image: Path, admin_url: str) -> None:
    environment = environment_of(image, admin_url, free_port())
    (serve,), (check,) = all_of("CMD"), all_of("HEALTHCHECK")
    probe = command(check)
    assert subprocess.run(probe, env=environment, capture_output=True, check=False).returncode != 0
    with running(command(serve), image, environment) as process:
        deadline = time.monotonic() + 120
        while subprocess.run(probe, env=environment, capture_output=True, check=False).returncode:
            assert process.poll() is None and time.monotonic() < deadline, (image / "log").read_text()
            time.sleep(0.2)


def test_its_files_can_migrate(image: Path, admin_url: str) -> None:
    environment = {**environment_of(image, admin_url, 1), "DATABASE_ADMIN_URL": admin_url}
    program = "from gateway.cli import main; main()"
    ended = subprocess.run(
        [sys.executable, "-c", program, "migrate"],
        **{"cwd": image / "app", "env": environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.stdout.startswith("Nothing to do"), ended.stderr
