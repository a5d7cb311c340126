"""The documents keep up with the code."""

import itertools
import re
from pathlib import Path

import pytest
from pydantic import SecretStr

from gateway.config import Settings
from modal_app import local

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def examples() -> dict[str, str]:
    lines = (ROOT / ".env.example").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def test_the_example_environment_has_every_setting_and_its_default() -> None:
    fields = {**local.Settings.model_fields, **Settings.model_fields}
    assert examples() == {name.upper(): _as_text(field.default) for name, field in fields.items()}


def test_every_setting_of_the_example_is_explained() -> None:
    lines = (ROOT / ".env.example").read_text().splitlines()
    for before, line in itertools.pairwise(lines):
        assert before.startswith("#") or not re.match(r"[A-Z]", line), f"{line} has no comment"


DOCUMENTS = [*ROOT.glob("*.md"), ROOT / "modal_app" / "README.md", *(ROOT / "docs").rglob("*.md")]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_between_documents_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", path.read_text()):
        assert (path.parent / target).exists(), f"{path.name}: {target}"


def test_the_readme_names_both_commands_and_every_target_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"\bmake ([a-z]+)", README))
    assert {"up", "test"} <= named <= targets


def test_no_document_names_a_registry_host_or_a_path_of_somebodys_machine() -> None:
    strange = re.compile("python" + "hosted|py" + r"pi\.org|npm" + r"js\.org|/wo" + "rk/")
    for path in [*ROOT.glob("*"), *DOCUMENTS]:
        if path.is_file() and path.name != ".git":
            assert not strange.search(path.read_text(errors="ignore")), path.name


def _as_text(default: object) -> str:
    if isinstance(default, SecretStr):
        return default.get_secret_value()
    if isinstance(default, bool):
        return str(default).lower()
    return f"{default:g}" if isinstance(default, float) else str(default)
