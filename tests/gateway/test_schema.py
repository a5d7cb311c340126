"""What the tables themselves keep true: defaults, relations, allowed words, statuses that follow jobs."""

from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from tests.support.tables import Connection, add_rows, add_users

JOB_STATUSES = ("queued", "processing", "completed", "failed", "canceled")


@pytest.fixture(scope="module")
def database_url(new_database: Callable[[], str]) -> str:
    return new_database()


@pytest.fixture
def owner(database_url: str) -> Iterator[Connection]:
    """The database's owner, in a transaction that is rolled back."""
    with psycopg.connect(database_url, row_factory=dict_row) as connection:
        yield connection
        connection.rollback()


@pytest.fixture
def ids(owner: Connection) -> dict[str, UUID]:
    """One row in each table; ids by table."""
    return add_rows(owner)


def one(connection: Connection, sql: str, values: Any = ()) -> dict[str, Any]:
    row = connection.execute(sql.encode(), values).fetchone()
    assert row is not None
    return row


def move(connection: Connection, job: UUID, *statuses: str) -> None:
    for status in statuses:
        connection.execute(
            """update public.generation_jobs set status = %(to)s::public.job_status,
                 error_code = case when %(to)s = 'failed' then 'out_of_memory' end,
                 error_message = case when %(to)s = 'failed' then 'The GPU is full.' end,
                 wake_at = case when %(to)s in ('queued', 'processing') then now() end
               where id = %(id)s""",
            {"to": status, "id": job},
        )


PATHS = {
    "queued": (),
    "processing": ("processing",),
    "completed": ("processing", "completed"),
    "failed": ("processing", "failed"),
    "canceled": ("canceled",),
}
WHY = {"failed": ("out_of_memory", "The GPU is full."), "canceled": ("canceled", "The job was canceled.")}
SHOWN = {
    "comic_panels": ("pending", "generating", "ready", "failed", "failed"),
    "characters": ("pending", "processing", "ready", "failed", "failed"),
}


@pytest.mark.parametrize("late", [False, True], ids=["moving with it", "given the job as it stands"])
@pytest.mark.parametrize("status", JOB_STATUSES)
@pytest.mark.parametrize("table", SHOWN)
def test_the_status_of_panels_and_characters_follows_their_job(
    owner: Connection, ids: dict[str, UUID], table: str, status: str, late: bool
) -> None:
    take = f"update public.{table} set job_id = %s where id = %s"
    values = (ids["generation_jobs"], ids[table])
    if not late:
        owner.execute(take.encode(), values)
    move(owner, ids["generation_jobs"], *PATHS[status])
    if late:
        owner.execute(take.encode(), values)
    row = one(owner, f"select status, error_code, error_message from public.{table}")
    assert row["status"] == SHOWN[table][JOB_STATUSES.index(status)]
    assert (row["error_code"], row["error_message"]) == WHY.get(status, (None, None))


def test_the_service_moves_a_job_and_its_panel_in_one_statement(
    owner: Connection, ids: dict[str, UUID]
) -> None:
    owner.execute("update public.comic_panels set job_id = %s", (ids["generation_jobs"],))
    owner.execute("set role gateway_service")
    move(owner, ids["generation_jobs"], "processing")
    owner.execute("reset role")
    assert one(owner, "select status from public.comic_panels")["status"] == "generating"


def test_a_new_job_takes_the_old_failure_away(owner: Connection, ids: dict[str, UUID]) -> None:
    job = ids["generation_jobs"]
    owner.execute("update public.comic_panels set job_id = %s", (job,))
    move(owner, job, "failed")
    again = one(
        owner,
        """insert into public.generation_jobs
             (user_id, prompt_input, prompt_final, model, width, height, seed)
           values (%(owner)s, 'a', 'a', 'instant', 64, 64, 1) returning id""",
        ids,
    )["id"]
    owner.execute("update public.comic_panels set job_id = %s", (again,))
    row = one(owner, "select status, error_code, error_message from public.comic_panels")
    assert row == {"status": "pending", "error_code": None, "error_message": None}


