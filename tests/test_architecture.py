"""Who may import whom."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OURS = ("gateway", "modal_app", "styles", "scripts", "tests")

ENTRYPOINTS = [
    "app",
    "reference",
    "services",
    "health",
    "worker",
    "cli",
    "up",
    "client",
    "doctor",
    "__main__",
]
SLICES = [
    "comics",
    "characters",
    "openai",
    "replay",
    "batches",
    "images",
    "prompts",
    "loras",
    "jobs",
    "uploads",
    "usage",
    "webhooks",
    "accounts",
]
"""From the top down: a slice may import those further down, never up."""
INFRASTRUCTURE = [
    "config",
    "errors",
    "auth",
    "db",
    "storage",
    "gpu",
    "events",
    "embedded",
    "outside",
    "pictures",
    "postgres",
    "migrate",
    "safety",
    "http",
    "limits",
    "logs",
    "metrics",
    "rates",
    "tasks",
    "tracing",
]
CONTRACT = ["modal_app.contract", "modal_app.catalog", "styles"]
HEAVY = ["torch", "diffusers", "transformers", "peft", "modal"]


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, wherever in the file, as an absolute name."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def within(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def part_of(module: str) -> str:
    """The layer's name for a module of the gateway: ``gateway.jobs.steps`` is part of ``jobs``."""
    return module.split(".")[1] if "." in module else ""


def test_every_module_of_the_gateway_has_a_place() -> None:
    placed = {*ENTRYPOINTS, *SLICES, *INFRASTRUCTURE, "studio", "__init__"}
    found = {path.relative_to(ROOT / "gateway").parts[0].removesuffix(".py") for path in within("gateway")}
    assert found <= placed


@pytest.mark.parametrize("path", within("gateway"), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_the_gateway_takes_from_the_gpu_service_its_contract_only(path: Path) -> None:
    allowed = tuple(CONTRACT)
    for module in imports(path):
        if module.split(".")[0] == "modal_app" and module != "modal_app":
            assert module.startswith(allowed), f"{path.name} imports {module}"
        assert module.split(".")[0] not in HEAVY


@pytest.mark.parametrize("path", within("modal_app"), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_the_gpu_service_knows_no_gateway(path: Path) -> None:
    for module in imports(path):
        assert module.split(".")[0] not in ("gateway", "styles", "scripts", "tests")


CONTRACT_FILES = [ROOT / "modal_app/contract.py", *within("modal_app/catalog"), *within("styles")]


@pytest.mark.parametrize("path", CONTRACT_FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_the_contract_imports_nobody_of_ours(path: Path) -> None:
    for module in imports(path):
        ours = module.startswith("modal_app.catalog") or (
            module.startswith("styles.") and "styles" in path.parts
        )
        assert ours or module.split(".")[0] not in (*OURS, *HEAVY)


@pytest.mark.parametrize("path", within("gateway"), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_layers_of_the_gateway_import_downwards(path: Path) -> None:
    here = path.relative_to(ROOT / "gateway").parts[0].removesuffix(".py")
    for module in imports(path):
        there = part_of(module) if module.startswith("gateway.") else ""
        if here in INFRASTRUCTURE:
            assert there not in (*SLICES, *ENTRYPOINTS), f"{path.name} imports {module}"
        if here in SLICES and there in SLICES and here != there:
            assert SLICES.index(here) < SLICES.index(there), f"{here} imports {module}"
        if here in SLICES:
            assert there not in ENTRYPOINTS, f"{path.name} imports {module}"
        if here == "studio":
            assert there in ("", "studio", "config", "errors"), f"the studio imports {module}"


def test_nothing_is_installed_under_the_name_of_the_unrelated_nunchaku() -> None:
    for name in ("requirements.lock", "pyproject.toml"):
        lines = (ROOT / name).read_text().lower().splitlines()
        assert not [line for line in lines if line.strip(" \"',").startswith("nunchaku=")]
