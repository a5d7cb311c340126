"""The doctor: every known problem is provoked, and found under its code; where all is well it says so."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
import pytest_asyncio
from fastapi import FastAPI
from pydantic import SecretStr

from gateway import doctor
from gateway.app import create_app
from gateway.config import ConfigurationError
from gateway.doctor import configuration
from gateway.doctor.findings import Finding, Verdict
from gateway.doctor.subject import Subject
from tests.gateway.conftest import INSTANT
from tests.support.stack import (
    GPU_TOKEN,
    SIGNING_KEY,
    WEBHOOK_SECRET,
    Stack,
    free_port,
    gateway_settings,
    serve,
    stack,
)
from tests.support.storage_server import SECRET, StorageServer

TENKAIGEN = str(Path(sys.executable).with_name("tenkaigen"))
OTHER_SECRET = "whsec_" + "QUJD" * 10
NOWHERE = "http://127.0.0.1:1"
Folder = Callable[[], Path]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def well(new_database: Callable[[], str], new_folder: Folder) -> AsyncIterator[Stack]:
    unhurried = {
        "webhook_patience_seconds": 60
    }  # on a busy machine, too, the webhook comes before a question
    async with stack(new_database(), new_folder(), gpu=INSTANT, **MODELS, **unhurried) as running:
        yield running


MODELS: dict[str, Any] = {"default_model": "instant", "default_edit_model": "instant"}


def subject_of(running: Stack, gpu_url: str = "", key: str | None = None, **overrides: Any) -> Subject:
    """The gateway of a stack as its own machine knows it; ``overrides`` are settings that are wrong."""
    port = int(running.url.rpartition(":")[2])
    gpu_url = gpu_url or running.gpu.url
    settings = gateway_settings(running.admin_url, running.folder, port, gpu_url, **MODELS | overrides)
    key = running.user.key if key is None else key
    return Subject("a test", running.url, settings, key, patience_seconds=100)


async def findings(subject: Subject, *only: str) -> dict[str, Finding]:
    return {result.code: result.finding for result in await doctor.examine(subject, only)}


async def the(code: str, subject: Subject) -> Finding:
    """What one check finds, after those that it needs."""
    return (await findings(subject, code))[code]


def assert_failed(finding: Finding, words: str, advice: str) -> None:
    assert (finding.verdict, words in finding.detail) == (Verdict.FAILED, True), finding
    assert advice in finding.next_step, finding


def assert_warned(finding: Finding, words: str, advice: str) -> None:
    assert (finding.verdict, words in finding.detail) == (Verdict.WARNING, True), finding
    assert advice in finding.next_step, finding


def environment_of(running: Stack, **changes: str) -> dict[str, str]:
    settings = subject_of(running).settings
    assert settings is not None
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
        "PORT": str(settings.port),
        "DATA": str(running.folder),
        "DATABASE_URL": settings.database_url.get_secret_value(),
        "MODAL_GENERATE_ENDPOINT": settings.modal_generate_endpoint,
        "GPU_TOKEN": GPU_TOKEN,
        "WEBHOOK_SECRET": WEBHOOK_SECRET,
        "URL_SIGNING_KEY": SIGNING_KEY,
        "DEFAULT_MODEL": "instant",
        "DEFAULT_EDIT_MODEL": "instant",
        "TENKAIGEN_KEY": running.user.key,
        **changes,
    }


async def command(
    environment: dict[str, str], cwd: Path, *arguments: str
) -> subprocess.CompletedProcess[str]:
    """``tenkaigen doctor`` as its user starts it."""
    return await asyncio.to_thread(
        subprocess.run,
        [TENKAIGEN, "doctor", *arguments],
        env=environment,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@contextmanager
def owner(running: Stack) -> Iterator[psycopg.Connection]:
    with psycopg.connect(running.admin_url, autocommit=True) as connection:
        yield connection


# Settings


async def test_the_missing_endpoint_is_said_in_the_words_that_people_search_for(
    well: Stack, tmp_path: Path
) -> None:
    ended = await command(environment_of(well, MODAL_GENERATE_ENDPOINT=""), tmp_path)
    assert ended.returncode == 1
    assert "MODAL_GENERATE_ENDPOINT not configured" in ended.stdout
    assert "gpu_endpoint: `modal deploy -m modal_app.app` prints the address" in ended.stdout


async def test_an_endpoint_that_is_no_address_is_refused(well: Stack) -> None:
    finding = await the("gpu_endpoint", subject_of(well, gpu_url="tenkaigen.modal.run"))
    assert_failed(finding, "not an http(s) address", "modal deploy")


async def test_every_missing_setting_is_named(well: Stack) -> None:
    subject = subject_of(well, webhook_secret="", url_signing_key="", host="0.0.0.0")
    finding = await the("configuration", subject)
    assert_failed(finding, "WEBHOOK_SECRET not configured; URL_SIGNING_KEY not configured", ".env")
    assert "SITE_URL not configured" in finding.detail


async def test_a_value_that_a_setting_cannot_have_is_one_line(well: Stack, tmp_path: Path) -> None:
    ended = await command(environment_of(well, PORT="many"), tmp_path)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith("tenkaigen: PORT: not a value that it can have")


async def test_a_full_disk_is_told(well: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(configuration, "LOW_BYTES", 10**18)
    assert_warned(await the("disk_space", subject_of(well)), "GB are free", "Make room")
    monkeypatch.setattr(configuration, "FULL_BYTES", 10**18)
    assert_failed(await the("disk_space", subject_of(well)), "GB are free", "Make room")


# The database


async def test_a_database_that_does_not_answer_is_told_and_the_rest_is_spared(well: Stack) -> None:
    subject = subject_of(well, database_url=SecretStr("postgresql://gateway:hidden@127.0.0.1:1/postgres"))
    found = await findings(subject)
    assert_failed(found["database"], "`gateway` cannot log in", "Check host and port")
    assert "hidden" not in str(found)
    assert found["migrations"] == found["clock"] == Finding(Verdict.SKIPPED, "after `database` is well")


async def test_a_missing_migration_is_named(well: Stack) -> None:
    with owner(well) as connection:
        taken = connection.execute(
            "delete from supabase_migrations.schema_migrations "
            "where version = '20260101000000' or name = 'create_buckets' returning version, name, statements"
        ).fetchone()
        try:
            finding = await the("migrations", subject_of(well))
            assert_failed(
                finding, "1 to apply, the first 20261120091000_create_buckets", "`tenkaigen migrate`"
            )
        finally:
            connection.execute(
                "insert into supabase_migrations.schema_migrations (version, name, statements) "
                "values (%s, %s, %s)",
                taken,
            )


async def test_a_database_ahead_of_the_code_is_worth_a_warning(well: Stack) -> None:
    with owner(well) as connection:
        connection.execute(
            "insert into supabase_migrations.schema_migrations (version) values ('29990101000000')"
        )
        try:
            assert_warned(await the("migrations", subject_of(well)), "newer than this code", "up to date")
        finally:
            connection.execute(
                "delete from supabase_migrations.schema_migrations where version = '29990101000000'"
            )


@pytest.mark.parametrize("right", ["bypassrls", "superuser", "inherit"])
async def test_a_login_with_too_many_rights_is_found(well: Stack, right: str) -> None:
    with owner(well) as connection:
        connection.execute(f"alter role gateway_service {right}".encode())
        try:
            finding = await the("login_roles", subject_of(well))
            assert_failed(finding, f"`gateway_service` has rol{right[:5]}", "nobypassrls")
        finally:
            connection.execute(f"alter role gateway_service no{right}".encode())


async def test_the_owner_of_the_database_is_no_login_for_a_gateway(well: Stack) -> None:
    finding = await the("login_roles", subject_of(well, database_url=SecretStr(well.admin_url)))
    assert_failed(finding, "`postgres` has rolsuper, rolbypassrls", "Log in as `gateway`")


async def test_clocks_that_disagree_are_told(well: Stack) -> None:
    """The service's login is given a clock of its own."""
    database = psycopg.conninfo.conninfo_to_dict(well.admin_url)["dbname"]
    role = f"alter role gateway_service in database {database}"
    with owner(well) as connection:
        connection.execute("create schema fake; grant usage on schema fake to gateway_service")
        connection.execute(f"{role} set search_path = fake, pg_catalog".encode())
        try:
            for minutes, verdict in ((1, Verdict.WARNING), (-6, Verdict.FAILED)):
                connection.execute(
                    "create or replace function fake.clock_timestamp() returns timestamptz language sql "
                    f"as 'select pg_catalog.clock_timestamp() + interval ''{minutes} minutes'''".encode()
                )
                finding = await the("clock", subject_of(well))
                assert finding.verdict is verdict
                assert "ahead" in finding.detail if minutes > 0 else "behind" in finding.detail
        finally:
            connection.execute(f"{role} reset all".encode())
            connection.execute("drop schema fake cascade")