def test_a_panel_that_could_not_be_submitted_fails_without_a_job(
    owner: Connection, ids: dict[str, UUID]
) -> None:
    with pytest.raises(psycopg.errors.CheckViolation, match="failed_panels_say_why"), owner.transaction():
        owner.execute("update public.comic_panels set status = 'failed'")
    owner.execute("update public.comic_panels set status = 'failed', error_code = 'submit_failed'")
    assert one(owner, "select job_id, status from public.comic_panels")["status"] == "failed"


WORDS = {
    ("characters", "source"): {"photo", "lora", "description"},
    ("characters", "status"): {"pending", "processing", "ready", "failed"},
    ("character_profiles", "source"): {"vlm", "fallback"},
    ("character_images", "kind"): {"reference", "view", "portfolioItem", "scene", "variant", "panel"},
    ("character_images", "view"): {"front", "side", "back"},
    ("character_images", "status"): {"succeeded", "failed"},
    ("comic_panels", "mode"): {"reference", "lora"},
    ("comic_panels", "status"): {"pending", "generating", "ready", "failed"},
    ("loras", "source"): {"upload", "url", "huggingface", "civitai"},
    ("loras", "status"): {"pending", "ready", "failed"},
    ("prompt_artifacts", "enhance_status"): {"off", "done", "fallback"},
    ("project_members", "role"): {"owner", "editor", "viewer"},
}


@pytest.mark.parametrize(("table", "column"), WORDS, ids=lambda name: name)
def test_a_column_knows_its_words_and_no_others(
    owner: Connection, ids: dict[str, UUID], table: str, column: str
) -> None:
    """A word is known when only another rule of the row, not the list of words, speaks against it."""

    def known(word: str) -> bool:
        try:
            with owner.transaction(force_rollback=True):
                owner.execute(f"update public.{table} set {column} = %s".encode(), (word,))
        except psycopg.errors.InvalidTextRepresentation:
            return False
        except psycopg.errors.CheckViolation as error:
            return f"{table}_{column}_check" != error.diag.constraint_name
        except psycopg.errors.UniqueViolation:
            return True
        return True

    words = WORDS[table, column]
    assert {word for word in {*words, "", "nonsense", "READY"} if known(word)} == words


def user_row(owner: Connection, **values: object) -> None:
    character = {"user_id": add_users(owner, "somebody")["somebody"], "name": "Mika", **values}
    names = ", ".join(character)
    places = ", ".join(f"%({name})s" for name in character)
    owner.execute(f"insert into public.characters ({names}) values ({places})".encode(), character)


@pytest.mark.parametrize(
    ("rule", "values"),
    {
        "photos_need_consent": {"source": "photo", "upload_id": uuid4()},
        "lora_characters_name_their_lora": {"source": "lora"},
        "described_characters_have_a_description": {"source": "description"},
        "characters_library_db_id_check": {
            "source": "description",
            "description": "a fox",
            "library_db_id": "65f0c0ffee",
        },
        "characters_attributes_check": {"source": "description", "description": "a fox", "attributes": "[]"},
    }.items(),
)
def test_half_a_character_is_refused(owner: Connection, rule: str, values: dict[str, object]) -> None:
    with pytest.raises(psycopg.errors.CheckViolation, match=rule), owner.transaction():
        user_row(owner, **values)


def test_consent_is_the_time_it_was_given(owner: Connection) -> None:
    user_row(owner, source="photo", upload_id=uuid4(), consented_at="2026-11-21T10:00:00Z")
    user_row(owner, source="description", description="a fox", library_db_id="65f0c0ffee65f0c0ffee65f0")
    rows = owner.execute("select source, consent from public.characters order by source desc").fetchall()
    assert rows == [{"source": "photo", "consent": True}, {"source": "description", "consent": False}]


def test_a_character_has_at_most_one_selected_image(owner: Connection, ids: dict[str, UUID]) -> None:
    image = """
        insert into public.character_images (character_id, kind, prompt, status, asset_id, is_selected)
        values (%(characters)s, 'variant', 'a', 'succeeded', %(asset)s, true) returning id
    """
    first = one(owner, image, {**ids, "asset": ids["generated_assets"]})["id"]
    other = one(owner, ASSET, ids)["id"]
    with (
        pytest.raises(psycopg.errors.UniqueViolation, match="character_images_selected"),
        owner.transaction(),
    ):
        owner.execute(image.encode(), {**ids, "asset": other})
    owner.execute("update public.character_images set is_selected = false where id = %s", (first,))
    owner.execute(image.encode(), {**ids, "asset": other})
    selected = one(owner, "select count(*) from public.character_images where is_selected")
    assert selected["count"] == 1


