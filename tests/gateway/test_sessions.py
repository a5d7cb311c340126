"""Signing in and out, by the cookie of a browser."""

import asyncio
import base64
import itertools
from collections.abc import AsyncIterator, Callable
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import pytest_asyncio

from gateway.app import create_app
from gateway.auth import LOCAL_USER
from gateway.auth.sessions import COOKIE
from gateway.embedded import add_user
from tests.gateway.conftest import NewProject
from tests.gateway.test_refusals import assert_problem
from tests.support.auth_server import AuthSession
from tests.support.project import NO_GPU, Project
from tests.support.stack import Stack, free_port, gateway_settings, serve

EVIL = "https://evil.example"


def set_cookie(answer: httpx.Response) -> Any:
    """The attributes of the login cookie that an answer sets."""
    cookies = [SimpleCookie(text) for text in answer.headers.get_list("set-cookie")]
    return next(cookie[COOKIE] for cookie in cookies if COOKIE in cookie)


def sessions_of(project: Project, user_id: str) -> list[AuthSession]:
    return [session for session in project.auth.sessions.values() if session.user.id == user_id]


# At Supabase: refusals


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (None, 422, "validation_failed"),
        ({}, 422, "validation_failed"),
        ({"email": "a@example.com"}, 422, "validation_failed"),
        ({"password": "x"}, 422, "validation_failed"),
        ({"email": "nobody", "password": "x"}, 422, "validation_failed"),
        ({"email": "a@b\x00", "password": "x"}, 422, "validation_failed"),
        ({"email": "a@example.com", "password": "x", "admin": True}, 422, "validation_failed"),
        ({"email": "nobody@example.com", "password": "x"}, 401, "invalid_credentials"),
    ],
)
async def test_a_sign_in_that_lacks_something_is_refused(
    project: Project, body: dict[str, Any] | None, status: int, code: str
) -> None:
    answer = await project.browser().post("/v1/session", **({"json": body} if body is not None else {}))
    assert_problem(answer, status, code)
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize(
    ("facts", "status", "code"),
    [({"confirmed": False}, 403, "email_not_confirmed"), ({"banned": True}, 403, "user_banned")],
)
async def test_a_user_who_may_not_sign_in_is_told_why(
    project: Project, facts: dict[str, Any], status: int, code: str
) -> None:
    user = project.new_user(**facts)
    answer = await project.browser().post(
        "/v1/session", json={"email": user.email, "password": user.password}
    )
    assert_problem(answer, status, code)


async def test_a_wrong_password_a_limit_and_an_outage_are_told_apart(new_project: NewProject) -> None:
    async with new_project() as project:
        email, browser = project.user.email, project.browser()
        wrong = await browser.post("/v1/session", json={"email": email, "password": "wrong"})
        problem = assert_problem(wrong, 401, "invalid_credentials")
        assert problem["detail"] == "The e-mail address or the password is wrong."
        project.auth.rate_limited = True
        right = {"email": email, "password": project.user.password}
        limited = await browser.post("/v1/session", json=right)
        assert assert_problem(limited, 429, "rate_limited")["retryable"] is True
        assert limited.headers["retry-after"] == "60"
        for path, body in (("/v1/session", right), ("/v1/session/link", {"email": email})):
            for outage in (500, 502, 503, 200):
                project.auth.outage = outage
                assert_problem(await browser.post(path, json=body), 503, "auth_unavailable")


async def test_a_service_that_is_gone_is_a_passing_trouble(
    new_database: Callable[[], str], new_folder: Callable[[], Path]
) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}"
    settings = {"supabase_url": nowhere, "supabase_publishable_key": "sb_publishable_x"}
    async with (
        gateway(new_database(), new_folder(), **settings) as url,
        httpx.AsyncClient(base_url=url) as browser,
    ):
        answer = await browser.post("/v1/session", json={"email": "a@example.com", "password": "x"})
        assert_problem(answer, 503, "auth_unavailable")


async def test_without_the_projects_key_there_is_no_sign_in_by_mail(new_project: NewProject) -> None:
    async with new_project(supabase_publishable_key="") as project:
        body = {"email": project.user.email, "password": "x"}
        assert_problem(await project.browser().post("/v1/session", json=body), 400, "sign_in_unavailable")
        assert (await project.browser().get("/v1/session/methods")).json()["methods"] == []