# Buckets and GPU service


async def test_a_bucket_that_cannot_be_written_to_is_named(well: Stack, tmp_path: Path) -> None:
    (tmp_path / "buckets").touch()
    finding = await the("buckets", subject_of(well, data=tmp_path))
    assert_failed(finding, "buckets", "troubleshooting")


async def test_buckets_of_a_supabase_project_are_tried_as_well(well: Stack) -> None:
    server = StorageServer()
    async with serve(server) as url:
        project = {"supabase_url": url, "supabase_secret_key": SECRET}
        assert (await the("buckets", subject_of(well, **project))).verdict is Verdict.OK
        assert not [name for bucket in server.buckets.values() for name in bucket.objects]
        del server.buckets["uploads"]
        finding = await the("buckets", subject_of(well, **project))
        assert_failed(finding, "`uploads`: ", "`tenkaigen migrate`, which makes the buckets")
        finding = await the("buckets", subject_of(well, **project | {"supabase_secret_key": "sb_secret_no"}))
        assert_failed(finding, "`generated-designs`: ", "SUPABASE_URL and its secret key")


async def test_a_gpu_service_that_does_not_answer_is_told_and_no_smoke_job_is_made(well: Stack) -> None:
    before = well.rows("select count(*) as n from public.generation_jobs")
    found = await findings(subject_of(well, gpu_url=NOWHERE))
    assert_failed(found["gpu_service"], "does not answer", "modal app list")
    assert found["gpu_credentials"].verdict is found["smoke_job"].verdict is Verdict.SKIPPED
    assert well.rows("select count(*) as n from public.generation_jobs") == before