ASSET = """
insert into public.generated_assets
  (id, user_id, job_id, n, key, content_type, bytes, sha256, width, height, seed)
values (gen_random_uuid(), %(owner)s, %(generation_jobs)s, 1, gen_random_uuid()::text, 'image/png', 524288,
  repeat('b', 64), 64, 64, 2) returning id
"""


@pytest.mark.parametrize("mark", ["deleted_at", "replaced_at"])
def test_a_tombstone_keeps_its_prompt_and_cannot_be_selected(
    owner: Connection, ids: dict[str, UUID], mark: str
) -> None:
    owner.execute(
        """update public.character_images set status = 'succeeded', is_selected = true, asset_id = %s""",
        (ids["generated_assets"],),
    )
    with pytest.raises(psycopg.errors.CheckViolation, match="selected_images_are_there"), owner.transaction():
        owner.execute(f"update public.character_images set {mark} = now()".encode())
    owner.execute(f"update public.character_images set {mark} = now(), is_selected = false".encode())
    owner.execute("delete from public.generated_assets where id = %s", (ids["generated_assets"],))
    row = one(owner, "select prompt, asset_id from public.character_images")
    assert row == {"prompt": "a", "asset_id": None}


def test_a_picture_is_recorded_once_for_a_character(owner: Connection, ids: dict[str, UUID]) -> None:
    record = """
        insert into public.character_images (character_id, kind, prompt, status, asset_id)
        values (%(characters)s, 'portfolioItem', 'a', 'succeeded', %(generated_assets)s)
        on conflict do nothing returning id
    """
    assert owner.execute(record.encode(), ids).fetchone() is not None
    assert owner.execute(record.encode(), ids).fetchone() is None


def test_images_come_from_ourselves_unless_somebody_else_is_named(
    owner: Connection, ids: dict[str, UUID]
) -> None:
    row = one(owner, "select provider, metrics, is_selected, created_by from public.character_images")
    assert row == {"provider": "self", "metrics": {}, "is_selected": False, "created_by": None}


def test_one_run_of_a_character_has_one_row(owner: Connection, ids: dict[str, UUID]) -> None:
    run = "insert into public.character_runs (character_id, style, run_token) values (%s, %s, %s)"
    with pytest.raises(psycopg.errors.UniqueViolation), owner.transaction():
        owner.execute(run.encode(), (ids["characters"], "storybook/flat", "a"))
    owner.execute(run.encode(), (ids["characters"], "storybook/flat", "b"))
    owner.execute(run.encode(), (ids["characters"], "storybook/anime", "a"))


def test_deleting_a_project_takes_chapters_panels_and_members_and_nothing_else(
    owner: Connection, ids: dict[str, UUID]
) -> None:
    owner.execute(
        "update public.comic_panels set job_id = %s, image_id = %s",
        (ids["generation_jobs"], ids["generated_assets"]),
    )
    owner.execute("delete from public.comic_projects where id = %s", (ids["comic_projects"],))
    gone = ("comic_chapters", "comic_panels", "panel_characters", "project_members")
    kept = ("characters", "generation_jobs", "generated_assets", "prompt_artifacts")
    for table, count in [*((name, 0) for name in gone), *((name, 1) for name in kept)]:
        assert one(owner, f"select count(*) from public.{table}")["count"] == count, table
    assert one(owner, "select project_id from public.characters")["project_id"] is None


def test_an_account_with_pictures_cannot_be_deleted_behind_the_buckets_back(
    owner: Connection, ids: dict[str, UUID]
) -> None:
    with pytest.raises(psycopg.errors.ForeignKeyViolation), owner.transaction():
        owner.execute("delete from auth.users where id = %s", (ids["owner"],))


def test_one_update_permutes_positions_and_two_of_one_place_are_refused(
    owner: Connection, ids: dict[str, UUID]
) -> None:
    project = ids["comic_projects"]
    owner.execute("delete from public.comic_chapters")
    for position, name in enumerate("abc"):
        owner.execute(
            "insert into public.comic_chapters (project_id, name, position) values (%s, %s, %s)",
            (project, name, position),
        )
    owner.execute("update public.comic_chapters set position = 2 - position")
    rows = owner.execute("select name from public.comic_chapters order by position").fetchall()
    assert "".join(row["name"] for row in rows) == "cba"
    with pytest.raises(psycopg.errors.UniqueViolation), owner.transaction():
        owner.execute("update public.comic_chapters set position = 0 where name = 'a'")


