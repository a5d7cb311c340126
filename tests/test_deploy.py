"""deploy.sh, with stand-ins of the programs that reach the outside."""

import asyncio
import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.config import login_as
from modal_app import deployment
from tests.gateway.conftest import INSTANT
from tests.support.stack import SIGNING_KEY, WEBHOOK_SECRET, stack

ROOT = Path(__file__).parents[1]
STEPS = ["check", "migrate", "buckets", "secrets", "weights", "service", "image", "smoke"]
SETTINGS = {
    "DATABASE_ADMIN_URL": "postgresql://postgres:hidden-admin@db.example.com:5432/postgres",
    "DATABASE_URL": "postgresql://gateway:hidden-login@db.example.com:5432/postgres",
    "SITE_URL": "https://draw.example.com/",
    "WEBHOOK_SECRET": "whsec_aGlkZGVuLXdlYmhvb2s=",
    "RECIPE_SECRET": "hidden-recipe",
    "URL_SIGNING_KEY": "hidden-signing",
    "TENKAIGEN_KEY": "tk_hidden-key",
}
HIDDEN = ("hidden-", "aGlkZGVu")

STAND_IN = """#!/bin/bash
# Records its arguments; fails when it is told to; keeps what it was given in a file, and what it has built.
echo "$(basename "$0") $*" >> "$RECORD/calls"
ps -o args= -p $$ >> "$RECORD/ps"
if [[ -n $FAIL && "$(basename "$0") $*" == *"$FAIL"* ]]; then echo "it broke" >&2; exit 3; fi
while [[ $# -gt 0 ]]; do
  case $1 in
    --from-json)
      cp "$2" "$RECORD/secret.json"
      stat -c %a "$2" > "$RECORD/mode"
      echo "$2" > "$RECORD/file" ;;
    --tag) touch "$RECORD/image-$2" ;;
    inspect) [[ -e "$RECORD/image-$2" ]] || exit 1 ;;
    create) [[ $0 != *tenkaigen ]] || echo tk_hidden-made ;;
  esac
  shift
done
"""