@pytest.mark.parametrize(
    ("tokens", "advice"),
    [
        ({"gpu_token": "wrong"}, "GPU_TOKEN"),
        ({"gpu_token": "wrong", "modal_key": "ak-1", "modal_secret": "as-1"}, "API tokens, which do not fit"),
        ({"gpu_token": "wrong", "modal_key": "wk-1", "modal_secret": "ws-1"}, "of one pair"),
    ],
)
async def test_a_token_that_the_gpu_service_refuses_is_told(
    well: Stack, tokens: dict[str, str], advice: str
) -> None:
    assert_failed(await the("gpu_credentials", subject_of(well, **tokens)), "refuses us", advice)


async def test_an_address_of_something_else_is_not_taken_for_the_gpu_service(well: Stack) -> None:
    found = await findings(subject_of(well, gpu_url=well.url))
    assert_failed(found["gpu_credentials"], "not the GPU service", "MODAL_GENERATE_ENDPOINT")


async def test_a_default_model_that_is_not_served_is_told(well: Stack) -> None:
    finding = await the("gpu_models", subject_of(well, default_model="qwen-image-fast"))
    assert_failed(finding, "DEFAULT_MODEL qwen-image-fast is not served; it serves instant", "ROUTES")
    finding = await the("gpu_models", subject_of(well, default_edit_model="qwen-image-edit"))
    assert_warned(finding, "DEFAULT_EDIT_MODEL qwen-image-edit", "ROUTES")


# The gateway and its webhook


async def test_an_address_without_a_gateway_is_told(well: Stack) -> None:
    subject = subject_of(well)
    subject.url = NOWHERE
    found = await findings(subject)
    assert_failed(found["gateway"], "does not answer", "make up")
    assert found["webhook_address"].verdict is found["api_key"].verdict is Verdict.SKIPPED
    async with serve(FastAPI()) as url:
        subject.url = url
        assert_failed(await the("gateway", subject), "not a Tenkaigen gateway", "SITE_URL")


async def test_a_webhook_secret_that_differs_from_the_gateways_is_found(well: Stack) -> None:
    finding = await the("webhook_address", subject_of(well, webhook_secret=OTHER_SECRET))
    assert_failed(finding, "refuses the signature", "TENKAIGEN_WEBHOOK_SECRET")