async def test_a_token_that_the_gateway_cannot_check_begins_no_session(new_project: NewProject) -> None:
    async with new_project() as project:
        project.auth.keys = []
        body = {"email": project.user.email, "password": project.user.password}
        answer = await project.browser().post("/v1/session", json=body)
        assert_problem(answer, 503, "token_not_accepted")
        assert project.rows("select id from private.sessions") == []


TAMPERED = [
    lambda cookie: cookie[:-1] + ("A" if cookie[-1] != "A" else "B"),
    lambda cookie: "B" + cookie[1:] if cookie[0] != "B" else "C" + cookie[1:],
    lambda cookie: cookie[:20],
    lambda cookie: cookie + "A",
    lambda cookie: base64.urlsafe_b64encode(b"\x00" * 32).decode().rstrip("="),
    lambda cookie: "x" * 5000,
    lambda cookie: "é" * 43,
]


@pytest.mark.parametrize("tamper", TAMPERED)
async def test_a_tampered_cookie_is_nobodys(project: Project, tamper: Callable[[str], str]) -> None:
    good = (await project.signed_in()).cookies[COOKIE]
    async with httpx.AsyncClient(base_url=project.url) as http:
        answer = await http.get(
            "/v1/session", headers={b"cookie": f"{COOKIE}={tamper(good)}".encode("latin-1")}
        )
    assert_problem(answer, 401, "unauthenticated")


CROSS_SITE = [
    {"Origin": EVIL},
    {"Origin": "null"},
    {"Origin": "http://["},
    {"Origin": EVIL, "Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Origin": "http://127.0.0.1:1"},
]


@pytest.mark.parametrize("headers", CROSS_SITE, ids=str)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/jobs"),
        ("POST", "/api/generate"),
        ("POST", "/v1/api-keys"),
        ("POST", "/v1/session"),
        ("POST", "/v1/session/link"),
        ("DELETE", "/v1/session"),
    ],
)
async def test_another_sites_page_cannot_use_the_cookie(
    project: Project, headers: dict[str, str], method: str, path: str
) -> None:
    browser = await project.signed_in()
    body = {"prompt": "a", "scopes": ["read"], "email": project.user.email}
    answer = await browser.request(method, path, json=body, headers=headers)
    assert_problem(answer, 403, "cross_site_request")
    assert (await browser.get("/v1/session")).status_code == 200


async def test_a_wrong_header_beside_a_good_cookie_is_refused(project: Project) -> None:
    browser = await project.signed_in()
    for wrong in ("Bearer tk_wrong", "Basic dGs6", ""):
        answer = await browser.get("/v1/session", headers={"Authorization": wrong})
        assert_problem(answer, 401, "unauthenticated")


# At Supabase: what works


async def test_the_cookie_opens_the_api_and_its_aliases(project: Project) -> None:
    browser = await project.signed_in()
    own = {"Origin": project.url, "Sec-Fetch-Site": "same-origin"}
    for headers in (own, {"Origin": project.url}, {}):
        job = (await browser.post("/api/generate", json={"prompt": "a"}, headers=headers)).json()
        status = (await browser.get(f"/api/generate/status/{job['jobId']}")).json()
        assert status["status"] == "queued"
        assert (await browser.get(f"/v1/jobs/{job['jobId']}")).status_code == 200
    me = (await browser.get("/v1/session")).json()
    assert (me["user_id"], me["mode"], me["email"]) == (project.user.id, "supabase", project.user.email)


async def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites(project: Project) -> None:
    body = {"email": project.user.email, "password": project.user.password}
    answer = await project.browser().post("/v1/session", json=body)
    cookie = set_cookie(answer)
    assert (cookie["httponly"], cookie["samesite"], cookie["secure"], cookie["path"]) == (
        True,
        "lax",
        "",
        "/",
    )
    assert len(cookie.value) < 100
    assert answer.headers["cache-control"] == "no-store"
    session = project.auth.sessions[list(project.auth.sessions)[-1]]
    kept = str(project.rows("select * from private.sessions"))
    assert session.refresh_token not in answer.text + cookie.value + kept
    assert cookie.value not in kept


async def test_the_cookie_of_a_site_on_https_never_travels_in_the_clear(new_project: NewProject) -> None:
    async with new_project(site_url="https://draw.example.com") as project:
        browser = project.browser()
        body = {"email": project.user.email, "password": project.user.password}
        answer = await browser.post("/v1/session", json=body, headers={"Origin": "https://draw.example.com"})
        assert set_cookie(answer)["secure"] is True


