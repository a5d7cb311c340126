"""``tenkaigen doctor``: what is wrong with an installation, and what to do about it.

Every check has a stable code, which docs/troubleshooting.md explains; each is one small function from what is
examined (``Subject``) to what was found (``Finding``).
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psycopg

from gateway import up
from gateway.config import ConfigurationError
from gateway.doctor import buckets, configuration, database, gpu, history, over_http, report, smoke
from gateway.doctor.findings import Finding, Result, Verdict, failed, skipped
from gateway.doctor.subject import PATIENCE_SECONDS, Subject, address, environment, folder, is_configured

__all__ = ["CODES", "PATIENCE_SECONDS", "Check", "Result", "examine", "visit"]

DATA = Path(".data")
"""Where ``make up`` keeps everything unless it is told otherwise."""

UNKNOWN = {
    "settings": "only the gateway's own machine knows its settings; run it there, without --url",
    "database_url": "no database is configured, or none was started here",
    "url": "no gateway runs here",
    "key": "no API key was given: pass --key, or set TENKAIGEN_KEY",
    "draws": "--no-smoke",
    "smoke": "no smoke job was drawn",
}
"""Why a check is skipped, by what of the subject it lacks."""


@dataclass(frozen=True)
class Check:
    """``lacking`` one of ``uses``, or after a failure of one of ``after``, it is skipped."""

    code: str
    examine: Callable[[Subject], Awaitable[Finding]]
    uses: tuple[str, ...] = ()
    after: tuple[str, ...] = ()


CHECKS = (
    Check("configuration", configuration.configuration, ("settings",)),
    Check("disk_space", configuration.disk_space, ("settings",)),
    Check("gateway", over_http.gateway),
    Check("database", database.database),
    Check("clock", database.clock, ("database_url",), ("database",)),
    Check("migrations", database.migrations, ("database_url",), ("database",)),
    Check("login_roles", database.login_roles, ("database_url",), ("database",)),
    Check("buckets", buckets.buckets, (), ("configuration",)),
    Check("gpu_endpoint", gpu.endpoint, ("settings", "url")),
    Check("gpu_service", gpu.service, ("url",), ("gpu_endpoint",)),
    Check("gpu_credentials", gpu.credentials, ("settings", "url"), ("gpu_endpoint", "gpu_service")),
    Check("gpu_models", gpu.models, ("settings", "url"), ("gpu_endpoint", "gpu_service", "gpu_credentials")),
    Check("webhook_address", over_http.webhook_address, ("url",), ("gateway",)),
    Check("api_key", over_http.api_key, ("url", "key"), ("gateway", "database")),
    Check(
        "smoke_job",
        smoke.smoke_job,
        ("url", "key", "draws"),
        ("gateway", "database", "buckets", "gpu_endpoint", "gpu_service", "gpu_credentials", "api_key"),
    ),
    Check("webhook_delivery", smoke.webhook_delivery, (), ("database", "migrations")),
    Check("image_delivery", smoke.image_delivery, ("smoke",)),
    Check("stuck_jobs", history.stuck_jobs, after=("database", "migrations", "api_key")),
    Check("recent_failures", history.recent_failures, after=("database", "migrations", "api_key")),
    Check("slow_generation", history.slow_generation, after=("database", "migrations", "api_key")),
    Check("poor_quality", history.poor_quality, after=("database", "migrations", "api_key")),
)
CODES = tuple(check.code for check in CHECKS)

EXPECTED = (psycopg.Error, httpx.HTTPError, httpx.InvalidURL, OSError, ConfigurationError, ValueError)
"""What a broken installation raises: a finding, not a stack trace."""


def visit(
    data: Path | None,
    url: str,
    key: str,
    only: Iterable[str] = (),
    *,
    draws: bool = True,
    patience_seconds: float = PATIENCE_SECONDS,
    as_json: bool = False,
) -> bool:
    """Examine an address, a folder, or else this environment, and print the findings; whether all is well."""
    with _subject(data, url, key) as subject:
        subject.draws, subject.patience_seconds = draws, patience_seconds
        results = asyncio.run(examine(subject, only))
    (report.print_json if as_json else report.print_table)(subject.name, results)
    return report.is_well(results)


async def examine(subject: Subject, only: Iterable[str] = ()) -> list[Result]:
    """Every check in order, or those named and what they come after; ConfigurationError for unknown codes."""
    wanted = _with_earlier(only) if only else set(CODES)
    found: dict[str, Finding] = {}
    for check in CHECKS:
        if check.code in wanted:
            found[check.code] = await _carry_out(check, subject, found)
    return [Result(code, finding) for code, finding in found.items()]


@contextmanager
def _subject(data: Path | None, url: str, key: str) -> Iterator[Subject]:
    if url:
        yield address(url, key or (up.dev_key(data) if data else ""))
    elif data or (not is_configured() and up.running(DATA)):
        with folder(data or DATA, key) as subject:
            yield subject
    else:
        yield environment(key)


def _with_earlier(only: Iterable[str]) -> set[str]:
    known = {check.code: check for check in CHECKS}
    wanted: set[str] = set()
    for code in only:
        if code not in known:
            raise ConfigurationError(f"there is no check `{code}`; there are {', '.join(CODES)}.")
        wanted |= {code, *_with_earlier(known[code].after)}
    return wanted


async def _carry_out(check: Check, subject: Subject, found: dict[str, Finding]) -> Finding:
    failures = [code for code in check.after if code in found and found[code].verdict is Verdict.FAILED]
    if failures:
        return skipped(f"after `{failures[0]}` is well")
    lacking = [name for name in check.uses if not getattr(subject, name)]
    if lacking:
        return skipped(UNKNOWN[lacking[0]])
    try:
        return await check.examine(subject)
    except EXPECTED as error:
        return failed(_one_line(error), f"Look up `{check.code}` in docs/troubleshooting.md.")


def _one_line(error: Exception) -> str:
    words = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {words[0]}" if words[0] else type(error).__name__
