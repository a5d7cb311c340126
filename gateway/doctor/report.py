"""Findings as a table, or as JSON."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gateway.doctor.findings import Result, Verdict

COLORS = {Verdict.OK: "green", Verdict.WARNING: "yellow", Verdict.FAILED: "red", Verdict.SKIPPED: "dim"}
FILE_COLUMNS = 1000
"""Where nobody looks, lines are not broken: a program may search them."""


def is_well(results: Sequence[Result]) -> bool:
    """Warnings are no failures."""
    return all(result.finding.verdict is not Verdict.FAILED for result in results)


def print_json(name: str, results: Sequence[Result]) -> None:
    checks = [{"code": result.code, **asdict(result.finding)} for result in results]
    print(json.dumps({"subject": name, "ok": is_well(results), "checks": checks}, indent=2))


def print_table(name: str, results: Sequence[Result]) -> None:
    """The findings, then the next steps in the order in which to take them."""
    console = Console(width=None if sys.stdout.isatty() else FILE_COLUMNS)
    table = Table("check", "verdict", "found", title=f"What {escape(name)} says", title_justify="left")
    for result in results:
        finding = result.finding
        verdict = f"[{COLORS[finding.verdict]}]{finding.verdict}[/]"
        table.add_row(result.code, verdict, escape(finding.detail))
    console.print(table)
    for result in results:
        if result.finding.next_step:
            console.print(f"[bold]{result.code}[/]: {escape(result.finding.next_step)}", highlight=False)
    console.print("All is well." if is_well(results) else "Something is wrong.", highlight=False)