async def test_a_gpu_service_elsewhere_cannot_reach_a_loopback_address(well: Stack) -> None:
    finding = await the("webhook_address", subject_of(well, gpu_url="https://a--tenkaigen.modal.run"))
    assert_failed(finding, "that is this machine alone", "SITE_URL")


async def test_a_proxy_that_lets_no_webhook_through_is_told(well: Stack) -> None:
    front = FastAPI()
    front.get("/healthz")(lambda: {"status": "ok"})
    async with serve(front) as url:
        subject = subject_of(well)
        subject.url = url
        finding = await the("webhook_address", subject)
    assert_failed(finding, "/api/generate/webhook answered 404", "proxy")


async def test_a_gpu_service_that_signs_with_another_secret_is_found_by_the_smoke_job(
    admin_url: str, new_folder: Folder
) -> None:
    gpu = {**INSTANT, "TENKAIGEN_WEBHOOK_SECRET": OTHER_SECRET}
    async with stack(admin_url, new_folder(), gpu=gpu, webhook_patience_seconds=0.3, **MODELS) as running:
        found = await findings(subject_of(running))
        assert found["smoke_job"].verdict is found["webhook_address"].verdict is Verdict.OK
        assert_failed(found["webhook_delivery"], "the gateway had to ask", "`webhook_refused`")
        unseen = subject_of(running)
        unseen.draws = False
        past = await the("webhook_delivery", unseen)
        assert_failed(past, "0 of 1 calls that ended in 24 h were told by a webhook", "TENKAIGEN_WEBHOOK_URL")


# Keys


async def test_authentication_required_has_its_code(well: Stack) -> None:
    unknown = await the("api_key", subject_of(well, key="tk_nobody-knows-this-one"))
    assert_failed(unknown, "Authentication required", "tenkaigen keys create")
    user = well.new_user()
    with owner(well) as connection:
        connection.execute("update public.api_keys set revoked_at = now() where user_id = %s", (user.id,))
    assert_failed(await the("api_key", subject_of(well, key=user.key)), "Authentication required", "revoked")


@pytest.mark.parametrize(("has", "lacks"), [("read", "generate"), ("generate", "read")])
async def test_a_key_that_lacks_a_scope_is_told_which(well: Stack, has: str, lacks: str) -> None:
    user = well.new_user(scopes=(has,))
    finding = await the("api_key", subject_of(well, key=user.key))
    assert_failed(finding, f"the key lacks the scope {lacks}", "--scope generate")


# Jobs


async def test_a_job_that_nobody_moves_is_found_in_the_database_and_over_http(
    admin_url: str, new_folder: Folder, well: Stack
) -> None:
    folder, port = new_folder(), free_port()
    gpu_url = well.gpu.url
    settings = gateway_settings(admin_url, folder, port, gpu_url, worker=False, **MODELS)
    async with serve(create_app(settings), port) as url:
        idle = Stack(admin_url, folder, well.gpu, url)
        job = await idle.user.create(prompt="a dragon")
        subject = Subject("a test", url, settings, idle.user.key, patience_seconds=0.5)
        assert (await the("stuck_jobs", subject)).verdict is Verdict.OK
        found = await findings(subject)
        assert_failed(found["smoke_job"], "still queued (queued) after", "WORKER=true")
        with owner(idle) as connection:
            connection.execute(
                "update public.generation_jobs set wake_at = now() - interval '900 seconds', "
                "created_at = now() - interval '900 seconds' where id = %s",
                (job["id"],),
            )
        for known in (subject, Subject(url, url, key=idle.user.key)):
            finding = await the("stuck_jobs", known)
            assert_failed(finding, "1 stuck in 'queued', for 9", "WORKER=true")
    left = idle.rows("select status, metadata ->> 'made_by' as by from public.generation_jobs order by 1")
    assert [(row["status"], row["by"]) for row in left] == [
        ("queued", None),
        ("canceled", "tenkaigen doctor"),
    ]


