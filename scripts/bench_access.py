"""What row-level security costs: ``make bench``.

100,000 jobs of 1,000 users, and 100,000 panels in their comics, on embedded Postgres.  The same query is sent
by turns to two connections: as the signed-in user, under the policies, and as the tables' owner, whom no
policy binds.  Both see the same rows; the times stand side by side.  The last columns take the whole
transaction: BEGIN, becoming the user, the query, COMMIT.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from gateway.db import BECOME_USER
from gateway.embedded import EmbeddedPostgres
from scripts.process_figures import machine

USERS, JOBS_EACH, CHAPTERS_EACH, PANELS_EACH = 1000, 100, 4, 25
LIMIT = 2.0
"""How much dearer a query under the policies may be."""

FILL = f"""
insert into auth.users (id, email)
select gen_random_uuid(), 'user-' || n || '@example.com' from generate_series(1, {USERS}) n;

insert into public.generation_jobs
  (user_id, prompt_input, prompt_final, model, width, height, seed, status, wake_at, created_at)
select id, 'a phoenix rising', 'a phoenix rising, anime', 'instant', 1024, 1024, n, 'completed', null,
  now() - make_interval(mins => n)
from auth.users, generate_series(1, {JOBS_EACH}) n order by n, random();

insert into public.comic_projects (user_id, name) select id, 'A comic' from auth.users;
insert into public.comic_chapters (project_id, name, position)
select id, 'Chapter ' || n, n from public.comic_projects, generate_series(1, {CHAPTERS_EACH}) n
order by random();
insert into public.comic_panels (chapter_id, position, prompt)
select id, n, 'Kit looks up at the first snow' from public.comic_chapters, generate_series(1, {PANELS_EACH}) n
order by random();
"""
ONE_USER = """
select u.id as user, j.id as job, c.id as chapter, p.id as panel
from auth.users u
join public.generation_jobs j on j.user_id = u.id
join public.comic_projects o on o.user_id = u.id
join public.comic_chapters c on c.project_id = o.id
join public.comic_panels p on p.chapter_id = c.id
where u.email = 'user-500@example.com' limit 1
"""


@dataclass(frozen=True)
class Query:
    what: str
    sql: str
    rows: int


QUERIES = [
    Query(
        "the newest 20 jobs",
        "select id, status from public.generation_jobs where user_id = %(user)s"
        " order by created_at desc, id desc limit 20",
        rows=20,
    ),
    Query("one job", "select id, status from public.generation_jobs where id = %(job)s", rows=1),
    Query(
        "count of all jobs",
        "select count(*) from public.generation_jobs where user_id = %(user)s",
        rows=1,
    ),
    Query(
        "panels of a chapter",
        "select id, prompt from public.comic_panels where chapter_id = %(chapter)s order by position",
        rows=PANELS_EACH,
    ),
    Query("one panel", "select id, prompt from public.comic_panels where id = %(panel)s", rows=1),
]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--turns", type=int, default=300, help="times that each query is sent to each")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="tenkaigen-bench-") as folder,
        EmbeddedPostgres(Path(folder)) as postgres,
        _connected(postgres.admin_url) as owner,
        _connected(postgres.database_url) as user,
    ):
        ids = _fill(owner)
        print(machine())
        print(f"{'ms, median':>22} {'policies':>10} {'none':>8} {'ratio':>6}{'transaction':>13} {'none':>8}")
        ratios = [_compare(query, user, owner, ids, options.turns) for query in QUERIES]
    if max(ratios) > LIMIT:
        sys.exit(f"row-level security costs more than {LIMIT:g} times the query")


def _connected(url: str) -> psycopg.Connection[Any]:
    """As the gateway's pools connect."""
    return psycopg.connect(url, autocommit=True, prepare_threshold=None)


def _fill(owner: psycopg.Connection[Any]) -> dict[str, Any]:
    owner.execute(FILL.encode())
    owner.execute("vacuum analyze")
    row = owner.execute(ONE_USER.encode()).fetchone()
    assert row is not None
    return dict(zip(("user", "job", "chapter", "panel"), row, strict=True))


def _compare(
    query: Query,
    user: psycopg.Connection[Any],
    owner: psycopg.Connection[Any],
    ids: dict[str, Any],
    turns: int,
) -> float:
    """Print one line; returns how many times as long the query takes under the policies."""
    claims = f'{{"sub": "{ids["user"]}", "role": "authenticated"}}'

    def as_user() -> tuple[float, float]:
        started = time.perf_counter()
        with user.transaction():
            user.execute(BECOME_USER.encode(), {"claims": claims})
            seconds = _timed(user, query.sql, ids, query.rows)
        return seconds, time.perf_counter() - started

    def as_owner() -> tuple[float, float]:
        started = time.perf_counter()
        with owner.transaction():
            seconds = _timed(owner, query.sql, ids, query.rows)
        return seconds, time.perf_counter() - started

    (bound, whole), (free, whole_free) = _by_turns(as_user, as_owner, turns)
    ratio = bound / free
    print(f"{query.what:>22} {bound:>10.3f} {free:>8.3f} {ratio:>6.2f} {whole:>12.3f} {whole_free:>8.3f}")
    return ratio


def _timed(connection: psycopg.Connection[Any], sql: str, ids: dict[str, Any], rows: int) -> float:
    started = time.perf_counter()
    found = connection.execute(sql.encode(), ids).fetchall()
    seconds = time.perf_counter() - started
    assert len(found) == rows, f"{len(found)} rows in place of {rows}"
    return seconds


def _by_turns(
    one: Callable[[], tuple[float, float]], other: Callable[[], tuple[float, float]], turns: int
) -> tuple[list[float], list[float]]:
    """Medians in ms of (query, transaction) of both, which take turns, so that a busy moment meets both."""
    taken: tuple[list[tuple[float, float]], list[tuple[float, float]]] = ([], [])
    for turn in range(turns + 20):
        for times, run in zip(taken, (one, other), strict=True):
            measured = run()
            if turn >= 20:  # the first warm up
                times.append(measured)
    first, second = (
        [1000 * statistics.median(column) for column in zip(*times, strict=True)] for times in taken
    )
    return first, second


if __name__ == "__main__":
    main()
