"""API keys over the API, and from the command line."""

import re
from typing import Any
from uuid import UUID, uuid4

import httpx
import psycopg
import pytest

from gateway.config import ConfigurationError
from gateway.db import BECOME_USER
from gateway.embedded import add_key, find_keys, revoke_key
from tests.gateway.test_refusals import assert_problem
from tests.support.project import Project
from tests.support.stack import Stack


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"scopes": []},
        {"scopes": ["root"]},
        {"scopes": "read"},
        {"scopes": ["read"], "name": "x" * 101},
        {"scopes": ["read"], "name": "a\x00"},
        {"scopes": ["read"], "user_id": str(uuid4())},
    ],
)
async def test_a_malformed_key_is_refused(product: Stack, body: dict[str, Any]) -> None:
    assert_problem(await product.user.http.post("/v1/api-keys", json=body), 422, "validation_failed")


@pytest.mark.parametrize("scopes", [["admin"], ["generate", "read", "admin"]])
async def test_a_key_cannot_make_one_with_more_rights(product: Stack, scopes: list[str]) -> None:
    answer = await product.user.http.post("/v1/api-keys", json={"scopes": scopes})
    assert_problem(answer, 403, "forbidden")
    narrow = product.new_user(scopes=("generate",))
    assert_problem(await narrow.http.post("/v1/api-keys", json={"scopes": ["read"]}), 403, "forbidden")


async def test_a_key_that_only_reads_makes_and_revokes_none(product: Stack) -> None:
    reader = product.new_user(scopes=("read",))
    assert_problem(await reader.http.post("/v1/api-keys", json={"scopes": ["read"]}), 403, "forbidden")
    (own,) = (await reader.http.get("/v1/api-keys")).json()["data"]
    assert_problem(await reader.http.delete(f"/v1/api-keys/{own['id']}"), 403, "forbidden")


async def test_a_user_of_the_project_gives_admin_keys_only_as_an_admin(project: Project) -> None:
    user = await project.signed_in()
    assert_problem(await user.post("/v1/api-keys", json={"scopes": ["admin"]}), 403, "forbidden")
    assert (await user.post("/v1/api-keys", json={"scopes": ["read"]})).status_code == 201
    admin = await project.signed_in(project.new_user(app_metadata={"role": "admin"}))
    assert (await admin.post("/v1/api-keys", json={"scopes": ["admin"]})).status_code == 201


async def test_a_key_is_told_once_works_and_is_gone_once_revoked(product: Stack) -> None:
    user = product.new_user()
    answer = await user.http.post("/v1/api-keys", json={"name": "nightly", "scopes": ["read", "read"]})
    assert answer.status_code == 201
    made = answer.json()
    key = made.pop("key")
    assert re.fullmatch(r"tk_[\w-]{43}", key)
    assert (made["name"], made["scopes"], key.startswith(made["prefix"])) == ("nightly", ["read"], True)
    listed = (await user.http.get("/v1/api-keys")).json()
    assert listed["data"][0] == made
    assert key not in str(listed) + str(product.rows("select * from public.api_keys"))
    async with httpx.AsyncClient(base_url=product.url, headers={"Authorization": f"Bearer {key}"}) as http:
        assert (await http.get("/v1/session")).json()["user_id"] == str(user.id)
        assert_problem(await http.post("/v1/jobs", json={"prompt": "a"}), 403, "forbidden")
        assert (await user.http.delete(f"/v1/api-keys/{made['id']}")).status_code == 204
        assert_problem(await http.get("/v1/session"), 401, "unauthenticated")
    assert made["id"] not in [kept["id"] for kept in (await user.http.get("/v1/api-keys")).json()["data"]]
    assert_problem(await user.http.delete(f"/v1/api-keys/{made['id']}"), 404, "not_found")


async def test_keys_are_listed_in_pages_newest_first(product: Stack) -> None:
    user = product.new_user()
    made = [
        (await user.http.post("/v1/api-keys", json={"name": name, "scopes": ["read"]})).json()["id"]
        for name in "abc"
    ]
    first = (await user.http.get("/v1/api-keys?limit=2")).json()
    assert ([key["id"] for key in first["data"]], first["has_more"]) == ([made[2], made[1]], True)
    rest = (await user.http.get(f"/v1/api-keys?limit=2&after={first['last_id']}")).json()
    assert (rest["data"][0]["id"], rest["has_more"]) == (made[0], False)


def test_nobody_writes_keys_by_way_of_the_database(admin_url: str) -> None:
    user, _ = add_key(admin_url, "a@example.com", ["read"])
    claims = f'{{"sub": "{user}", "role": "authenticated"}}'
    statements = [
        "insert into public.api_keys (user_id, prefix, scopes) values (auth.uid(), '', '{admin}')",
        "update public.api_keys set scopes = '{admin}'",
        "update public.api_keys set revoked_at = null",
        "delete from public.api_keys",
        "select sha256 from public.api_keys",
        "select * from private.sessions",
    ]
    for statement in statements:
        with psycopg.connect(admin_url) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(BECOME_USER, {"claims": claims})
            connection.execute(statement.encode())


def test_an_operator_lists_and_revokes_keys_of_anybody(admin_url: str) -> None:
    add_key(admin_url, "a@example.com", ["read"], "of a")
    add_key(admin_url, "b@example.com", ["generate", "read"])
    (of_a,) = find_keys(admin_url, "A@example.com")
    assert (of_a["email"], of_a["name"], of_a["scopes"]) == ("a@example.com", "of a", ["read"])
    assert len(find_keys(admin_url)) == 2
    revoke_key(admin_url, of_a["id"])
    assert [key["email"] for key in find_keys(admin_url)] == ["b@example.com"]
    for unknown in (of_a["id"], UUID(int=0)):
        with pytest.raises(ConfigurationError, match="no such key"):
            revoke_key(admin_url, unknown)


def test_a_supabase_project_is_given_no_users(admin_url: str) -> None:
    with psycopg.connect(admin_url, autocommit=True) as owner:
        owner.execute("insert into auth.users (email) values ('a@example.com')")
        owner.execute("create role supabase_admin")
        try:
            add_key(admin_url, "A@example.com", ["read"])
            with pytest.raises(ConfigurationError, match="has no user b"):
                add_key(admin_url, "b@example.com", ["read"])
        finally:
            owner.execute("drop role supabase_admin")
