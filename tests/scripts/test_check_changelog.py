"""Whether the changelog keeps up is seen from the dates of commits."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from scripts.check_changelog import behind

ROOT = Path(__file__).parents[2]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    (tmp_path / "gateway").mkdir()
    git(tmp_path, "init", "-q")
    commit(tmp_path, "gateway/code.py", "2026-11-20")
    return tmp_path


def git(root: Path, *arguments: str, day: str = "2026-11-20") -> None:
    names = ("GIT_AUTHOR", "GIT_COMMITTER")
    who = {f"{name}_{field}": "a@b.example" for name in names for field in ("NAME", "EMAIL")}
    dates = {f"{name}_DATE": f"{day}T12:00:00Z" for name in names}
    subprocess.run(["git", *arguments], cwd=root, env={**os.environ, **who, **dates}, check=True)


def commit(root: Path, name: str, day: str) -> None:
    (root / name).write_text(day)
    git(root, "add", "-A", day=day)
    git(root, "commit", "-qm", "change", day=day)


def test_code_that_is_younger_than_the_changelog_is_told(repository: Path) -> None:
    (repository / "CHANGELOG.md").write_text("## Unreleased\n\n### 2026-11-19\n\n- something\n")
    assert behind(repository) == (
        "CHANGELOG.md says nothing since 2026-11-19, and the code changed on 2026-11-20."
    )
    (repository / "CHANGELOG.md").write_text("## Unreleased\n")
    assert "since the beginning" in behind(repository)


def test_a_day_as_young_as_the_code_is_enough_until_something_changes(repository: Path) -> None:
    (repository / "CHANGELOG.md").write_text("## Unreleased\n\n### 2026-11-20\n\n- something\n")
    assert behind(repository) == ""
    (repository / "gateway" / "code.py").write_text("more")
    assert "2026-11-20, and the code changed on 20" in behind(repository)


def test_the_command_runs_what_exists() -> None:
    listed = subprocess.run(
        ["make", "--dry-run", "--always-make", "done"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert "scripts.check_changelog" in listed and "mypy" in listed
    runs = [line for line in listed.splitlines() if "-m pytest" in line]
    named = [name for line in runs for name in re.findall(r"tests/[\w/]+(?:\.py)?", line)]
    assert {"tests/gateway/test_migrations.py", "tests/test_main_job.py", "tests/test_up.py"} <= set(named)
    assert all((ROOT / name).exists() for name in named)
