"""The database: whether it answers, over what, and whether it is as the code expects it."""

import datetime
import time
from importlib import metadata

import psycopg
from psycopg.rows import DictRow

from gateway.doctor.findings import Finding, failed, ok, warning
from gateway.doctor.over_http import readiness
from gateway.doctor.subject import Subject
from gateway.migrate import FOLDER, LOGINS

SKEW_SECONDS, REFUSED_SKEW_SECONDS = 5.0, 240.0
"""What is worth a look; what comes near the five minutes after which a signature counts as too old."""

ROLE = """
select rolname, rolsuper, rolbypassrls, rolinherit from pg_roles where rolname = current_user
"""
APPLIED = "select version from supabase_migrations.schema_migrations"


async def database(subject: Subject) -> Finding:
    """Both logins get in; over what kind of connection."""
    if subject.settings is None:
        return await readiness(subject, "database", "The gateway's log says why: `not_ready`.")
    if not subject.database_url:
        return failed("DATABASE_URL not configured", "Set it; docs/setup.md says where to find it.")
    for role in LOGINS:
        try:
            async with subject.database(role) as connection:
                milliseconds = await _round_trip(connection)
                version = connection.info.server_version // 10000
        except psycopg.OperationalError as error:
            return failed(f"`{role}` cannot log in: {_reason(error)}", _advice(str(error)))
    kind = await _kind(subject)
    return ok(f"PostgreSQL {version} over a {kind}, {milliseconds:.1f} ms a round trip")


async def clock(subject: Subject) -> Finding:
    """Leases and signatures go by two clocks, which should agree."""
    before = time.time()
    (row,) = await subject.rows("select clock_timestamp() as now")
    now: datetime.datetime = row["now"]
    skew = now.timestamp() - (before + time.time()) / 2
    found = f"the database's clock is {abs(skew):.1f} s {'ahead' if skew > 0 else 'behind'}"
    advice = "Let both machines set their clocks over the network: `timedatectl set-ntp true`."
    if abs(skew) > REFUSED_SKEW_SECONDS:
        return failed(found, f"{advice} Webhooks are refused from five minutes on.")
    return warning(found, advice) if abs(skew) > SKEW_SECONDS else ok(found)


async def migrations(subject: Subject) -> Finding:
    """Every migration of this code was applied."""
    advice = "Run `tenkaigen migrate` (on a hosted database with DATABASE_ADMIN_URL)."
    files = {path.stem.partition("_")[0]: path.name for path in FOLDER.glob("*.sql")}
    try:
        applied = {row["version"] for row in await subject.rows(APPLIED)}
    except (psycopg.errors.InsufficientPrivilege, psycopg.errors.UndefinedTable):
        return failed("migrations are missing", advice)
    pending = sorted(files.keys() - applied)
    if pending:
        return failed(f"{len(pending)} to apply, the first {files[pending[0]]}", advice)
    if applied - files.keys():
        newer = "the database is newer than this code"
        return warning(newer, f"Bring the gateway up to date; this is {metadata.version('tenkaigen')}.")
    return ok(f"{len(files)} applied, none to apply")


async def login_roles(subject: Subject) -> Finding:
    """Neither login gets past row-level security, and one that forgot to become somebody reads nothing."""
    for role in LOGINS:
        async with subject.database(role) as connection:
            row = await (await connection.execute(ROLE.encode())).fetchone()
        assert row is not None
        broken = [right for right in ("rolsuper", "rolbypassrls", "rolinherit") if row[right]]
        if broken or row["rolname"] != role:
            return failed(
                f"the login `{row['rolname']}` has {', '.join(broken) or 'another name than ' + role}",
                "Log in as `gateway` in DATABASE_URL, and run `alter role gateway nosuperuser nobypassrls "
                "noinherit` as the owner; the same for `gateway_service`.",
            )
    return ok("gateway, gateway_service: NOBYPASSRLS, NOINHERIT")


async def _round_trip(connection: psycopg.AsyncConnection[DictRow]) -> float:
    started = time.perf_counter()
    await connection.execute("select 1")
    return (time.perf_counter() - started) * 1000


async def _kind(subject: Subject) -> str:
    """Who answers: a server that two clients are given in turn belongs to a transaction pooler; one whose
    process is not the one that was announced stands behind a session pooler."""
    async with subject.database() as first, subject.database() as second:
        seen: list[set[int]] = [set(), set()]
        for _ in range(5):
            for pids, connection in zip(seen, (first, second), strict=True):
                row = await (await connection.execute("select pg_backend_pid() as pid")).fetchone()
                pids.add(row["pid"] if row else 0)
        if seen[0] & seen[1] or len(seen[0]) > 1:
            return "transaction pooler"
        return "direct connection" if first.info.backend_pid in seen[0] else "session pooler"


def _reason(error: psycopg.OperationalError) -> str:
    """The last thing that was tried; psycopg's messages name no password."""
    return (str(error).strip().splitlines() or ["no answer"])[-1].strip()


def _advice(message: str) -> str:
    if "password" in message or "SASL" in message or "authentication" in message:
        return (
            "Run `tenkaigen migrate` with DATABASE_ADMIN_URL: it gives both logins DATABASE_URL's password."
        )
    if "Network is unreachable" in message or "resolve" in message or "translate" in message:
        return "A hosted database's direct address is IPv6 only: take the pooler's address for DATABASE_URL."
    return "Check host and port of DATABASE_URL, and that the database runs and lets this machine in."
