"""Supabase's tokens at the door: what is refused, and as whom the rest comes in."""

import asyncio
import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import jwt
import pytest

from gateway.auth import tokens
from gateway.auth.tokens import SigningKeys, Tokens
from gateway.errors import Unavailable
from tests.gateway.conftest import NewProject
from tests.gateway.test_refusals import assert_problem
from tests.support.auth_server import LEGACY_SECRET, Key
from tests.support.project import Project
from tests.support.stack import free_port, serve

Minted = Callable[[Project], str]


def encoded(part: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")


def unsigned(claims: dict[str, Any]) -> str:
    return f"{encoded({'alg': 'none', 'typ': 'JWT'})}.{encoded(claims)}."


def with_public_key_as_secret(project: Project, key: Key) -> str:
    """HS256 over the public key's text: PyJWT refuses to sign so, an attacker does not."""
    header = {"alg": "HS256", "typ": "JWT", "kid": key.kid}
    signed = f"{encoded(header)}.{encoded(project.auth.claims(project.user))}"
    signature = hmac.digest(key.public_text.encode(), signed.encode(), hashlib.sha256)
    return f"{signed}.{base64.urlsafe_b64encode(signature).decode().rstrip('=')}"


def with_wrong_algorithm(project: Project) -> str:
    """Signed by the RSA key, in the name of the EC key."""
    auth = project.auth
    return jwt.encode(auth.claims(project.user), auth.rs256.private, "RS256", {"kid": auth.es256.kid})


REFUSED: dict[str, Minted] = {
    "expired": lambda p: p.auth.token(p.user, exp=int(time.time()) - 11),
    "for another audience": lambda p: p.auth.token(p.user, aud="anon"),
    "of another issuer": lambda p: p.auth.token(p.user, iss="https://other.supabase.co/auth/v1"),
    "without an end": lambda p: p.auth.token(p.user, exp=None),
    "without an audience": lambda p: p.auth.token(p.user, aud=None),
    "without an issuer": lambda p: p.auth.token(p.user, iss=None),
    "without a user": lambda p: p.auth.token(p.user, sub=None),
    "of a user that is no uuid": lambda p: p.auth.token(p.user, sub="root"),
    "of another role": lambda p: p.auth.token(p.user, role="service_role"),
    "unsigned": lambda p: unsigned(p.auth.claims(p.user)),
    "signed by a stranger's key": lambda p: p.auth.token(p.user, Key("ES256")),
    "signed by a stranger in the name of a known key": lambda p: jwt.encode(
        p.auth.claims(p.user), Key("ES256").private, "ES256", {"kid": p.auth.es256.kid}
    ),
    "signed with the public EC key as the secret": lambda p: with_public_key_as_secret(p, p.auth.es256),
    "signed with the public RSA key as the secret": lambda p: with_public_key_as_secret(p, p.auth.rs256),
    "signed by the other algorithm": with_wrong_algorithm,
    "signed with another secret": lambda p: jwt.encode(p.auth.claims(p.user), "x" * 32, "HS256"),
    "without a key id": lambda p: jwt.encode(p.auth.claims(p.user), p.auth.es256.private, "ES256"),
    "the legacy anon key": lambda p: jwt.encode(
        {"iss": "supabase", "ref": "abc", "role": "anon", "iat": 1700000000, "exp": 2000000000},
        LEGACY_SECRET,
        "HS256",
    ),
    "of a header of brackets": lambda p: base64.urlsafe_b64encode(b"[" * 20_000).decode() + ".e30.x",
    "no token at all": lambda p: "a.b.c",
}


@pytest.mark.parametrize("token", REFUSED.values(), ids=REFUSED.keys())
async def test_a_token_that_is_not_good_in_every_respect_is_refused(project: Project, token: Minted) -> None:
    answer = await project.as_bearer(token(project)).get("/v1/jobs")
    problem = assert_problem(answer, 401, "unauthenticated")
    assert problem["detail"] == "Authentication required"
    assert answer.headers["www-authenticate"] == "Bearer"


async def test_rights_that_a_user_gave_itself_are_none(project: Project) -> None:
    forged = {"role": "admin", "app_metadata": {"role": "admin"}}
    http = project.as_bearer(project.auth.token(project.user, user_metadata=forged))
    assert (await http.get("/v1/session")).json()["scopes"] == ["generate", "read"]
    answer = await http.post("/v1/api-keys", json={"scopes": ["admin"]})
    assert_problem(answer, 403, "forbidden")


async def test_a_user_who_was_deleted_cannot_draw_with_a_token_that_is_still_good(project: Project) -> None:
    token = project.auth.token(project.user, sub=str(uuid4()))
    answer = await project.as_bearer(token).post("/v1/jobs", json={"prompt": "a"})
    assert_problem(answer, 401, "unauthenticated")


async def test_fifty_unknown_key_ids_make_no_flood(new_project: NewProject) -> None:
    async with new_project() as project:
        strangers = [project.auth.token(project.user, Key("ES256")) for _ in range(50)]
        calls = [project.as_bearer(token).get("/v1/jobs") for token in strangers]
        assert {answer.status_code for answer in await asyncio.gather(*calls)} == {401}
        assert project.auth.asked["jwks.json"] == 1


async def test_keys_that_cannot_be_had_are_a_passing_trouble_and_known_ones_keep_working(
    new_project: NewProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    for pause in ("RETRY_SECONDS", "ASK_AGAIN_SECONDS", "KEYS_FRESH_SECONDS", "TRUSTED_SECONDS"):
        monkeypatch.setattr(tokens, pause, 0)
    async with new_project() as project:
        known = project.as_bearer(project.auth.token(project.user))
        unknown = project.as_bearer(project.auth.token(project.user, Key("ES256")))
        project.auth.outage = 503
        problem = assert_problem(await known.get("/v1/jobs"), 503, "auth_unavailable")
        assert problem["retryable"] is True
        project.auth.outage = None
        assert (await known.get("/v1/jobs")).status_code == 200
        project.auth.outage = 500
        assert (await known.get("/v1/jobs")).status_code == 200
        assert_problem(await unknown.get("/v1/jobs"), 503, "auth_unavailable")
        assert project.auth.asked["jwks.json"] == 4


async def test_a_service_that_is_not_there_is_asked_seldom() -> None:
    keys = SigningKeys(f"http://127.0.0.1:{free_port()}/jwks.json")
    for _ in range(3):
        with pytest.raises(Unavailable):
            await keys.find("any")
    assert not keys._worth_asking("any")


@pytest.mark.parametrize("body", [b"not json", b"[]", b"{}", b'{"keys": 1}', b"\xff\xfe"])
async def test_an_answer_that_is_no_key_set_is_an_outage(body: bytes) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": body})

    async with serve(app) as url:
        with pytest.raises(Unavailable):
            await SigningKeys(url).find("any")


def test_a_damaged_key_or_one_of_another_kind_spoils_no_other() -> None:
    shared = {"kty": "oct", "kid": "shared", "k": "c2VjcmV0", "alg": "HS256"}
    bad = {"kty": "EC", "crv": "P-256", "kid": "bad", "x": "AA", "y": "AA"}
    good = Key("ES256").public
    found = tokens._usable({"keys": [None, shared, bad, {"kty": "RSA"}, {**good, "crv": "P-384"}, good]})
    assert list(found) == [good["kid"]]


async def test_a_new_key_of_the_project_is_found_and_a_withdrawn_one_forgotten(
    new_project: NewProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "ASK_AGAIN_SECONDS", 0)
    async with new_project() as project:
        before = project.as_bearer(project.auth.token(project.user))
        assert (await before.get("/v1/jobs")).status_code == 200
        rotated = Key("ES256")
        project.auth.keys = [rotated]
        after = project.as_bearer(project.auth.token(project.user, rotated))
        assert (await after.get("/v1/jobs")).status_code == 200
        assert (await before.get("/v1/jobs")).status_code == 401


GOOD: dict[str, Minted] = {
    "ES256": lambda p: p.auth.token(p.user),
    "RS256": lambda p: p.auth.token(p.user, p.auth.rs256),
    "HS256": lambda p: p.auth.legacy_token(p.user),
    "expired a moment ago": lambda p: p.auth.token(p.user, exp=int(time.time()) - 3),
}


@pytest.mark.parametrize("token", GOOD.values(), ids=GOOD.keys())
async def test_a_good_token_is_its_user(project: Project, token: Minted) -> None:
    http = project.as_bearer(token(project))
    me = (await http.get("/v1/session")).json()
    assert me == {
        **{"object": "session", "user_id": project.user.id, "email": project.user.email},
        **{"scopes": ["generate", "read"], "mode": "supabase"},
    }
    job = (await http.post("/v1/jobs", json={"prompt": "a"})).json()
    assert project.rows("select user_id::text from public.generation_jobs where id = %s", job["id"]) == [
        {"user_id": project.user.id}
    ]
    assert job["id"] in [listed["id"] for listed in (await http.get("/v1/jobs")).json()["data"]]


async def test_an_admin_is_whom_the_project_calls_one(project: Project) -> None:
    http = project.as_bearer(project.auth.token(project.user, app_metadata={"role": "admin"}))
    assert (await http.get("/v1/session")).json()["scopes"] == ["admin", "generate", "read"]


async def test_row_level_security_reads_the_verified_claims(project: Project) -> None:
    token = project.auth.token(project.user, session_id="of-the-test")
    principal = await Tokens(project.app.state.settings).principal(token)
    async with project.app.state.db.as_user(principal) as connection:
        row = await (await connection.execute("select auth.jwt() as told, auth.uid() as uid")).fetchone()
    assert row["told"] == jwt.decode(token, options={"verify_signature": False})
    assert str(row["uid"]) == project.user.id