async def test_tokens_are_renewed_before_they_end_and_only_once(new_project: NewProject) -> None:
    async with new_project() as project:
        project.auth.token_seconds, project.auth.reuse_seconds = 30, 0
        browser = await project.signed_in()
        project.auth.token_seconds = 3600
        first = sessions_of(project, project.user.id)[0].refresh_token
        before = project.auth.asked["token"]
        answers = await asyncio.gather(*(browser.get("/v1/session") for _ in range(6)))
        assert {answer.status_code for answer in answers} == {200}
        assert project.auth.asked["token"] == before + 1
        assert sessions_of(project, project.user.id)[0].refresh_token != first


async def test_two_gateways_renew_one_session_and_keep_it(new_project: NewProject) -> None:
    async with new_project() as project:
        project.auth.token_seconds = 30
        cookie = (await project.signed_in()).cookies[COOKIE]
        settings = project.app.state.settings
        twin = create_app(settings.model_copy(update={"port": free_port()}))
        async with serve(twin) as other:
            for _ in range(2):
                calls = []
                for url in (project.url, other):
                    http = httpx.AsyncClient(base_url=url, cookies={COOKIE: cookie})
                    calls += [http.get("/v1/session") for _ in range(2)]
                answers = await asyncio.gather(*calls)
                assert {answer.status_code for answer in answers} == {200}


async def test_a_slow_or_dead_supabase_does_not_end_a_session_that_is_still_good(
    new_project: NewProject,
) -> None:
    async with new_project() as project:
        project.auth.token_seconds = 30
        browser = await project.signed_in()
        project.auth.outage = 503
        assert (await browser.get("/v1/session")).status_code == 200
        project.auth.outage = None
        project.auth.token_seconds = 0
        assert (await browser.get("/v1/session")).status_code == 200  # the leeway covers it
        project.auth.outage = 503
        assert_problem(await browser.get("/v1/session"), 503, "auth_unavailable")
        project.auth.outage, project.auth.token_seconds = None, 3600
        assert (await browser.get("/v1/session")).status_code == 200


async def test_a_session_that_supabase_has_ended_is_over(new_project: NewProject) -> None:
    async with new_project() as project:
        project.auth.token_seconds = 30
        browser = await project.signed_in()
        project.auth.sessions.clear()
        assert_problem(await browser.get("/v1/session"), 401, "unauthenticated")
        assert project.rows("select id from private.sessions") == []


async def test_signing_out_ends_the_session_here_and_at_supabase(project: Project) -> None:
    user = project.new_user()
    browser, other = await project.signed_in(user), await project.signed_in(user)
    cookie = browser.cookies[COOKIE]
    answer = await browser.delete("/v1/session")
    assert answer.status_code == 204
    assert COOKIE not in browser.cookies
    stolen = httpx.AsyncClient(base_url=project.url, cookies={COOKIE: cookie})
    assert_problem(await stolen.get("/v1/session"), 401, "unauthenticated")
    assert len(sessions_of(project, user.id)) == 1
    assert (await other.get("/v1/session")).status_code == 200
    assert (await browser.delete("/v1/session")).status_code == 204


async def test_signing_out_does_not_wait_for_supabase_to_be_well(new_project: NewProject) -> None:
    async with new_project() as project:
        browser = await project.signed_in()
        cookie = browser.cookies[COOKIE]
        project.auth.outage = 503
        assert (await browser.delete("/v1/session")).status_code == 204
        stolen = httpx.AsyncClient(base_url=project.url, cookies={COOKIE: cookie})
        assert_problem(await stolen.get("/v1/session"), 401, "unauthenticated")


async def test_signing_in_again_ends_the_session_before(project: Project) -> None:
    browser = await project.signed_in()
    before = browser.cookies[COOKIE]
    body = {"email": project.user.email, "password": project.user.password}
    assert (await browser.post("/v1/session", json=body)).status_code == 200
    old = httpx.AsyncClient(base_url=project.url, cookies={COOKIE: before})
    assert_problem(await old.get("/v1/session"), 401, "unauthenticated")
    assert (await browser.get("/v1/session")).status_code == 200


async def test_a_session_ends_by_itself(project: Project) -> None:
    browser = await project.signed_in(project.new_user())
    user_id = (await browser.get("/v1/session")).json()["user_id"]
    ended = "update private.sessions set expires_at = now() where user_id = %s returning id"
    project.rows(ended, user_id)
    assert_problem(await browser.get("/v1/session"), 401, "unauthenticated")
    await project.signed_in()
    assert project.rows("select id from private.sessions where user_id = %s", user_id) == []


