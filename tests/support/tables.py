"""Every table and view: how one row of it is made, and who may do what with that row.

A new table gets one entry here; ``test_access`` fails until it has.  All rows belong to ``owner``, in a
project with an ``editor`` and a ``viewer``.  What somebody may do with such a row is four letters, for
select, insert, update and delete:

    s i u d   it works
    0         it is allowed and finds nothing: the row does not exist for them
    -         it is refused
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import psycopg

Connection = psycopg.Connection[dict[str, Any]]
SHA256 = "repeat('a', 64)"


@dataclass(frozen=True)
class Table:
    name: str
    insert: str
    """Columns and values of a row; empty where a trigger makes it, or for a view.

    ``%(owner)s`` and so on are users, ``%(comic_projects)s`` is the id of the row made before there.
    """
    owner: str
    service: str
    editor: str = ""
    viewer: str = ""
    other: str = ""
    touch: str = "id"
    """A column to update."""
    where: str = "true"
    """Tells the owner's row, where others have theirs without asking."""

    def allowed(self, who: str) -> str:
        """Four letters; strangers are given nothing of what is the owner's."""
        if who in ("anonymous", "login"):
            return "----"
        if who in ("owner", "key"):
            return self.owner
        if who == "service":
            return self.service
        stranger = self.other or "".join("-" if letter in "i-" else "0" for letter in self.owner)
        return {"editor": self.editor, "viewer": self.viewer}.get(who, "") or stranger

    def statements(self) -> dict[str, str]:
        """One statement for each of the four, without ids of rows: what it finds is what policies show."""
        column = self.touch
        return {
            "select": f"select count(*) from {self.name} where {self.where}",
            "insert": f"insert into {self.name} {self.insert or 'default values'}",
            "update": f"update {self.name} set {column} = {column} where {self.where}",
            "delete": f"delete from {self.name} where {self.where}",
        }


