"""Who may do what with whose rows: every table and view, every role, on real Postgres.

The expectations are data, one entry a table, in ``tests/support/tables.py``.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg.rows import dict_row

from gateway.auth import Principal
from gateway.config import login_as
from tests.support.tables import TABLES, Connection, Table, add_rows, claims_of

WHO = ("anonymous", "owner", "key", "editor", "viewer", "other", "service", "login")
LETTERS = {"select": "s", "insert": "i", "update": "u", "delete": "d"}
REFUSED = (psycopg.errors.InsufficientPrivilege, psycopg.errors.ObjectNotInPrerequisiteState)
"""The second is what a view says that nobody can write."""
BECOME = "select set_config('role', %s, true), set_config('request.jwt.claims', %s, true)"
OF_A_TABLE = pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)


class World:
    """A database with one row in each table, and the connections of the gateway's two logins."""

    def __init__(self, admin_url: str) -> None:
        self.admin_url = admin_url
        self.admin: Connection = psycopg.connect(admin_url, row_factory=dict_row)
        self.ids = add_rows(self.admin)
        self.admin.commit()
        self._login: Connection = psycopg.connect(login_as(admin_url, "gateway"), row_factory=dict_row)
        self._service: Connection = psycopg.connect(
            login_as(admin_url, "gateway_service"), row_factory=dict_row
        )

    def close(self) -> None:
        for connection in (self.admin, self._login, self._service):
            connection.close()

    @contextmanager
    def of(self, who: str) -> Iterator[Connection]:
        """A transaction of somebody of ``WHO``, which leaves no trace."""
        if who == "service":
            connection, become = self._service, None
        elif who == "anonymous":
            connection, become = self.admin, ("anon", json.dumps({"role": "anon"}))
        elif who == "login":
            connection, become = self._login, None
        else:
            connection, become = self._login, ("authenticated", self._claims(who))
        with connection.transaction(force_rollback=True):
            if become:
                connection.execute(BECOME, become)
            yield connection

    @contextmanager
    def claiming(self, claims: str) -> Iterator[Connection]:
        with self._login.transaction(force_rollback=True):
            self._login.execute(BECOME, ("authenticated", claims))
            yield self._login

    def _claims(self, who: str) -> str:
        if who == "key":
            return json.dumps(Principal(self.ids["owner"], "key:1", frozenset({"read"})).claims)
        return claims_of(self.ids[who])


@pytest.fixture(scope="module")
def world(new_database: Callable[[], str]) -> Iterator[World]:
    world = World(new_database())
    yield world
    world.close()


def outcome(connection: Connection, table: Table, action: str, ids: dict[str, UUID]) -> str:
    """One letter, see ``tests/support/tables.py``."""
    try:
        with connection.transaction(force_rollback=True):
            cursor = connection.execute(table.statements()[action].encode(), ids)
            found = _only(cursor) if action == "select" else cursor.rowcount
    except REFUSED:
        return "-"
    except psycopg.errors.IntegrityError:
        return LETTERS[action]  # allowed, and too much of a good thing
    return LETTERS[action] if found else "0"


def _only(cursor: psycopg.Cursor[dict[str, Any]]) -> Any:
    row = cursor.fetchone()
    assert row is not None and len(row) == 1
    return next(iter(row.values()))


def test_every_table_and_view_has_its_expectations(world: World) -> None:
    rows = world.admin.execute(
        """select relnamespace::regnamespace::text as schema, relname
           from pg_class c where relkind in ('r', 'p', 'v', 'm', 'f')
             and relnamespace in ('public'::regnamespace, 'private'::regnamespace)"""
    ).fetchall()
    world.admin.rollback()
    assert sorted(f"{row['schema']}.{row['relname']}" for row in rows) == sorted(t.name for t in TABLES)


@pytest.mark.parametrize("who", WHO)
@OF_A_TABLE
def test_what_each_may_do_with_the_owners_row(world: World, table: Table, who: str) -> None:
    with world.of(who) as connection:
        letters = "".join(outcome(connection, table, action, world.ids) for action in LETTERS)
    assert letters == table.allowed(who)


FORGED = {
    "a role of the service": {"role": "service_role"},
    "a role of the database": {"role": "postgres", "aud": "gateway_service"},
    "an administrator by own word": {"user_metadata": {"role": "admin", "is_admin": True}},
    "another's id where users write": {
        "user_metadata": {"sub": "OWNER", "user_id": "OWNER"},
        "user_id": "OWNER",
    },
    "another's mail": {"email": "owner@example.com", "is_anonymous": False},
}


