"""The migrations on a real server: what they make, and what the database itself refuses."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg.rows import dict_row

from gateway.config import login_as
from gateway.migrate import FOLDER, migrate

Connection = psycopg.Connection[dict[str, Any]]

NEW_JOB = """
insert into public.generation_jobs (user_id, prompt_input, prompt_final, model, width, height, seed)
values (%s, 'a', 'a', 'instant', 64, 64, 1) returning id
"""
NEW_USER = "insert into auth.users (email) values (%s) returning id"
STATUSES = ("queued", "processing", "completed", "failed", "canceled")
ALLOWED = {
    *(("queued", to) for to in ("processing", "failed", "canceled")),
    *(("processing", to) for to in ("queued", "completed", "failed", "canceled")),
}


@pytest.fixture
def owner(admin_url: str) -> Iterator[Connection]:
    with psycopg.connect(admin_url, autocommit=True, row_factory=dict_row) as connection:
        yield connection


def new_user(owner: Connection, email: str = "") -> UUID:
    row = owner.execute(NEW_USER, (email or f"{uuid4()}@example.com",)).fetchone()
    assert row
    return UUID(str(row["id"]))


def new_job(owner: Connection, user: UUID) -> UUID:
    row = owner.execute(NEW_JOB, (user,)).fetchone()
    assert row
    return UUID(str(row["id"]))


def put_into(owner: Connection, job: UUID, status: str) -> None:
    """Lead a job to a status along allowed moves."""
    path = {"queued": [], "processing": ["processing"]}.get(status, ["processing", status])
    for step in path:
        owner.execute(
            """update public.generation_jobs set status = %s, error_code = 'x',
               wake_at = case when %s in ('queued', 'processing') then now() end where id = %s""",
            (step, step, job),
        )


@pytest.mark.parametrize(
    ("before", "after"), [(a, b) for a in STATUSES for b in STATUSES if a != b and (a, b) not in ALLOWED]
)
def test_a_forbidden_transition_is_refused(owner: Connection, before: str, after: str) -> None:
    job = new_job(owner, new_user(owner))
    put_into(owner, job, before)
    with pytest.raises(psycopg.errors.CheckViolation, match="cannot go from"):
        owner.execute("update public.generation_jobs set status = %s where id = %s", (after, job))


@pytest.mark.parametrize(("before", "after"), sorted(ALLOWED))
def test_an_allowed_transition_passes(owner: Connection, before: str, after: str) -> None:
    job = new_job(owner, new_user(owner))
    put_into(owner, job, before)
    owner.execute(
        """update public.generation_jobs set status = %s, error_code = 'x',
           wake_at = case when %s in ('queued', 'processing') then now() end where id = %s""",
        (after, after, job),
    )


def test_a_failed_job_must_say_why(owner: Connection) -> None:
    job = new_job(owner, new_user(owner))
    with pytest.raises(psycopg.errors.CheckViolation):
        owner.execute(
            "update public.generation_jobs set status = 'failed', wake_at = null where id = %s", (job,)
        )


def test_a_job_that_has_ended_never_falls_due(owner: Connection) -> None:
    job = new_job(owner, new_user(owner))
    with pytest.raises(psycopg.errors.CheckViolation):
        owner.execute("update public.generation_jobs set status = 'canceled' where id = %s", (job,))


@pytest.mark.parametrize("table", ["generation_jobs", "generated_assets", "api_keys"])
def test_a_login_that_forgot_to_become_somebody_reads_nothing(admin_url: str, table: str) -> None:
    with (
        psycopg.connect(login_as(admin_url, "gateway")) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        connection.execute(f"select * from public.{table}".encode())


def as_user(admin_url: str, user: UUID | None, sql: str, *values: object) -> list[dict[str, Any]]:
    """What the gateway's login sees after it became ``user`` (or nobody) for a transaction."""
    claims = f'{{"sub": "{user}", "role": "authenticated"}}' if user else "{}"
    with psycopg.connect(login_as(admin_url, "gateway"), row_factory=dict_row) as connection:
        connection.execute(
            "select set_config('role', 'authenticated', true), set_config('request.jwt.claims', %s, true)",
            (claims,),
        )
        return connection.execute(sql.encode(), values).fetchall()