TABLES = [
    Table("public.profiles", "", "s-u-", "siu-", touch="display_name", where="id = %(owner)s"),
    Table(
        "public.api_keys",
        f"(user_id, prefix, sha256, scopes) values (%(owner)s, 'tk_aaaa', {SHA256}, '{{read}}')",
        owner="s---",
        service="siu-",
        touch="revoked_at",
    ),
    Table("public.batches", "(user_id) values (%(owner)s)", owner="s---", service="si--"),
    Table(
        "public.generation_jobs",
        "(user_id, prompt_input, prompt_final, model, width, height, seed)"
        " values (%(owner)s, 'a', 'a', 'instant', 64, 64, 1)",
        owner="s---",
        service="siu-",
        touch="prompt_input",
    ),
    Table(
        "public.prompt_templates",
        "(user_id, name, text) values (%(owner)s, gen_random_uuid()::text, 'a {{thing}}')",
        owner="siud",
        service="siu-",
        touch="name",
    ),
    Table(
        "public.loras",
        "(user_id, name, source, source_ref) values (%(owner)s, gen_random_uuid()::text, 'url', 'https://a')",
        owner="siu-",
        service="siu-",
        touch="name",
    ),
    Table(
        "public.comic_projects",
        "(user_id, name) values (%(owner)s, 'a')",
        owner="siud",
        editor="s-u0",
        viewer="s-00",
        service="siu-",
        touch="name",
    ),
    Table(
        "public.project_members",
        "(project_id, user_id, role) values (%(comic_projects)s, %(guest)s, 'viewer')",
        owner="siud",
        editor="s-00",
        viewer="s-00",
        service="siu-",
        touch="role",
        where="user_id = %(guest)s",
    ),
    Table(
        "public.characters",
        "(user_id, project_id, name, source, description)"
        " values (%(owner)s, %(comic_projects)s, 'a', 'description', 'a')",
        owner="siu-",
        editor="s-0-",
        viewer="s-0-",
        service="siu-",
        touch="name",
    ),
    Table(
        "public.character_profiles",
        "(character_id, source) values (%(characters)s, 'fallback')",
        owner="s-u-",
        editor="s-0-",
        viewer="s-0-",
        service="siu-",
        touch="do_not_change",
    ),
    Table(
        "public.character_images",
        "(character_id, kind, prompt, status, error) values (%(characters)s, 'scene', 'a', 'failed', 'a')",
        owner="s-u-",
        editor="s-0-",
        viewer="s-0-",
        service="siu-",
        touch="is_selected",
    ),
    Table(
        "public.character_runs",
        "(character_id, style, run_token) values (%(characters)s, 'storybook/flat', 'a')",
        owner="s---",
        service="siu-",
        touch="style",
    ),
    Table(
        "public.comic_chapters",
        "(project_id, name, position) values (%(comic_projects)s, 'a', 1 + floor(1e9 * random()))",
        owner="siud",
        editor="siud",
        viewer="s-00",
        service="siu-",
        touch="name",
    ),
    Table(
        "public.comic_panels",
        "(chapter_id, position, prompt) values (%(comic_chapters)s, 1 + floor(1e9 * random()), 'a')",
        owner="siud",
        editor="siud",
        viewer="s-00",
        service="siu-",
        touch="prompt",
    ),
    Table(
        "public.panel_characters",
        "(panel_id, character_id, position) values (%(comic_panels)s, %(characters)s, 0)",
        owner="siud",
        editor="siud",
        viewer="s-00",
        service="siu-",
        touch="position",
    ),
    Table(
        "public.prompt_artifacts",
        "(user_id, job_id, input, final) values (%(owner)s, %(generation_jobs)s, 'a', 'a')",
        owner="s---",
        service="siu-",
        touch="input",
    ),
    Table(
        "public.generated_assets",
        "(id, user_id, job_id, n, key, content_type, bytes, sha256, width, height, seed) values"
        " (gen_random_uuid(), %(owner)s, %(generation_jobs)s, 0, gen_random_uuid()::text, 'image/png',"
        f" 1048576, {SHA256}, 64, 64, 1)",
        owner="s---",
        service="siu-",
        touch="kind",
    ),
    Table(
        "public.uploads",
        "(user_id, source, filename, content_type, bytes) values (%(owner)s, 'upload', 'a', 'image/png', 1)",
        owner="s---",
        service="siu-",
        touch="filename",
    ),
    Table(
        "public.budgets",
        "(user_id, limit_usd_micros) values (%(owner)s, 1000000)",
        owner="siu-",
        service="siu-",
        touch="limit_usd_micros",
    ),
    Table(
        "public.webhook_endpoints",
        "(user_id, url, events, secret) values (%(owner)s, 'https://example.com/', '{*}', 'whsec_eA==')",
        owner="siud",
        service="s-u-",
        touch="description",
    ),
    Table(
        "public.webhook_deliveries",
        "(endpoint_id, user_id, event_id, event_type)"
        " values (%(webhook_endpoints)s, %(owner)s, gen_random_uuid(), 'webhook.test')",
        owner="s---",
        service="siud",
        touch="event_type",
    ),
    Table("public.v_generation_health_24h", "", "s---", "s---", touch="status"),
    Table("public.v_storage_usage", "", "s---", "s---", touch="images", where="images > 0"),
    Table("public.v_gpu_cost_daily", "", "s---", "s---", touch="model"),
    Table(
        "private.generation_calls",
        "(job_id, seq, attempt, user_id, task, model)"
        " values (%(generation_jobs)s, 1, 1, %(owner)s, 'image', 'instant')",
        owner="----",
        service="siud",
        touch="task",
    ),
    Table(
        "private.webhook_inbox",
        "(source, webhook_id, job_id, body_sha256, payload)"
        " values ('gpu', 'a', %(generation_jobs)s, 'a', '{}')",
        owner="----",
        service="si-d",
        touch="source",
    ),
    Table(
        "private.outbox",
        "(job_id, user_id, kind) values (%(generation_jobs)s, %(owner)s, 'a')",
        owner="----",
        service="siud",
        touch="kind",
    ),
    Table(
        "private.idempotency_keys",
        "(user_id, key, request_sha256, job_id) values (%(owner)s, 'a', 'a', %(generation_jobs)s)",
        owner="----",
        service="siud",
        touch="body",
    ),
    Table(
        "private.submissions",
        "(job_id, credential, request_sha256) values (%(generation_jobs)s, 'a', 'a')",
        owner="----",
        service="siud",
        touch="retries",
    ),
    Table(
        "private.sessions",
        "(user_id, cookie_sha256, expires_at)"
        " values (%(owner)s, encode(sha256(gen_random_uuid()::text::bytea), 'hex'), now())",
        owner="----",
        service="siud",
        touch="expires_at",
    ),
    Table(
        "private.previews",
        "(job_id, event_id, n, content_type, content) values (%(generation_jobs)s, 1, 0, 'image/webp', 'a')",
        owner="----",
        service="siud",
        touch="n",
    ),
    Table(
        "private.ledger",
        "(user_id, job_id, kind, usd_micros, images, gpu_seconds, counted_at)"
        " values (%(owner)s, %(generation_jobs)s, 'settle', 1, 1, 1, now())",
        owner="----",
        service="si--",
        touch="kind",
    ),
    Table("private.bills", "(day, usd_micros) values (current_date, 1)", "----", "s---", touch="usd_micros"),
    Table(
        "private.budget_counts",
        "(user_id, set_by, starts_at, day_starts_at, held_usd_micros, spent_usd_micros, images, gpu_seconds)"
        " values (%(owner)s, 'user', now(), now(), 0, 0, 0, 0)",
        owner="----",
        service="siu-",
        touch="images",
    ),
    Table("private.budget_use", "", "----", "s---", touch="period"),
    Table(
        "private.deletions",
        "(bucket, key, reason) values ('generated-designs', 'a/b.png', 'orphan')",
        owner="----",
        service="siud",
        touch="last_error",
    ),
    Table(
        "private.deleted_panels",
        "(panel_id, project_id, panel, character_ids)"
        " values (gen_random_uuid(), gen_random_uuid(), '{}', '{}')",
        owner="----",
        service="si-d",
        touch="project_id",
    ),
    Table("private.job_events", "", "----", "si-d", touch="event"),
]


def add_users(connection: Connection, *names: str) -> dict[str, UUID]:
    """New accounts, by name."""
    users = {name: uuid4() for name in names}
    for name, user in users.items():
        connection.execute(
            "insert into auth.users (id, email) values (%s, %s)", (user, f"{name}-{user}@example.com")
        )
    return users


def add_rows(connection: Connection, tables: Iterable[Table] = TABLES) -> dict[str, UUID]:
    """One row in each table, as the database's owner; returns users by name and ids by table."""
    ids = add_users(connection, "owner", "editor", "viewer", "guest", "other")
    for table in tables:
        if not table.insert:
            continue
        row = connection.execute(f"{table.statements()['insert']} returning *".encode(), ids).fetchone()
        assert row is not None
        ids[table.name.partition(".")[2]] = row.get("id")
        if table.name == "public.project_members":
            for name in ("editor", "viewer"):
                member = {**ids, "guest": ids[name]}
                connection.execute(
                    table.statements()["insert"].replace("'viewer'", f"'{name}'").encode(), member
                )
    return ids


def claims_of(user: UUID | None, **more: object) -> str:
    """What the gateway hands to the database of a verified token."""
    return json.dumps({"sub": str(user), "role": "authenticated", **more} if user else {})