@pytest.mark.parametrize("forgery", FORGED)
@OF_A_TABLE
def test_a_forged_claim_opens_nothing(world: World, table: Table, forgery: str) -> None:
    more = json.loads(json.dumps(FORGED[forgery]).replace("OWNER", str(world.ids["owner"])))
    with world.claiming(json.dumps({"sub": str(world.ids["other"]), **more})) as connection:
        letters = "".join(outcome(connection, table, action, world.ids) for action in LETTERS)
    assert letters == table.allowed("other")


NOBODY = {
    "no claims": "",
    "empty claims": "{}",
    "claims without sub": '{"role": "authenticated"}',
    "sub of nothing": '{"sub": null}',
    "empty sub": '{"sub": ""}',
    "sub that is no id": '{"sub": "everybody"}',
    "sub that is a list": '{"sub": ["%"]}',
    "sub that is SQL": """{"sub": "' or true --"}""",
    "claims that are no JSON": "sub=everybody",
}


@pytest.mark.parametrize("claims", NOBODY.values(), ids=list(NOBODY))
@OF_A_TABLE
def test_nobody_in_particular_finds_no_row(world: World, table: Table, claims: str) -> None:
    for action in LETTERS:
        with world.claiming(claims) as connection:
            try:
                assert outcome(connection, table, action, world.ids) in {"0", "-"}
            except psycopg.errors.InvalidTextRepresentation as error:
                assert "invalid input syntax for type" in str(error)  # ended before it had read a row


@OF_A_TABLE
def test_a_forgotten_identity_reads_nothing_also_after_somebody_elses_transaction(
    world: World, table: Table
) -> None:
    with world.of("owner"):
        pass
    with world.of("login") as connection:
        assert outcome(connection, table, "select", world.ids) == "-"


