"""What users may do with objects when they talk to Storage themselves, with their own token."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from uuid import UUID, uuid4

import psycopg
import pytest

from gateway.config import login_as

BUCKETS = ["generated-designs", "uploads", "somebody-elses"]


@contextmanager
def signed_in(admin_url: str, user: UUID | None) -> Iterator[psycopg.Connection]:
    claims = {"sub": str(user), "role": "authenticated"} if user else {}
    with psycopg.connect(login_as(admin_url, "gateway")) as connection:
        connection.execute(
            "select set_config('role', 'authenticated', true), set_config('request.jwt.claims', %s, true)",
            (json.dumps(claims),),
        )
        yield connection


@pytest.fixture(scope="module")
def users() -> tuple[UUID, UUID]:
    return uuid4(), uuid4()


@pytest.fixture(scope="module")
def stored(new_database: Callable[[], str], users: tuple[UUID, UUID]) -> str:
    """A database with an object of each user in each bucket, and one under nobody's prefix."""
    url = new_database()
    with psycopg.connect(url) as connection:
        connection.execute("insert into storage.buckets (id, name) values (%s, %s)", (BUCKETS[2],) * 2)
        for bucket in BUCKETS:
            for name in (*(f"{user}/a/1-1-0.png" for user in users), "1-1-0.png"):
                connection.execute(
                    "insert into storage.objects (bucket_id, name) values (%s, %s)", (bucket, name)
                )
    return url


def test_users_read_under_their_own_prefix_and_nowhere_else(stored: str, users: tuple[UUID, UUID]) -> None:
    mine = users[0]
    with signed_in(stored, mine) as connection:
        rows = connection.execute("select bucket_id, name from storage.objects order by 1").fetchall()
    assert rows == [(bucket, f"{mine}/a/1-1-0.png") for bucket in BUCKETS[:2]]


def test_nobody_reads_without_being_somebody(stored: str) -> None:
    with signed_in(stored, None) as connection:
        assert connection.execute("select name from storage.objects").fetchall() == []


@pytest.mark.parametrize("bucket", BUCKETS)
def test_users_write_no_objects_even_under_their_own_prefix(
    stored: str, users: tuple[UUID, UUID], bucket: str
) -> None:
    with (
        signed_in(stored, users[0]) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege, match="row-level security"),
    ):
        connection.execute(
            "insert into storage.objects (bucket_id, name) values (%s, %s)", (bucket, f"{users[0]}/b.png")
        )


@pytest.mark.parametrize(
    "statement", ["update storage.objects set name = 'x'", "delete from storage.objects"]
)
def test_users_change_and_remove_no_objects(stored: str, users: tuple[UUID, UUID], statement: str) -> None:
    with signed_in(stored, users[0]) as connection:
        assert connection.execute(statement.encode()).rowcount == 0
