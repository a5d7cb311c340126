"""What a check found."""

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    OK = "ok"
    WARNING = "warning"
    """It works, and could be better or will not for long."""
    FAILED = "failed"
    SKIPPED = "skipped"
    """Not looked at; the reason says why."""


@dataclass(frozen=True)
class Finding:
    """``detail`` says what was found in a line; ``next_step`` what to do, where there is something."""

    verdict: Verdict
    detail: str
    next_step: str = ""


@dataclass(frozen=True)
class Result:
    """A finding, and the stable code of the check that found it."""

    code: str
    finding: Finding


def ok(detail: str) -> Finding:
    return Finding(Verdict.OK, detail)


def warning(detail: str, next_step: str) -> Finding:
    return Finding(Verdict.WARNING, detail, next_step)


def failed(detail: str, next_step: str) -> Finding:
    return Finding(Verdict.FAILED, detail, next_step)


def skipped(reason: str) -> Finding:
    return Finding(Verdict.SKIPPED, reason)
