"""The deployment guide keeps up: its commands run or at least exist, its tables are those of the code."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from modal.cli.entry_point import entrypoint_cli
from PIL import Image

from modal_app import catalog, deployment, local
from modal_app.weights import __main__ as weights

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "modal_app" / "README.md").read_text()


def fenced(language: str) -> list[str]:
    """The lines of all blocks of a language."""
    blocks = re.findall(rf"^ *```{language}\n(.*?)^ *```$", GUIDE, re.MULTILINE | re.DOTALL)
    return [line.strip() for block in blocks for line in block.splitlines() if line.strip()]


def inline(word: str) -> list[str]:
    return re.findall(rf"`({word} [^`]+)`", GUIDE)


def table(head: str) -> list[list[str]]:
    """The cells of the table whose head begins so."""
    lines = GUIDE[GUIDE.index(head) :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


@pytest.mark.parametrize("command", fenced("bash"))
def test_what_needs_no_account_runs_as_it_stands_there(command: str, tmp_path: Path) -> None:
    for folder in ("modal_app", "styles"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    environment = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "OMP_NUM_THREADS": "1",
        "MODAL_SERVER_URL": "http://127.0.0.1:1",
    }
    ended = subprocess.run(
        ["bash", "-c", command],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    if "--out" in command:
        assert Image.open(tmp_path / "dragon.png").size == (1024, 1024)


def modal_commands() -> list[str]:
    lines = [line for line in (*fenced("sh"), *inline("modal")) if line.startswith("modal ")]
    assert len(lines) > 10
    return lines


@pytest.mark.parametrize("line", modal_commands())
def test_every_command_of_modal_is_one_of_the_client_with_these_flags(line: str) -> None:
    words = shlex.split(line)[1:]
    found: Any = entrypoint_cli
    while words and words[0] in getattr(found, "commands", {}):
        found, words = found.commands[words[0]], words[1:]
    flags = {option for param in found.params for option in param.opts}
    used = {word.partition("=")[0] for word in words if word.startswith("-")}
    target = next((word for word in words if "modal_app" in word), "")
    known = flags | (entry_flags(target) if line.startswith("modal run") else set())
    assert found is not entrypoint_cli and used <= known, line
    assert not target or source_of(target)


def source_of(target: str) -> Path:
    """The file with the apps of a path, or of a module's dotted name; a function's name may follow."""
    place = target.partition("::")[0]
    module = ROOT / place.replace(".", "/")
    return next(
        path for path in (ROOT / place, module.with_suffix(".py"), module / "on_modal.py") if path.is_file()
    )


def entry_flags(target: str) -> set[str]:
    """Flags of a file's own entry point, or of the function that is named: the arguments."""
    function = target.rpartition(".")[2] if "::" in target else ""
    named, own = rf"def {function}\((.*?)\) -> ", r"local_entrypoint\(\).*?\n *def \w+\((.*?)\) -> None:"
    signature = re.search(named if function else own, source_of(target).read_text(), re.DOTALL)
    assert signature
    return {"-m", *(f"--{name.replace('_', '-')}" for name in re.findall(r"(\w+): ", signature[1]))}


def test_the_secret_has_every_key_that_a_deployment_asks_for() -> None:
    (line,) = [line for line in fenced("sh") if line.startswith("modal secret create")]
    words = shlex.split(line)
    assert words[3] == deployment.SECRET
    assert tuple(word.partition("=")[0] for word in words[4:]) == deployment.SECRET_KEYS


def test_names_of_the_guide_are_those_of_the_deployment() -> None:
    for name in (deployment.MODEL_VOLUME, f"--{deployment.ENDPOINT_LABEL}.modal.run", deployment.APP):
        assert name in GUIDE
    settings = (ROOT / ".env.example").read_text()
    for name in ("MODAL_GENERATE_ENDPOINT", "MODAL_KEY", "MODAL_SECRET", "WEBHOOK_SECRET", "DEFAULT_MODEL"):
        assert f"{name}=" in GUIDE and f"\n{name}=" in settings
    for name in re.findall(r"`([A-Z_]{5,})`", GUIDE):
        known = (*vars(deployment), *(field.upper() for field in local.Settings.model_fields))
        outside = ("HF_TOKEN", "HF_HUB_OFFLINE")
        assert name in (*known, *outside) or f"\n{name}=" in settings, name
    for name in re.findall(r"`(\w+_(?:seconds|containers))`", GUIDE):
        assert name in deployment.GpuClass.__dataclass_fields__


def test_the_price_table_is_the_catalogues() -> None:
    rows = {cells[0].rstrip("*"): cells for cells in table("| GPU | $ per hour")}
    assert set(rows) == {gpu.name for gpu in catalog.GPUS if gpu.offered}
    prices = {price.gpu: price for price in catalog.PRICES}
    for gpu, (name, hour, window) in rows.items():
        micros = prices[gpu].usd_micros_per_hour
        assert (hour, window) == (f"{micros / 1e6:.2f}", f"{micros * 300 / 3600 / 1e6:.3f}")
        assert name.endswith("*") != prices[gpu].published
        assert prices[gpu].effective_from.isoformat() in GUIDE
    assert deployment.GpuClass.scaledown_window_seconds == 300


def test_what_a_picture_costs_is_the_catalogues_estimate() -> None:
    for names, seconds, dollars in table("| model | seconds"):
        for name in re.findall(r"`([^`]+)`", names):
            row = catalog.find(name)
            assert row and float(seconds) == row.est_seconds
            day = max(price.effective_from for price in catalog.PRICES)
            assert dollars == f"{catalog.cost_usd_micros('L40S', row.est_seconds, day) / 1e6:.4f}"


def test_codes_and_flags_of_the_guide_exist() -> None:
    source = "".join(path.read_text() for path in (ROOT / "modal_app").rglob("*.py"))
    codes = [
        cell for cells in table("| what you see") for cell in re.findall(r"`([a-z]+_[a-z_]+)`", cells[0])
    ]
    assert len(codes) > 8
    for code in codes:
        assert f'"{code}"' in source, code
    named = set(re.findall(r'WeightsError\(\s*"(\w+)"', source))
    own = {"unknown_model", "unknown_gpu", "unsupported_hardware", "no_manifest"}  # their message says it all
    assert named - own <= set(codes)
    flags = {option for param in click_of(weights.cli).params for option in param.opts}
    for cells in table("| | |"):
        assert set(re.findall(r"--[a-z-]+", cells[0])) <= flags


def click_of(cli: Any) -> Any:
    import typer

    return typer.main.get_command(cli)


@pytest.mark.parametrize("target", re.findall(r"\]\((?!https?:)([^)]+)\)", GUIDE))
def test_links_lead_somewhere(target: str) -> None:
    path, _, anchor = target.partition("#")
    assert (ROOT / "modal_app" / path).exists()
    titles = [line.lstrip("# ").lower().replace(" ", "-") for line in GUIDE.splitlines() if line[:1] == "#"]
    assert not anchor or anchor in titles