async def test_jobs_that_wait_for_their_turn_are_not_stuck(admin_url: str, new_folder: Folder) -> None:
    settings = gateway_settings(admin_url, new_folder(), 1, NOWHERE, jobs_in_flight_per_user=1, **MODELS)
    insert_jobs(admin_url, status="processing", stage="generating", wake_at="now() + interval '9 seconds'")
    insert_jobs(admin_url, status="queued", stage="queued", wake_at="now() - interval '9 minutes'")
    subject = Subject("a test", settings=settings)
    assert (await the("stuck_jobs", subject)).verdict is Verdict.OK
    with psycopg.connect(admin_url) as connection:
        connection.execute(
            "update public.generation_jobs set wake_at = now() - interval '20 minutes' "
            "where status = 'processing'"
        )
    assert_failed(await the("stuck_jobs", subject), "1 stuck in 'processing', for 12", "restart")


async def test_failures_are_counted_by_code(admin_url: str, new_folder: Folder) -> None:
    subject = Subject("a test", settings=gateway_settings(admin_url, new_folder(), 1, NOWHERE))
    ended: dict[str, Any] = {"finished_at": "now()", "wake_at": "null"}
    insert_jobs(admin_url, 3, status="completed", **ended)
    insert_jobs(admin_url, 2, status="failed", error_code="submit_failed", **ended)
    finding = await the("recent_failures", subject)
    assert_warned(finding, "2 of 5 jobs of the last 24 h failed: submit_failed 2", "troubleshooting")
    insert_jobs(admin_url, 3, status="failed", error_code="gpu_failed", **ended)
    insert_jobs(
        admin_url,
        9,
        status="failed",
        error_code="old",
        wake_at="null",
        finished_at="now() - interval '2 days'",
    )
    finding = await the("recent_failures", subject)
    assert_failed(finding, "5 of 8 jobs of the last 24 h failed: gpu_failed 3, submit_failed 2", "calls")


async def test_slow_pictures_are_found_and_lightning_is_advised(admin_url: str, new_folder: Folder) -> None:
    subject = Subject("a test", settings=gateway_settings(admin_url, new_folder(), 1, NOWHERE))
    ended = {"finished_at": "now()", "wake_at": "null", "status": "completed", "gpu_seconds": 40.0}
    insert_jobs(admin_url, 2, model="qwen-image-fast", steps=8, **ended)
    assert (await the("slow_generation", subject)).verdict is Verdict.OK
    insert_jobs(admin_url, model="qwen-image-fast", steps=8, **ended)
    finding = await the("slow_generation", subject)
    assert_warned(finding, "qwen-image-fast takes 40.0 s a picture, expected 8.0 s", "Lightning")
    insert_jobs(admin_url, 3, model="qwen-image", steps=50, **ended | {"gpu_seconds": 71.0})
    assert_warned(await the("slow_generation", subject), "qwen-image takes 71.0 s", '"quality": "low"')
    insert_jobs(admin_url, 3, model="sdxl", steps=28, **ended | {"gpu_seconds": 5.0})
    assert "sdxl" not in (await the("slow_generation", subject)).detail


@pytest.mark.parametrize(
    ("model", "steps", "prompt", "words"),
    [
        ("qwen-image", 15, "a phoenix rising from ashes", "qwen-image draws in 15 steps"),
        ("qwen-image-fast", 4, "a phoenix rising from ashes", "qwen-image-fast draws in 4 steps"),
        ("qwen-image", 50, "a cat", "half of the prompts have 5 characters or fewer"),
    ],
)
async def test_pictures_drawn_with_too_little_are_found(
    admin_url: str, new_folder: Folder, model: str, steps: int, prompt: str, words: str
) -> None:
    subject = Subject("a test", settings=gateway_settings(admin_url, new_folder(), 1, NOWHERE))
    ended = {"finished_at": "now()", "wake_at": "null", "status": "completed", "gpu_seconds": 1.0}
    insert_jobs(admin_url, 3, model=model, steps=steps, prompt=prompt, **ended)
    finding = await the("poor_quality", subject)
    assert_warned(finding, words, "50 to 100 steps")
    assert "r128" in finding.next_step and "prompt" in finding.next_step


