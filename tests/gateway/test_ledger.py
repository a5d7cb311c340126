"""The ledger on a real server: whatever happens to jobs and calls, in whatever order, it sums up."""

from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.rows import dict_row

from gateway.config import login_as

Connection = psycopg.Connection[dict[str, Any]]

ENDED = ("completed", "failed", "canceled")
CALLS = st.lists(
    st.tuples(
        st.sampled_from(["succeeded", "failed", "canceled", "lost"]), st.integers(0, 10**6), st.booleans()
    ),
    max_size=3,
)
"""How each attempt ends, what it cost, and whether it ends after its job."""
JOBS = st.lists(
    st.tuples(st.integers(0, 10**6), CALLS, st.sampled_from([*ENDED, "processing"])), min_size=1, max_size=6
)


@pytest.fixture
def service(admin_url: str) -> Iterator[Connection]:
    """As the login that moves jobs."""
    url = login_as(admin_url, "gateway_service")
    with psycopg.connect(url, autocommit=True, row_factory=dict_row) as connection:
        yield connection


@pytest.fixture
def user(admin_url: str) -> UUID:
    with psycopg.connect(admin_url) as owner:
        row = owner.execute("insert into auth.users (email) values ('a@example.com') returning id").fetchone()
    assert row is not None
    return UUID(str(row[0]))


def new_job(service: Connection, user: UUID, reserve: int) -> UUID:
    job = uuid4()
    service.execute(
        """insert into public.generation_jobs (
             id, user_id, prompt_input, prompt_final, model, width, height, seed, reserved_usd_micros)
           values (%s, %s, 'a', 'a', 'instant', 64, 64, 1, %s)""",
        (job, user, reserve),
    )
    service.execute("update public.generation_jobs set status = 'processing' where id = %s", (job,))
    return job


def end_job(service: Connection, job: UUID, status: str) -> None:
    service.execute(
        """update public.generation_jobs
           set status = %s, wake_at = null, finished_at = now(), error_code = 'x' where id = %s""",
        (status, job),
    )


def end_call(service: Connection, job: UUID, attempt: int, status: str, usd_micros: int) -> None:
    service.execute(
        """update private.generation_calls set status = %s, usd_micros = %s, finished_at = now()
           where job_id = %s and attempt = %s""",
        (status, 0 if status == "lost" else usd_micros, job, attempt),
    )


def carry_out(
    service: Connection, user: UUID, reserve: int, calls: list[tuple[str, int, bool]], end: str
) -> UUID:
    job = new_job(service, user, reserve)
    for attempt, (status, usd_micros, late) in enumerate(calls, 1):
        service.execute(
            """insert into private.generation_calls (job_id, seq, attempt, user_id, task, model)
               values (%s, 1, %s, %s, 'image', 'instant')""",
            (job, attempt, user),
        )
        if not late:
            end_call(service, job, attempt, status, usd_micros)
    if end in ENDED:
        end_job(service, job, end)
    for attempt, (status, usd_micros, late) in enumerate(calls, 1):
        if late:
            end_call(service, job, attempt, status, usd_micros)
    return job


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(jobs=JOBS)
def test_what_is_settled_is_what_the_calls_cost_and_what_is_held_is_what_still_runs(
    service: Connection, user: UUID, jobs: list[tuple[int, list[tuple[str, int, bool]], str]]
) -> None:
    made = [(carry_out(service, user, *job), job) for job in jobs]
    ids = [job_id for job_id, _ in made]
    rows = service.execute(
        """select coalesce(sum(usd_micros) filter (where kind = 'settle'), 0) as settled,
             coalesce(sum(usd_micros) filter (where kind <> 'settle'), 0) as held
           from private.ledger where job_id = any(%s)""",
        (ids,),
    ).fetchall()
    cost = sum(
        usd for _, (_, calls, end) in made if end in ENDED for status, usd, _ in calls if status != "lost"
    )
    held = sum(reserve for _, (reserve, _, end) in made if end not in ENDED)
    assert rows == [{"settled": cost, "held": held}]
    for job_id, (_, calls, end) in made:
        if end in ENDED:
            (row,) = service.execute(
                "select cost_usd_micros from public.generation_jobs where id = %s", (job_id,)
            ).fetchall()
            assert row["cost_usd_micros"] == sum(usd for status, usd, _ in calls if status != "lost")


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(jobs=JOBS, periods=st.sampled_from([["month"], ["day"], ["month", "day"]]))
def test_the_sums_beside_a_budget_are_the_ledgers(
    service: Connection,
    user: UUID,
    jobs: list[tuple[int, list[tuple[str, int, bool]], str]],
    periods: list[str],
) -> None:
    for set_by, period in zip(("user", "admin"), periods, strict=False):
        service.execute(
            """insert into public.budgets (user_id, set_by, period, limit_usd_micros)
               values (%s, %s, %s, 1000000000000)
               on conflict (user_id, set_by) do update set period = excluded.period""",
            (user, set_by, period),
        )
    for job in jobs:
        carry_out(service, user, *job)
    (ledger,) = service.execute(
        """select sum(usd_micros)::bigint as held, sum(images)::bigint as images,
             coalesce(sum(usd_micros) filter (where kind = 'settle'), 0)::bigint as spent
           from private.ledger where user_id = %s""",
        (user,),
    ).fetchall()
    counts = service.execute(
        "select * from private.budget_counts where user_id = %s order by set_by", (user,)
    ).fetchall()
    use = service.execute("select * from private.budget_use where user_id = %s", (user,)).fetchall()
    assert len(use) == len(counts) >= len(periods)
    for row in counts:
        assert (row["held_usd_micros"], row["spent_usd_micros"]) == (ledger["held"], ledger["spent"])
        assert row["images"] == ledger["images"]
    for row in use:
        assert row["reserved_usd_micros"] == ledger["held"] - ledger["spent"]


