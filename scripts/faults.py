"""Everything that may go wrong, at full size: ``make faults``.

Runs the fault tests, which ``make test`` runs small, with FAULT_SCALE times the jobs, and prints a table when
all are through.  Exits with 1 when one fails, or when there was none.  ``--only killed`` runs those whose
names hold the word.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
FILES = (
    *("test_faults.py", "test_crash_points.py", "test_character_faults.py", "test_panel_faults.py"),
    "test_fairness.py",
)
FULL_SCALE, KILLS, OUTAGE_SECONDS = 25, 50, 600


@dataclass(frozen=True)
class Outcome:
    scenario: str
    file: str
    result: str
    seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scale", type=int, default=FULL_SCALE, help="so many times the jobs of `make test`")
    parser.add_argument(
        "--kills", type=int, default=KILLS, help="deaths while characters are drawn, and panels"
    )
    parser.add_argument(
        "--outage", type=int, default=OUTAGE_SECONDS, help="so many seconds no webhook arrives"
    )
    parser.add_argument("--only", default="", help="pytest's -k")
    options = parser.parse_args()
    outcomes = _run(options)
    print(f"\n{'scenario':<102} {'size':>10} {'result':>8} {'seconds':>8}")
    for outcome in outcomes:
        size = _size(outcome, options)
        print(f"{outcome.scenario:<102} {size:>10} {outcome.result:>8} {outcome.seconds:>8.1f}")
    failed = sum(outcome.result == "failed" for outcome in outcomes)
    print(f"{len(outcomes)} scenarios, {failed} failed")
    sys.exit(failed > 0 or not outcomes)


def _run(options: argparse.Namespace) -> list[Outcome]:
    """Pytest shows how far it is and what goes wrong; its report says what came of each."""
    kills = dict.fromkeys(("CHARACTER_KILLS", "PANEL_KILLS"), str(options.kills))
    sizes = {"FAULT_SCALE": str(options.scale), "OUTAGE_SECONDS": str(options.outage), **kills}
    with tempfile.TemporaryDirectory(prefix="tenkaigen-faults-") as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-k", options.only, f"--junitxml={report}"]
        command += [f"tests/gateway/{file}" for file in FILES]
        subprocess.run(command, cwd=ROOT, env={**os.environ, **sizes}, check=False)
        if not report.exists():
            sys.exit("pytest did not run")
        return [outcome_of(case) for case in ET.parse(report).iter("testcase")]  # noqa: S314 - our own


def outcome_of(case: ET.Element) -> Outcome:
    """Of one test, from the report's element; what broke while it was set up or cleared away counts too."""
    broken = case.find("failure") is not None or case.find("error") is not None
    skipped = case.find("skipped") is not None
    return Outcome(
        scenario=case.attrib["name"].removeprefix("test_").replace("_", " "),
        file=case.attrib["classname"].rpartition(".")[2],
        result="failed" if broken else "skipped" if skipped else "held",
        seconds=float(case.attrib["time"]),
    )


def _size(outcome: Outcome, options: argparse.Namespace) -> str:
    """What the options make larger: jobs, kills, or an outage; the rest is as large in every run."""
    if "outage" in outcome.scenario:
        return f"{options.outage} s"
    kills = dict.fromkeys(("test_character_faults", "test_panel_faults"), f"{options.kills} kills")
    sizes = {"test_faults": f"{options.scale} x jobs", **kills}
    return sizes.get(outcome.file, "whole")


if __name__ == "__main__":
    main()