def insert_jobs(admin_url: str, number: int = 1, **values: Any) -> None:
    """Jobs of one user, as they would stand there."""
    values = {"model": "instant", "steps": 8, "prompt": "a phoenix rising from ashes"} | values
    times = {name: values.pop(name) for name in ("wake_at", "finished_at") if name in values}
    row = {
        "status": values["status"],
        "stage": values.get("stage"),
        "error_code": values.get("error_code"),
        "model": values["model"],
        "gpu_seconds": values.get("gpu_seconds", 0),
        "prompt": values["prompt"],
        "params": json.dumps({"num_inference_steps": values["steps"]}),
    }
    names = "".join(f", {name}" for name in times)
    moments = "".join(f", {moment}" for moment in times.values())
    with psycopg.connect(admin_url) as connection:
        connection.execute("insert into auth.users (email) values ('a@b.example') on conflict do nothing")
        for _ in range(number):
            connection.execute(
                f"""insert into public.generation_jobs (user_id, prompt_input, prompt_final, model, width,
                height, seed, status, stage, error_code, gpu_seconds, params{names})
                select id, %(prompt)s, %(prompt)s, %(model)s, 64, 64, 1, %(status)s, %(stage)s,
                %(error_code)s, %(gpu_seconds)s, %(params)s{moments}
                from auth.users where email = 'a@b.example'""".encode(),
                row,
            )


# Pictures


async def test_a_pictures_address_that_leads_nowhere_is_told(
    admin_url: str, new_folder: Folder, well: Stack
) -> None:
    folder, port = new_folder(), free_port()
    gpu_url = well.gpu.url
    patience = {"webhook_patience_seconds": 0.3, "site_url": NOWHERE}
    settings = gateway_settings(admin_url, folder, port, gpu_url, **MODELS | patience)
    async with serve(create_app(settings), port) as url:
        elsewhere = Stack(admin_url, folder, well.gpu, url)
        found = await findings(Subject("a test", url, settings, elsewhere.user.key, patience_seconds=100))
    assert_failed(found["image_delivery"], "cannot be reached", "SITE_URL")


# All well


async def test_where_all_is_well_every_check_says_so_and_the_command_ends_with_0(
    well: Stack, tmp_path: Path
) -> None:
    ended = await command(environment_of(well), tmp_path, "--json")
    told = json.loads(ended.stdout)
    assert (ended.returncode, told["ok"]) == (0, True)
    assert [check["code"] for check in told["checks"]] == list(doctor.CODES)
    verdicts = {check["code"]: check["verdict"] for check in told["checks"]}
    assert set(verdicts.values()) == {"ok"}, told
    assert "direct connection" in next(c["detail"] for c in told["checks"] if c["code"] == "database")
    assert "the smoke job's end was told by its webhook" in ended.stdout
    table = await command(environment_of(well), tmp_path, "--no-smoke")
    assert table.returncode == 0
    assert "All is well." in table.stdout


async def test_a_running_gateway_is_asked_over_http_alone(well: Stack, tmp_path: Path) -> None:
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    ended = await command(environment, tmp_path, "--url", well.url, "--key", well.user.key, "--json")
    told = {check["code"]: check["verdict"] for check in json.loads(ended.stdout)["checks"]}
    assert ended.returncode == 0
    local = {"configuration", "disk_space", "clock", "migrations", "login_roles", "gpu_endpoint"}
    local |= {"gpu_credentials", "gpu_models"}
    assert {code for code, verdict in told.items() if verdict == "skipped"} == local
    assert {verdict for code, verdict in told.items() if code not in local} == {"ok"}
    assert not list(tmp_path.iterdir())


async def test_without_a_key_no_picture_is_drawn(well: Stack) -> None:
    found = await findings(Subject(well.url, well.url))
    assert found["api_key"].verdict is found["smoke_job"].verdict is Verdict.SKIPPED
    assert "TENKAIGEN_KEY" in found["api_key"].detail
    assert found["webhook_address"].verdict is Verdict.OK


async def test_checks_can_be_chosen_and_bring_those_that_they_come_after(well: Stack) -> None:
    assert list(await findings(subject_of(well), "login_roles")) == ["database", "login_roles"]
    with pytest.raises(ConfigurationError, match="there is no check `horoscope`; there are configuration, "):
        await findings(subject_of(well), "horoscope")


async def test_what_the_doctor_draws_does_not_count_among_the_jobs(well: Stack) -> None:
    await findings(subject_of(well), "smoke_job")
    finding = await the("recent_failures", subject_of(well))
    assert finding.detail == "none of 0 jobs of the last 24 h failed"