def test_sums_that_were_lost_or_are_of_yesterday_are_made_anew(service: Connection, user: UUID) -> None:
    service.execute("insert into public.budgets (user_id, limit_usd_micros) values (%s, 1000)", (user,))
    for _ in range(2):
        new_job(service, user, 400)
        service.execute(
            """update private.budget_counts set held_usd_micros = 999999,
                 day_starts_at = day_starts_at - interval '1 day' where user_id = %s""",
            (user,),
        )
    (use,) = service.execute("select * from private.budget_use where user_id = %s", (user,)).fetchall()
    assert use["reserved_usd_micros"] == 800
    with pytest.raises(psycopg.DatabaseError, match="over budget"):
        new_job(service, user, 400)


def test_a_job_with_a_call_still_running_stays_reserved(service: Connection, user: UUID) -> None:
    job = new_job(service, user, 500)
    service.execute(
        """insert into private.generation_calls (job_id, seq, attempt, user_id, task, model)
           values (%s, 1, 1, %s, 'image', 'instant')""",
        (job, user),
    )
    end_job(service, job, "canceled")
    assert kinds(service, job) == ["reserve"]
    end_call(service, job, 1, "canceled", 70)
    assert kinds(service, job) == ["reserve", "release", "settle"]


def kinds(service: Connection, job: UUID) -> list[str]:
    rows = service.execute("select kind from private.ledger where job_id = %s order by id", (job,)).fetchall()
    return [row["kind"] for row in rows]


@pytest.mark.parametrize(
    "statement", ["update private.ledger set usd_micros = 0", "delete from private.ledger"]
)
def test_nothing_in_the_ledger_is_ever_changed(service: Connection, user: UUID, statement: str) -> None:
    new_job(service, user, 1)
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        service.execute(statement.encode())


def test_a_job_is_reserved_and_settled_once(service: Connection, user: UUID) -> None:
    job = new_job(service, user, 1)
    end_job(service, job, "completed")
    service.execute("select private.settle_costs(array[%s]::uuid[])", (job,))
    assert kinds(service, job) == ["reserve", "release", "settle"]


def test_what_is_refused_takes_the_whole_statement_with_it(service: Connection, user: UUID) -> None:
    service.execute("insert into public.budgets (user_id, limit_usd_micros) values (%s, 5)", (user,))
    with pytest.raises(psycopg.DatabaseError) as refused:
        service.execute(
            """insert into public.generation_jobs (
                 user_id, prompt_input, prompt_final, model, width, height, seed, reserved_usd_micros)
               select %s, 'a', 'a', 'instant', 64, 64, n, 2 from generate_series(1, 3) n""",
            (user,),
        )
    assert refused.value.diag.sqlstate == "TK402"
    for table in ("public.generation_jobs", "private.ledger", "private.job_events"):
        assert service.execute(f"select from {table}".encode()).fetchall() == []