class Deployment:
    """A checkout with stand-ins first on the PATH."""

    def __init__(self, folder: Path) -> None:
        self.root, self.record = folder / "checkout", folder / "record"
        programs = folder / "bin"
        for made in (self.root, self.record, programs):
            made.mkdir()
        for path in ROOT.iterdir():
            if path.name not in (".env", ".deploy", ".venv", ".git"):
                (self.root / path.name).symlink_to(path)
        for name in ("modal", "docker", "tenkaigen"):
            (programs / name).write_text(STAND_IN)
            (programs / name).chmod(0o755)
        self.programs = programs
        self.environment = {"PATH": f"{programs}:/usr/bin:/bin", "RECORD": str(self.record), "FAIL": ""}

    def run(self, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["./deploy.sh", *arguments],
            cwd=self.root,
            env={**self.environment, **settings},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def calls(self) -> list[str]:
        """What was called since the last look."""
        path = self.record / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return lines


@pytest.fixture
def checkout(tmp_path: Path) -> Deployment:
    return Deployment(tmp_path)


def kinds(calls: list[str]) -> list[str]:
    return [" ".join(call.split()[:2]) for call in calls]


EVERYTHING = [
    "tenkaigen migrate",
    "tenkaigen doctor",
    "modal secret",
    "modal run",
    "modal deploy",
    "docker image",
    "docker build",
    "tenkaigen doctor",
]


@pytest.mark.parametrize("missing", sorted(SETTINGS))
def test_a_missing_setting_is_named_and_nothing_is_done(checkout: Deployment, missing: str) -> None:
    ended = checkout.run(**{name: value for name, value in SETTINGS.items() if name != missing})
    assert ended.returncode == 1
    assert re.findall("missing: (.*)", ended.stdout) == [missing]
    assert checkout.calls() == []


def test_all_that_is_missing_is_named_at_once_programs_too(checkout: Deployment) -> None:
    for name in ("modal", "docker", "tenkaigen"):
        (checkout.programs / name).unlink()
    ended = checkout.run(PATH="/usr/bin:/bin")
    assert ended.returncode == 1
    named = re.findall("missing: (.*)", ended.stdout)
    assert set(named) >= {*SETTINGS, "modal", "tenkaigen"}
    assert len(named) == len(set(named))


def test_a_dry_run_prints_every_step_with_its_undoing_and_does_none(checkout: Deployment) -> None:
    for settings in (SETTINGS, {}):
        ended = checkout.run("--dry-run", **settings)
        assert ended.returncode == 0, ended.stderr
        assert re.findall(r"^== (\w+) \(undo: \S", ended.stdout, re.MULTILINE) == STEPS
        printed = re.findall(r"^   \$ (\w+ [\w-]+)", ended.stdout, re.MULTILINE)
        assert printed == [kind for kind in EVERYTHING if kind != "docker image"]
        assert "Nothing was done" in ended.stdout
        assert not any(secret in ended.stdout for secret in HIDDEN)
    assert checkout.calls() == []
    assert not (checkout.root / ".deploy").exists()


def test_every_step_is_done_in_order(checkout: Deployment) -> None:
    ended = checkout.run(**SETTINGS)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    calls = checkout.calls()
    assert kinds(calls) == EVERYTHING
    assert calls[3] == "modal run -m modal_app.weights --models qwen-image-fast,qwen-image-edit-fast"
    assert calls[4] == "modal deploy -m modal_app.app"
    assert calls[-1] == "tenkaigen doctor --url https://draw.example.com/"


@pytest.mark.parametrize(
    ("broken", "step", "done"),
    [
        ("tenkaigen migrate", "migrate", 1),
        ("--only buckets", "buckets", 2),
        ("modal secret", "secrets", 3),
        ("modal run", "weights", 4),
        ("modal deploy", "service", 5),
        ("docker build", "image", 7),
        ("--url", "smoke", 8),
    ],
)
def test_the_first_failure_ends_it_and_says_how_to_undo(
    checkout: Deployment, broken: str, step: str, done: int
) -> None:
    ended = checkout.run(**SETTINGS, FAIL=broken)
    assert ended.returncode == 3
    assert kinds(checkout.calls()) == EVERYTHING[:done]
    assert f"deploy: {step} failed, and nothing after it was done. Undo: " in ended.stderr
    assert "Done." not in ended.stdout


def test_a_failed_step_is_done_again_and_those_before_it_are_not(checkout: Deployment) -> None:
    checkout.run(**SETTINGS, FAIL="modal deploy")
    checkout.calls()
    assert checkout.run(**SETTINGS).returncode == 0
    changed = [call for call in kinds(checkout.calls()) if call.startswith(("modal", "docker build"))]
    assert changed == ["modal deploy", "docker build"]


def test_a_second_run_does_nothing_twice(checkout: Deployment) -> None:
    checkout.run(**SETTINGS, REGISTRY="images.example.com")
    assert kinds(checkout.calls())[-3:] == ["docker tag", "docker push", "tenkaigen doctor"]
    again = checkout.run(**SETTINGS, REGISTRY="images.example.com")
    assert again.returncode == 0
    looks = ["tenkaigen migrate", "tenkaigen doctor", "docker image", "tenkaigen doctor"]
    assert kinds(checkout.calls()) == looks  # each changes nothing where there is nothing to change
    assert again.stdout.count("unchanged") == 5
    forced = checkout.run("--again", "secrets", "service", **SETTINGS)
    assert forced.returncode == 0
    assert kinds(checkout.calls()) == ["modal secret", "modal deploy"]


def test_a_new_secret_is_sent_and_the_service_deployed_anew(checkout: Deployment) -> None:
    checkout.run(**SETTINGS)
    checkout.calls()
    checkout.run(**SETTINGS | {"RECIPE_SECRET": "hidden-other"})
    changed = [call for call in kinds(checkout.calls()) if call.startswith("modal")]
    assert changed == ["modal secret", "modal deploy"]
    checkout.run(**SETTINGS, MODAL_ENVIRONMENT="staging")  # elsewhere, nothing was done yet
    changed = [call for call in kinds(checkout.calls()) if call.startswith("modal")]
    assert changed == ["modal secret", "modal run", "modal deploy"]


def test_modals_secret_has_every_key_that_the_deployment_asks_for(checkout: Deployment) -> None:
    checkout.run("secrets", **SETTINGS)
    told = json.loads((checkout.record / "secret.json").read_text())
    assert told == {
        "TENKAIGEN_WEBHOOK_URL": "https://draw.example.com/api/generate/webhook",
        "TENKAIGEN_WEBHOOK_SECRET": SETTINGS["WEBHOOK_SECRET"],
        "RECIPE_SECRET": SETTINGS["RECIPE_SECRET"],
        "GPU_ORIGINS": "https://draw.example.com/",
    }
    assert {"TENKAIGEN_WEBHOOK_URL", "TENKAIGEN_WEBHOOK_SECRET"} <= set(deployment.SECRET_KEYS) <= set(told)


def test_files_are_fetched_from_the_gateway_and_from_the_projects_storage(checkout: Deployment) -> None:
    for settings, origins in (
        ({"SUPABASE_URL": "https://ref.supabase.co"}, "https://draw.example.com/,https://ref.supabase.co"),
        ({"GPU_ORIGINS": "https://files.example.com"}, "https://files.example.com"),
    ):
        checkout.run("secrets", **SETTINGS, **settings)
        assert json.loads((checkout.record / "secret.json").read_text())["GPU_ORIGINS"] == origins


@pytest.mark.parametrize("fail", ["", "modal secret", "--url"])
def test_no_secret_is_printed_passed_as_an_argument_or_left_behind(checkout: Deployment, fail: str) -> None:
    ended = checkout.run(**SETTINGS, FAIL=fail)
    seen = ended.stdout + ended.stderr + (checkout.record / "ps").read_text() + "\n".join(checkout.calls())
    kept = [path.read_text() for path in (checkout.root / ".deploy").rglob("*") if path.is_file()]
    assert not any(secret in text for secret in HIDDEN for text in (seen, *kept))
    if fail != "modal secret":
        assert (checkout.record / "mode").read_text().strip() == "600"
        assert not Path((checkout.record / "file").read_text().strip()).exists()


def test_settings_come_from_the_file_and_the_environment_wins(checkout: Deployment) -> None:
    lines = [f'{name}="{value}"' for name, value in SETTINGS.items()]
    text = "# settings\nexport EMPTY=\n" + "\n".join(lines).replace(
        "draw.example.com/", "file.example.com/?a=b&c"
    )
    (checkout.root / ".env").write_text(text)
    assert checkout.run("smoke").returncode == 0
    assert checkout.calls() == ["tenkaigen doctor --url https://file.example.com/?a=b&c"]
    checkout.run("smoke", SITE_URL="https://environment.example.com")
    assert checkout.calls() == ["tenkaigen doctor --url https://environment.example.com"]


def test_a_key_for_the_smoke_job_is_made_once_and_kept_from_others(checkout: Deployment) -> None:
    settings = {name: value for name, value in SETTINGS.items() if name != "TENKAIGEN_KEY"}
    for _ in range(2):
        ended = checkout.run("smoke", **settings, OWNER_EMAIL="you@example.com")
        assert ended.returncode == 0, ended.stderr
        assert "hidden" not in ended.stdout + ended.stderr
    assert [call for call in checkout.calls() if "keys create" in call] == [
        "tenkaigen keys create --user you@example.com --scope generate --scope read"
    ]
    key = checkout.root / ".deploy" / "key"
    assert (key.read_text(), stat.S_IMODE(key.stat().st_mode)) == ("tk_hidden-made\n", 0o600)


def test_a_word_that_is_no_step_prints_how_it_is_used(checkout: Deployment) -> None:
    ended = checkout.run("everything")
    assert (ended.returncode, checkout.calls()) == (2, [])
    assert "./deploy.sh [--dry-run] [--again] [STEP ...]" in ended.stdout
    assert " ".join(STEPS) in ended.stdout


async def test_it_deploys_on_a_real_database_and_draws_through_a_real_gateway(
    checkout: Deployment, admin_url: str, new_folder: Callable[[], Path]
) -> None:
    """Modal and Docker are stand-ins; database, migrations, gateway, GPU service and smoke job are not."""
    (checkout.programs / "tenkaigen").unlink()
    (checkout.programs / "tenkaigen").symlink_to(Path(sys.executable).with_name("tenkaigen"))
    models: dict[str, Any] = {"default_model": "instant", "default_edit_model": "instant"}
    async with stack(admin_url, new_folder(), gpu=INSTANT, **models) as running:
        settings = {
            "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
            "DATABASE_ADMIN_URL": admin_url,
            "DATABASE_URL": login_as(admin_url, "gateway"),
            "DATA": str(running.folder),
            "SITE_URL": running.url,
            "WEBHOOK_SECRET": WEBHOOK_SECRET,
            "URL_SIGNING_KEY": SIGNING_KEY,
            "RECIPE_SECRET": "hidden-recipe",
            "OWNER_EMAIL": "you@example.com",
        }
        ended = await asyncio.to_thread(checkout.run, **settings)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        assert "Nothing to do: the database is up to date." in ended.stdout
        assert "gateway, gateway_service: NOBYPASSRLS, NOINHERIT" in ended.stdout
        assert "generated-designs, uploads, loras: written to and read from" in ended.stdout
        assert "instant drew it" in ended.stdout
        rows = running.rows("select status::text from public.generation_jobs")
        assert rows == [{"status": "completed"}]
    assert kinds(checkout.calls()) == [
        "modal secret",
        "modal run",
        "modal deploy",
        "docker image",
        "docker build",
    ]