@pytest.mark.parametrize(
    ("sql", "fits", "too_long"),
    [
        ("update public.comic_panels set prompt = repeat('é', %s)", 1500, 1501),
        ("update public.comic_panels set enhanced_prompt = repeat('é', %s)", 1500, 1501),
        ("update public.comic_projects set base_model = repeat('é', %s)", 50, 51),
    ],
)
def test_lengths_are_limited_in_characters(
    owner: Connection, ids: dict[str, UUID], sql: str, fits: int, too_long: int
) -> None:
    owner.execute(sql.encode(), (fits,))
    with (
        pytest.raises((psycopg.errors.CheckViolation, psycopg.errors.StringDataRightTruncation)),
        owner.transaction(),
    ):
        owner.execute(sql.encode(), (too_long,))


def test_the_project_and_its_owner_come_together(owner: Connection, ids: dict[str, UUID]) -> None:
    row = one(owner, "select user_id, project_id from public.project_members where role = 'owner'")
    assert row == {"user_id": ids["owner"], "project_id": ids["comic_projects"]}


def test_signing_up_makes_a_profile(owner: Connection) -> None:
    names = {
        "a@example.com": ({}, "a"),
        "b@example.com": ({"full_name": "Bea"}, "Bea"),
        "c@example.com": ({"display_name": "x" * 200}, "x" * 100),
        "d@example.com": ({"display_name": ""}, None),
        "": ({}, None),
    }
    for email, (data, expected) in names.items():
        user = one(
            owner,
            "insert into auth.users (email, raw_user_meta_data) values (nullif(%s, ''), %s) returning id",
            (email, Jsonb(data)),
        )["id"]
        profile = one(owner, "select display_name from public.profiles where id = %s", (user,))
        assert profile["display_name"] == expected


def test_a_template_counts_its_texts_and_not_its_names(owner: Connection, ids: dict[str, UUID]) -> None:
    changes = ("name = 'b'", "text = 'b {{thing}}'", "text = text", """defaults = '{"thing": "fox"}'""")
    versions = [
        one(owner, f"update public.prompt_templates set {change} returning version")["version"]
        for change in changes
    ]
    assert versions == [1, 2, 2, 3]


def test_a_lora_name_is_free_again_when_its_lora_is_deleted(owner: Connection, ids: dict[str, UUID]) -> None:
    again = """
        insert into public.loras (user_id, name, source, source_ref)
        select user_id, name, source, source_ref from public.loras limit 1
    """
    with pytest.raises(psycopg.errors.UniqueViolation, match="loras_by_name"), owner.transaction():
        owner.execute(again.encode())
    owner.execute("update public.loras set deleted_at = now()")
    owner.execute(again.encode())


def test_a_lora_is_ready_only_with_its_file(owner: Connection, ids: dict[str, UUID]) -> None:
    with pytest.raises(psycopg.errors.CheckViolation, match="ready_loras_have_a_file"), owner.transaction():
        owner.execute("update public.loras set status = 'ready'")
    owner.execute(
        """update public.loras set status = 'ready', sha256 = repeat('a', 64), bytes = 1, bucket = 'uploads',
             key = 'a.safetensors'"""
    )


def test_a_repeated_step_writes_its_prompt_once_and_pictures_name_it(
    owner: Connection, ids: dict[str, UUID]
) -> None:
    write = """
        insert into public.prompt_artifacts (user_id, job_id, seq, input, final)
        values (%(owner)s, %(generation_jobs)s, 1, 'a', 'a') on conflict do nothing
    """
    assert owner.execute(write.encode(), ids).rowcount == 0
    owner.execute("update public.generated_assets set prompt_artifact_id = %(prompt_artifacts)s", ids)
    row = one(
        owner,
        """select p.final from public.generated_assets a
           join public.prompt_artifacts p on p.id = a.prompt_artifact_id""",
    )
    assert row["final"] == "a"


