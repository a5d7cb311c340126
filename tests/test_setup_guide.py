"""The setup guide keeps up: its commands run or exist, its tables and settings are those of the code."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
import typer.main
from modal.cli.entry_point import entrypoint_cli

from gateway import cli
from gateway.config import Settings
from tests.test_deploy import SETTINGS, STEPS, Deployment

ROOT = Path(__file__).parents[1]
GUIDE = (ROOT / "docs" / "setup.md").read_text()
EXAMPLE = (ROOT / ".env.example").read_text()


def fenced(language: str) -> list[str]:
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)
    return [line for name, text in blocks if name == language for line in text.splitlines() if line]


def commands() -> list[str]:
    inline = re.findall(r"`((?:modal|docker|tenkaigen|make|\./deploy\.sh) [^`]+)`", GUIDE)
    return [*fenced("bash"), *fenced("sh"), *inline]


def table(head: str) -> list[list[str]]:
    lines = GUIDE[GUIDE.index(head) :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


@pytest.mark.parametrize("line", [line for line in commands() if line.startswith("./deploy.sh")])
def test_every_call_of_the_script_does_what_it_says(line: str, tmp_path: Path) -> None:
    checkout = Deployment(tmp_path)
    ended = checkout.run(*shlex.split(line)[1:], **SETTINGS)
    assert ended.returncode == 0, ended.stderr
    assert bool(checkout.calls()) != ("--dry-run" in line)


@pytest.mark.parametrize("line", [line for line in commands() if re.match(r"(modal|tenkaigen) ", line)])
def test_every_command_exists_with_these_flags(line: str) -> None:
    words = shlex.split(line)
    found = entrypoint_cli if words[0] == "modal" else typer.main.get_command(cli.app)
    root, words = found, words[1:]
    while words and words[0] in getattr(found, "commands", {}):
        found, words = found.commands[words[0]], words[1:]
    flags = {option for param in found.params for option in (*param.opts, *param.secondary_opts)}
    assert found is not root
    assert {word for word in words if word.startswith("-")} <= flags


@pytest.mark.parametrize("line", [line for line in fenced("bash") if line.startswith("echo")])
def test_the_secrets_are_made_as_settings_take_them(line: str) -> None:
    ended = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True)
    name, value = ended.stdout.strip().split("=", 1)
    assert name in SETTINGS and len(value) > 40
    assert (name == "WEBHOOK_SECRET") == value.startswith("whsec_")


def test_the_example_environment_is_the_beginning_of_a_real_one(tmp_path: Path) -> None:
    (line,) = [line for line in fenced("bash") if line.startswith("cp .env.example")]
    (tmp_path / ".env.example").write_text(EXAMPLE)
    subprocess.run(["bash", "-c", line], cwd=tmp_path, check=True)
    assert Settings(_env_file=tmp_path / ".env").port == 8000


def test_every_setting_of_the_guide_stands_in_the_example_and_takes_such_a_value() -> None:
    lines = [line for line in fenced("") if re.match(r"[A-Z_]+=", line)]
    given = dict(line.split("=", 1) for line in lines)
    assert len(given) > 10
    for name in {*given, *re.findall(r"`([A-Z]+_[A-Z_]+)`", GUIDE)}:
        assert re.search(rf"^(# )?{name}=", EXAMPLE, re.MULTILINE), name
    values = {name.lower(): value for name, value in given.items()} | {
        "webhook_secret": "whsec_eA==",
        "url_signing_key": "k",
    }
    settings = Settings(_env_file=None, **values).require()  # type: ignore[arg-type]
    assert settings.service_database_url.startswith("postgresql://gateway_service.REF:YOUR-CHOICE@")


def test_every_setting_that_the_script_asks_for_is_told() -> None:
    for name in SETTINGS.keys() - {"TENKAIGEN_KEY"}:
        assert name in GUIDE, name


def test_the_table_of_steps_is_the_scripts_with_the_same_undoing(tmp_path: Path) -> None:
    ended = Deployment(tmp_path).run("--dry-run", **SETTINGS)
    told = dict(re.findall(r"^== (\w+) \(undo: (.*)\)$", ended.stdout, re.MULTILINE))
    rows = {cells[0].strip("`"): cells[2] for cells in table("| step | what it does")}
    assert list(rows) == list(told) == STEPS
    for step, undoing in rows.items():
        for command in re.findall(r"`([^`]+)`", undoing):
            assert command in told[step]
        assert undoing[:7].strip("`") in told[step]


def test_targets_and_files_that_are_named_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"make ([a-z]+)", GUIDE)) <= targets
    (line,) = [line for line in fenced("sh") if line.startswith("docker run")]
    assert "--volume tenkaigen:/data" in line and "VOLUME /data" in (ROOT / "Dockerfile").read_text()