def test_users_see_their_own_jobs_and_no_others(admin_url: str, owner: Connection) -> None:
    mine, theirs = new_user(owner), new_user(owner)
    job = new_job(owner, mine)
    new_job(owner, theirs)
    assert [row["id"] for row in as_user(admin_url, mine, "select id from public.generation_jobs")] == [job]
    assert as_user(admin_url, None, "select id from public.generation_jobs") == []


@pytest.mark.parametrize("column", ["leased_by", "wake_at", "call", "tries"])
def test_users_do_not_see_the_machinery(admin_url: str, owner: Connection, column: str) -> None:
    user = new_user(owner)
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        as_user(admin_url, user, f"select {column} from public.generation_jobs")


@pytest.mark.parametrize(
    "statement",
    [
        "update public.generation_jobs set prompt_input = 'b'",
        "delete from public.generation_jobs",
        "insert into public.generation_jobs (user_id) values (gen_random_uuid())",
        "select * from private.generation_calls",
        "select sha256 from public.api_keys",
        "select private.claim_queued_jobs('x', 1, 1, 1, 1)",
    ],
)
def test_users_write_nothing_and_read_nothing_private(
    admin_url: str, owner: Connection, statement: str
) -> None:
    user = new_user(owner)
    new_job(owner, user)
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        as_user(admin_url, user, statement)


def test_no_gateway_login_bypasses_row_level_security(owner: Connection) -> None:
    rows = owner.execute(
        "select rolname from pg_roles where rolname like 'gateway%%' and not rolbypassrls and not rolsuper"
    ).fetchall()
    assert {row["rolname"] for row in rows} == {"gateway", "gateway_service"}


def test_every_public_table_has_row_level_security(owner: Connection) -> None:
    open_tables = owner.execute(
        """select relname from pg_class where relnamespace = 'public'::regnamespace
           and relkind = 'r' and not relrowsecurity"""
    ).fetchall()
    assert open_tables == []


def test_every_foreign_key_is_indexed(owner: Connection) -> None:
    bare = owner.execute(
        """select conrelid::regclass::text as "table", conname from pg_constraint c
           where contype = 'f' and connamespace in ('public'::regnamespace, 'private'::regnamespace)
             and not exists (
               select from pg_index i where i.indrelid = c.conrelid and i.indkey[0] = c.conkey[1])"""
    ).fetchall()
    assert bare == []


def test_jobs_have_the_columns_that_frontends_and_operators_look_for(owner: Connection) -> None:
    rows = owner.execute(
        """select column_name from information_schema.columns
           where table_schema = 'public' and table_name = 'generation_jobs'"""
    ).fetchall()
    wanted = {
        *("user_id", "status", "prompt", "prompt_input", "prompt_enhanced", "prompt_final", "style", "width"),
        *("height", "seed", "model", "params", "loras", "references", "result_url", "output_bytes"),
        *("error_code", "error_message", "processing_time_ms", "queue_time_ms", "cost_usd_micros"),
    }
    assert wanted <= {row["column_name"] for row in rows}
    assert "image_data" not in {row["column_name"] for row in rows}


def test_the_buckets_are_private(owner: Connection) -> None:
    rows = owner.execute("select id, public from storage.buckets order by id").fetchall()
    assert rows == [{"id": name, "public": False} for name in ("generated-designs", "loras", "uploads")]


def test_migrating_twice_changes_nothing(admin_url: str, owner: Connection) -> None:
    assert migrate(admin_url) == []
    versions = owner.execute(
        "select version from supabase_migrations.schema_migrations order by 1"
    ).fetchall()
    assert [row["version"] for row in versions] == sorted(path.stem[:14] for path in FOLDER.glob("*.sql"))


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.sql")), ids=lambda path: path.stem)
def test_migrations_only_add(path: Path) -> None:
    assert re.fullmatch(r"\d{14}_[a-z]+(_[a-z0-9]+)+", path.stem)
    text = re.sub(r"--.*", "", path.read_text().lower())
    assert not re.search(r"\b(drop|truncate|delete from|alter column .* type)\b", text)