# Links


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("", "link_incomplete"),
        ("?error=access_denied&error_code=otp_expired", "link_expired"),
        ("?token_hash=pkce_wrong&type=email", "link_expired"),
        ("?code=wrong", "other_browser"),
    ],
)
async def test_a_link_that_is_spent_or_foreign_leads_home_signed_out(
    project: Project, query: str, code: str
) -> None:
    browser = project.browser()
    answer = await browser.get(f"/auth/callback{query}")
    assert (answer.status_code, answer.headers["location"]) == (303, f"/?sign_in_error={code}")
    assert COOKIE not in browser.cookies


async def test_nobody_learns_from_a_link_who_has_an_account(project: Project) -> None:
    known = await project.browser().post("/v1/session/link", json={"email": project.user.email})
    unknown = await project.browser().post("/v1/session/link", json={"email": "nobody@example.com"})
    assert (
        (known.status_code, known.json())
        == (unknown.status_code, unknown.json())
        == (
            202,
            {"object": "sign_in_link", "status": "sent"},
        )
    )
    names = [sorted(SimpleCookie(answer.headers["set-cookie"])) for answer in (known, unknown)]
    assert names[0] == names[1]


async def test_a_link_signs_in_the_browser_that_asked_for_it(project: Project) -> None:
    user, browser = project.new_user(), project.browser()
    await browser.post("/v1/session/link", json={"email": user.email})
    mail = project.auth.mails[-1]
    assert mail.redirect_to == f"{project.url}/auth/callback"
    opened = f"{project.auth.url}/auth/v1/verify?token={mail.token_hash}&redirect_to={mail.redirect_to}"
    stranger = project.browser()
    led_to = (await stranger.get(opened)).headers["location"]
    foreign = await stranger.get(led_to)
    assert foreign.headers["location"] == "/?sign_in_error=other_browser"
    answer = await browser.get(led_to)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    assert (await browser.get("/v1/session")).json()["user_id"] == user.id
    assert (await browser.get(led_to)).headers["location"] == "/?sign_in_error=other_browser"


async def test_a_stolen_code_is_worth_nothing_with_another_verifier(project: Project) -> None:
    user, browser, thief = project.new_user(), project.browser(), project.browser()
    await browser.post("/v1/session/link", json={"email": user.email})
    code = project.auth.mails[-1].code
    await thief.post("/v1/session/link", json={"email": "nobody@example.com"})
    answer = await thief.get(f"/auth/callback?code={code}")
    assert answer.headers["location"] == "/?sign_in_error=link_expired"


@pytest.mark.parametrize(
    ("wanted", "location"),
    [
        ("/comics?page=2", "/comics?page=2"),
        ("https://evil.example/", "/"),
        ("//evil.example/", "/"),
        ("/\\evil.example", "/"),
        ("\\\\evil.example", "/"),
        ("/\t/evil.example", "/"),
        ("javascript:alert(1)", "/"),
        ("é", "/"),
        ("", "/"),
    ],
)
async def test_a_link_leads_on_to_pages_of_this_site_only(
    project: Project, wanted: str, location: str
) -> None:
    browser = project.browser()
    await browser.post("/v1/session/link", json={"email": project.user.email})
    query = {"token_hash": project.auth.mails[-1].token_hash, "type": "email", "next": wanted}
    answer = await browser.get("/auth/callback", params=query)
    assert (answer.status_code, answer.headers["location"]) == (303, location)
    assert (await browser.get("/v1/session")).status_code == 200


# On one machine


def gateway(admin_url: str, folder: Path, **overrides: Any) -> Any:
    """A gateway without a GPU service, as a context manager that yields its address."""
    port = free_port()
    return serve(create_app(gateway_settings(admin_url, folder, port, NO_GPU, **overrides)), port)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def machine(new_database: Callable[[], str], new_folder: Callable[[], Path]) -> AsyncIterator[str]:
    """The address of a gateway for whoever sits at the machine."""
    admin_url = new_database()
    user_id = str(add_user(admin_url, LOCAL_USER))
    async with gateway(admin_url, new_folder(), local_user_id=user_id) as url:
        yield url


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "127.0.0.1.evil.example:8000"},
        {"Host": "192.168.1.5:8000"},
        {"Host": "[::1"},
        {"X-Forwarded-For": "203.0.113.7"},
        {"X-Forwarded-Host": "draw.example.com"},
        {"Forwarded": "for=203.0.113.7"},
        {"Via": "1.1 proxy"},
    ],
    ids=str,
)
async def test_what_does_not_surely_come_from_this_machine_is_not_the_local_user(
    machine: str, headers: dict[str, str]
) -> None:
    async with httpx.AsyncClient(base_url=machine) as browser:
        assert_problem(await browser.post("/v1/session", headers=headers), 403, "not_local")
        methods = await browser.get("/v1/session/methods", headers=headers)
        assert methods.json() == {"mode": "local", "methods": []}


