"""``make done``: whether the changelog has a day as young as the last change of the code."""

import datetime
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
CODE = ("gateway", "modal_app", "styles", "supabase", "deploy.sh", "Dockerfile")


def behind(root: Path) -> str:
    """What is wrong, in a line; empty when the changelog is up to date."""
    days = re.findall(r"^### (\d{4}-\d\d-\d\d)$", (root / "CHANGELOG.md").read_text(), re.MULTILINE)
    newest = max(days, default="the beginning")
    changed = _last_change(root)
    if days and changed <= newest:
        return ""
    return f"CHANGELOG.md says nothing since {newest}, and the code changed on {changed}."


def _last_change(root: Path) -> str:
    """The day of the last commit that touched the code; today where changes are not committed."""
    if _git(root, "status", "--porcelain", "--", *CODE):
        return datetime.datetime.now(datetime.UTC).date().isoformat()
    return _git(root, "log", "-1", "--format=%cs", "--", *CODE)


def _git(root: Path, *arguments: str) -> str:
    ended = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True)
    return ended.stdout.strip()


if __name__ == "__main__":
    sys.exit(behind(ROOT))