@pytest.mark.parametrize("login", ["gateway", "gateway_service"])
@pytest.mark.parametrize("role", ["gateway", "gateway_service", "service_role", "postgres", "anon"])
def test_no_login_can_become_more_than_it_is(world: World, login: str, role: str) -> None:
    if login == role:
        return
    with (
        psycopg.connect(login_as(world.admin_url, login)) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        connection.execute(f"set role {role}".encode())


@pytest.mark.parametrize("table", [t for t in TABLES if t.owner[0] == "s"], ids=lambda table: table.name)
def test_nothing_of_one_user_is_counted_by_another(world: World, table: Table) -> None:
    """Without any filter: rows, estimates by exists(), and sums over views."""
    everything = Table(table.name, table.insert, table.owner, table.service).statements()["select"]
    with world.of("other") as connection:
        counted = _only(connection.execute(everything.encode()))
    own = {"public.profiles": 1, "public.v_storage_usage": 1}.get(table.name, 0)
    assert counted == own
    if table.name == "public.v_storage_usage":
        with world.of("other") as connection:
            row = connection.execute("select * from public.v_storage_usage").fetchone()
            assert row == {"images": 0, "bytes": 0, "mb_used": 0.0}


LINKS = {
    "a character's LoRA": (
        "insert into public.characters (user_id, name, source, lora_id) values (%(me)s, 'a', 'lora', %(id)s)",
        "loras",
    ),
    "a character's project": (
        "insert into public.characters (user_id, name, source, description, project_id)"
        " values (%(me)s, 'a', 'description', 'a', %(id)s)",
        "comic_projects",
    ),
    "a character moved to a project": (
        "update public.characters set project_id = %(id)s where id = %(my_character)s",
        "comic_projects",
    ),
    "a member of a project": (
        "insert into public.project_members (project_id, user_id) values (%(id)s, %(me)s)",
        "comic_projects",
    ),
    "a chapter of a project": (
        "insert into public.comic_chapters (project_id, name, position) values (%(id)s, 'a', 99)",
        "comic_projects",
    ),
    "a panel of a chapter": (
        "insert into public.comic_panels (chapter_id, position, prompt) values (%(id)s, 99, 'a')",
        "comic_chapters",
    ),
    "a character in a panel": (
        "insert into public.panel_characters (panel_id, character_id, position)"
        " values (%(my_panel)s, %(id)s, 9)",
        "characters",
    ),
    "a panel with a character": (
        "insert into public.panel_characters (panel_id, character_id, position)"
        " values (%(id)s, %(my_character)s, 9)",
        "comic_panels",
    ),
}


@pytest.mark.parametrize("link", LINKS)
def test_a_link_to_anothers_row_is_refused_like_one_to_a_missing_row(world: World, link: str) -> None:
    statement, table = LINKS[link]
    with world.of("other") as connection:
        mine = own_comic(connection, world.ids["other"])
        answers = set()
        for wanted in (world.ids[table], uuid4()):
            try:
                with connection.transaction():
                    connection.execute(statement.encode(), {**mine, "id": wanted})
                answers.add("done")
            except psycopg.Error as error:
                answers.add(f"{error.sqlstate} {error.diag.message_primary}")
    assert len(answers) == 1
    assert answers.pop().startswith("42501")


def own_comic(connection: Connection, user: UUID) -> dict[str, UUID]:
    """A comic with a chapter, a panel and a character, made by ``user`` with a user's rights."""
    ids = {"me": user}
    for name, statement in {
        "project": "insert into public.comic_projects (user_id, name) values (%(me)s, 'a')",
        "chapter": "insert into public.comic_chapters (project_id, name, position)"
        " values (%(my_project)s, 'Chapter 1', 0)",
        "panel": "insert into public.comic_panels (chapter_id, position, prompt)"
        " values (%(my_chapter)s, 0, 'a')",
        "character": "insert into public.characters (user_id, name, source, description)"
        " values (%(me)s, 'a', 'description', 'a')",
    }.items():
        row = connection.execute(f"{statement} returning id".encode(), ids).fetchone()
        assert row is not None
        ids[f"my_{name}"] = row["id"]
    return ids


def test_the_owner_of_a_project_stays_its_only_owner(world: World) -> None:
    refused = (
        "insert into public.project_members (project_id, user_id, role) values (%(p)s, %(other)s, 'owner')",
        "update public.project_members set role = 'owner' where user_id = %(editor)s",
    )
    nothing = (
        "update public.project_members set role = 'viewer' where user_id = %(owner)s",
        "delete from public.project_members where user_id = %(owner)s",
    )
    ids = {**world.ids, "p": world.ids["comic_projects"]}
    for statement in refused:
        with world.of("owner") as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(statement.encode(), ids)
    for statement in nothing:
        with world.of("owner") as connection:
            assert connection.execute(statement.encode(), ids).rowcount == 0


def test_a_member_leaves_and_sees_no_more(world: World) -> None:
    with world.of("viewer") as connection:
        left = connection.execute("delete from public.project_members where user_id = %(viewer)s", world.ids)
        assert left.rowcount == 1
        assert _only(connection.execute("select count(*) from public.comic_projects")) == 0
        assert _only(connection.execute("select count(*) from public.comic_panels")) == 0


def test_a_character_outside_of_projects_is_its_owners_alone(world: World) -> None:
    with world.of("owner") as connection:
        connection.execute("update public.characters set project_id = null")
        assert _only(connection.execute("select count(*) from public.characters")) == 1
        connection.execute(BECOME, ("authenticated", claims_of(world.ids["editor"])))
        for table in ("characters", "character_profiles", "character_images", "character_runs"):
            assert _only(connection.execute(f"select count(*) from public.{table}".encode())) == 0


MACHINE = (
    *(
        "status",
        "stage",
        "error_code",
        "error_message",
        "error",
        "job_id",
        "image_id",
        "asset_id",
        "sha256",
        "bytes",
    ),
    *(
        "bucket",
        "key",
        "version",
        "consistency",
        "attempts",
        "enhanced_prompt",
        "reference_image_workflow_ids",
    ),
    *("id", "created_at", "set_by", "warned_at", "metrics", "provider", "rank", "alpha", "key_format"),
)


def test_users_write_no_column_of_the_machine(world: World) -> None:
    rows = world.admin.execute(
        """select table_name, column_name, privilege_type from information_schema.column_privileges
           where grantee in ('authenticated', 'anon', 'PUBLIC') and table_schema = 'public'
             and privilege_type in ('INSERT', 'UPDATE') and column_name = any(%s)""",
        (list(MACHINE),),
    ).fetchall()
    world.admin.rollback()
    assert rows == []