@pytest.mark.parametrize("headers", CROSS_SITE, ids=str)
async def test_another_sites_page_cannot_sign_in_the_local_user(
    machine: str, headers: dict[str, str]
) -> None:
    async with httpx.AsyncClient(base_url=machine) as browser:
        assert_problem(await browser.post("/v1/session", headers=headers), 403, "cross_site_request")


async def test_there_is_no_password_to_sign_in_with_on_one_machine(machine: str) -> None:
    async with httpx.AsyncClient(base_url=machine) as browser:
        body = {"email": "a@example.com", "password": "x"}
        assert_problem(await browser.post("/v1/session", json=body), 400, "sign_in_unavailable")
        link = {"email": "a@example.com"}
        assert_problem(await browser.post("/v1/session/link", json=link), 400, "sign_in_unavailable")


@pytest.mark.parametrize("overrides", [{"site_url": "https://draw.example.com"}, {"host": "0.0.0.0"}])
async def test_a_gateway_that_others_reach_has_no_local_user(
    new_database: Callable[[], str], new_folder: Callable[[], Path], overrides: dict[str, str]
) -> None:
    admin_url = new_database()
    known = {"local_user_id": str(add_user(admin_url, LOCAL_USER)), "site_url": "http://127.0.0.1"}
    async with (
        gateway(admin_url, new_folder(), **{**known, **overrides}) as url,
        httpx.AsyncClient(base_url=url) as browser,
    ):
        assert_problem(await browser.post("/v1/session"), 403, "not_local")


async def test_a_gateway_that_names_no_local_user_has_none(product: Stack) -> None:
    async with httpx.AsyncClient(base_url=product.url) as browser:
        assert_problem(await browser.post("/v1/session"), 400, "sign_in_unavailable")


@pytest.mark.parametrize("body", [None, {}])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
async def test_whoever_sits_at_the_machine_is_signed_in(
    machine: str, body: dict[str, Any] | None, host: str
) -> None:
    async with httpx.AsyncClient(base_url=machine) as browser:
        named = {"Host": f"{host}:{urlsplit(machine).port}"}
        answer = await browser.post(
            "/v1/session", headers=named, **({"json": body} if body is not None else {})
        )
        assert answer.status_code == 200, answer.text
        me = (await browser.get("/v1/session")).json()
        assert (me["email"], me["mode"]) == (LOCAL_USER, "local")
        assert me["scopes"] == ["admin", "generate", "read"]
        assert (await browser.get("/v1/jobs")).json()["data"] == []
        assert (await browser.delete("/v1/session")).status_code == 204
        assert_problem(await browser.get("/v1/session"), 401, "unauthenticated")


async def test_a_session_of_one_machine_is_worth_nothing_once_there_is_a_project(
    new_project: NewProject,
) -> None:
    async with new_project() as project:
        settings = project.app.state.settings
        alone = {"supabase_url": "", "supabase_publishable_key": "", "supabase_jwt_secret": ""}
        async with (
            gateway(project.admin_url, settings.data, local_user_id=project.user.id, **alone) as url,
            httpx.AsyncClient(base_url=url) as browser,
        ):
            await browser.post("/v1/session")
            assert (await browser.get("/v1/session")).status_code == 200
            later = httpx.AsyncClient(base_url=project.url, cookies={COOKIE: browser.cookies[COOKIE]})
            assert_problem(await later.get("/v1/session"), 401, "unauthenticated")


async def test_the_document_names_both_ways_in(product: Stack) -> None:
    async with httpx.AsyncClient(base_url=product.url, timeout=70) as http:  # it is made at the first look
        document = (await http.get("/openapi.json")).json()
    schemes = document["components"]["securitySchemes"]
    assert schemes["APIKeyCookie"]["name"] == COOKIE
    named = [set(way) for way in document["paths"]["/v1/jobs"]["get"]["security"]]
    assert named == [{"HTTPBearer"}, {"APIKeyCookie"}]
    assert {"get", "post", "delete"} <= set(document["paths"]["/v1/session"])
    assert list(itertools.chain(*named))