def test_rows_say_when_they_were_edited(owner: Connection, ids: dict[str, UUID]) -> None:
    tables = owner.execute(
        """select relname as name from pg_trigger join pg_class c on c.oid = tgrelid
           where tgfoid = 'private.set_updated_at'::regproc"""
    ).fetchall()
    assert {"characters", "comic_panels", "loras"} <= {table["name"] for table in tables}
    for table in tables:
        edited = one(
            owner,
            f"""update public.{table["name"]} set updated_at = '2000-01-01'
                returning updated_at > now() - interval '1 minute' as now""",
        )
        assert edited["now"], table["name"]


def test_prompts_and_errors_are_plain_text(owner: Connection) -> None:
    rows = owner.execute(
        """select distinct data_type from information_schema.columns
           where table_schema = 'public' and (column_name ~ 'prompt' and column_name !~ '_id$'
             or column_name in ('input', 'enhanced', 'final', 'negative', 'error', 'error_message'))"""
    ).fetchall()
    assert [row["data_type"] for row in rows] == ["text"]


def test_users_of_the_product_are_the_accounts_and_their_profiles(owner: Connection) -> None:
    rows = owner.execute(
        """select conrelid::regclass::text as name from pg_constraint
           where contype = 'f' and confrelid = 'auth.users'::regclass"""
    ).fetchall()
    assert {"profiles", "characters", "loras", "comic_projects", "generation_jobs"} <= {
        row["name"] for row in rows
    }


def test_characters_have_the_fields_that_prompts_are_built_from(owner: Connection) -> None:
    rows = owner.execute(
        """select column_name from information_schema.columns
           where table_schema = 'public' and table_name = 'characters'"""
    ).fetchall()
    assert {"name", "age", "ethnicity", "gender", "style", "source", "upload_id", "status"} <= {
        row["column_name"] for row in rows
    }


def test_the_last_days_health_by_status(owner: Connection, ids: dict[str, UUID]) -> None:
    add = """
        insert into public.generation_jobs
          (user_id, prompt_input, prompt_final, model, width, height, seed, status, wake_at, error_code,
           processing_time_ms, created_at)
        values (%s, 'a', 'a', 'instant', 64, 64, 1, %s, null, 'x', %s, now() - %s::interval)
    """
    for status, milliseconds, age in (
        ("completed", 1000, "1 hour"),
        ("completed", 2000, "23 hours"),
        ("completed", 9000, "25 hours"),
        ("failed", None, "2 hours"),
    ):
        owner.execute(add.encode(), (ids["owner"], status, milliseconds, age))
    rows = owner.execute("select status, count, avg_time from public.v_generation_health_24h").fetchall()
    shown = {row["status"]: (row["count"], row["avg_time"]) for row in rows}
    assert shown == {"queued": (1, None), "completed": (2, 1500), "failed": (1, None)}


def test_storage_in_use_counts_what_is_still_there(owner: Connection, ids: dict[str, UUID]) -> None:
    added = one(owner, ASSET, ids)["id"]
    assert one(owner, "select images, mb_used from public.v_storage_usage") == {"images": 2, "mb_used": 1.5}
    owner.execute("update public.generated_assets set deleted_at = now() where id = %s", (added,))
    assert one(owner, "select images, mb_used from public.v_storage_usage") == {"images": 1, "mb_used": 1.0}


def test_costs_by_day_and_model(owner: Connection, ids: dict[str, UUID]) -> None:
    owner.execute("update public.generation_jobs set gpu_seconds = 45, cost_usd_micros = 13750")
    row = one(owner, "select model, jobs, gpu_seconds, usd_micros from public.v_gpu_cost_daily")
    assert row == {"model": "instant", "jobs": 1, "gpu_seconds": 45, "usd_micros": 13750}


def test_realtime_tells_of_jobs_and_only_what_users_may_read(owner: Connection) -> None:
    row = one(
        owner,
        """select attnames::text[] as columns from pg_publication_tables
           where pubname = 'supabase_realtime' and tablename = 'generation_jobs'""",
    )
    readable = owner.execute(
        """select column_name from information_schema.column_privileges
           where grantee = 'authenticated' and table_schema = 'public' and table_name = 'generation_jobs'
             and privilege_type = 'SELECT'"""
    ).fetchall()
    assert {"id", "user_id", "status", "result_url"} <= set(row["columns"])
    assert set(row["columns"]) <= {column["column_name"] for column in readable}
