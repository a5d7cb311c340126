"""Write docs/schema.md from a freshly migrated database: ``python -m scripts.snapshot_schema``.

A test compares the file with the database, so that a change of the schema is seen where it is reviewed.
The text is the same on every version of Postgres that the migrations run on.
"""

import re
import tempfile
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import dict_row

from gateway.embedded import EmbeddedPostgres

TARGET = Path(__file__).parents[1] / "docs" / "schema.md"
HEAD = """# The schema

What the migrations in [supabase/migrations](../supabase/migrations) add up to. Written from a database by
`python -m scripts.snapshot_schema`; a test compares. `public` is what users reach, under row-level security;
`private` is the gateway's own. A right with columns behind it holds for these alone.
"""

Connection = psycopg.Connection[dict[str, Any]]

RELATIONS = """
select c.oid, n.nspname as schema, relname as name, relkind = 'v' as is_view, relrowsecurity as secured,
  case when relkind = 'v' then pg_get_viewdef(c.oid) end as definition
from pg_class c join pg_namespace n on n.oid = relnamespace
where nspname in ('public', 'private') and relkind in ('r', 'p', 'v') order by nspname desc, relkind, relname
"""
COLUMNS = """
select attname as name, format_type(atttypid, atttypmod) as type, attnotnull as required,
  attgenerated <> '' as generated, attidentity <> '' as identity, pg_get_expr(adbin, adrelid) as value
from pg_attribute left join pg_attrdef on adrelid = attrelid and adnum = attnum
where attrelid = %(oid)s and attnum > 0 and not attisdropped order by attnum
"""
CONSTRAINTS = """
select conname as name, pg_get_constraintdef(oid) as text from pg_constraint
where conrelid = %(oid)s and contype in ('p', 'u', 'f', 'c', 'x')
order by array_position(array['p', 'u', 'f', 'c', 'x']::"char"[], contype), conname
"""
INDEXES = """
select relname as name, pg_get_indexdef(indexrelid) as text from pg_index join pg_class on oid = indexrelid
where indrelid = %(oid)s
  and not exists (select from pg_constraint where conindid = indexrelid and contype <> 'f')
order by relname
"""
TRIGGERS = """
select tgname as name, pg_get_triggerdef(oid) as text from pg_trigger
where tgrelid = %(oid)s and not tgisinternal order by tgname
"""
POLICIES = """
select policyname as name, cmd, roles::text[] as roles, qual, with_check from pg_policies
where schemaname = %(schema)s and tablename = %(name)s
order by array_position(array['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'ALL'], cmd), policyname
"""
GRANTS = """
select role, right_, columns from (
  select grantee::regrole::text as role, privilege_type as right_, null as columns
  from pg_class, aclexplode(relacl) where pg_class.oid = %(oid)s
  union all
  select grantee::regrole::text, privilege_type, string_agg(attname, ', ' order by attnum)
  from pg_attribute, aclexplode(attacl) where attrelid = %(oid)s group by 1, 2
) given
where role in ('anon', 'authenticated', 'gateway', 'gateway_service')
order by role, array_position(array['SELECT', 'INSERT', 'UPDATE', 'DELETE'], right_)
"""
TYPES = """
select t.oid::regtype::text as name, string_agg(enumlabel, ', ' order by enumsortorder) as labels
from pg_type t join pg_enum on enumtypid = t.oid
where typnamespace in ('public'::regnamespace, 'private'::regnamespace) group by t.oid order by 1
"""
FUNCTIONS = """
select p.oid::regprocedure::text as name, pg_get_function_result(p.oid) as result, prosecdef as definer,
  left(encode(sha256(prosrc::bytea), 'hex'), 8) as digest,
  (select string_agg(role, ', ')
   from unnest(array['anon', 'authenticated', 'gateway', 'gateway_service']) role
   where has_function_privilege(role, p.oid, 'execute')) as callers
from pg_proc p where pronamespace in ('public'::regnamespace, 'private'::regnamespace) order by 1
"""
PUBLISHED = """
select format('%%I.%%I', schemaname, tablename) as name, array_to_string(attnames, ', ') as columns
from pg_publication_tables where pubname = 'supabase_realtime' order by 1
"""
BUCKETS = "select id, public, file_size_limit, allowed_mime_types from storage.buckets order by id"


def main() -> None:
    with (
        tempfile.TemporaryDirectory(prefix="tenkaigen-schema-") as folder,
        EmbeddedPostgres(Path(folder)) as postgres,
        psycopg.connect(postgres.admin_url, row_factory=dict_row) as connection,
    ):
        TARGET.write_text(snapshot(connection))
    print(f"wrote {TARGET}")


def snapshot(connection: Connection) -> str:
    """The schema as a document."""
    ask = _asker(connection)
    relations = ask(RELATIONS)
    tables = {relation["name"] for relation in relations}
    parts = [HEAD]
    for relation in relations:
        parts += ["", *(_view(ask, relation, tables) if relation["is_view"] else _table(ask, relation))]
    parts += ["", *_outside(ask), "", *_types(ask), "", *_functions(ask), "", *_published(ask)]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(parts)).rstrip() + "\n"


def _asker(connection: Connection) -> Any:
    return lambda sql, values=None: connection.execute(sql.encode(), values or {}).fetchall()


def _table(ask: Any, table: dict[str, Any]) -> Iterator[str]:
    yield f"## {table['schema']}.{table['name']}\n"
    yield "| column | type | |\n|---|---|---|"
    for column in ask(COLUMNS, table):
        yield f"| `{column['name']}` | {column['type']} | {_cell(_rule(column))} |"
    yield ""
    yield from (f"- {row['name']}: `{row['text']}`" for row in ask(CONSTRAINTS, table))
    yield from (f"- index `{_short(row['text'])}`" for row in ask(INDEXES, table))
    yield from (f"- trigger `{_short(row['text'])}`" for row in ask(TRIGGERS, table))
    if table["secured"]:
        yield "- row-level security"
    yield from map(_policy, ask(POLICIES, table))
    yield from _grants(ask, table)


def _rule(column: dict[str, Any]) -> str:
    words = ["not null"] if column["required"] else []
    if column["identity"]:
        words.append("identity")
    elif column["generated"]:
        words.append(f"= `{column['value']}`")
    elif column["value"] is not None:
        words.append(f"default `{column['value']}`")
    return ", ".join(words)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _short(text: str) -> str:
    """A definition without the words that every one begins with."""
    text = re.sub(r"^CREATE (UNIQUE )?(INDEX|TRIGGER) ", lambda match: match[1] or "", text)
    return text.replace(" USING btree", "")


def _policy(policy: dict[str, Any]) -> str:
    terms = "".join(
        f" {word} `{' '.join(policy[part].split())}`"
        for word, part in (("using", "qual"), ("check", "with_check"))
        if policy[part]
    )
    return f"- policy “{policy['name']}”, {policy['cmd'].lower()} to {', '.join(policy['roles'])}:{terms}"


def _grants(ask: Any, relation: dict[str, Any]) -> Iterator[str]:
    for role, given in groupby(ask(GRANTS, relation), lambda row: row["role"]):
        rights = (
            f"{row['right_'].lower()}{' (' + row['columns'] + ')' if row['columns'] else ''}" for row in given
        )
        yield f"- granted to {role}: {', '.join(rights)}"


def _view(ask: Any, view: dict[str, Any], tables: set[str]) -> Iterator[str]:
    """Postgres 15 names a column's table where later versions do not."""
    yield f"## {view['schema']}.{view['name']} (view)\n"
    text = re.sub(rf"\b({'|'.join(tables)})\.", "", view["definition"])
    yield f"```sql\n{text.strip()}\n```\n"
    yield from _grants(ask, view)


def _outside(ask: Any) -> Iterator[str]:
    yield "## On Supabase's own tables\n"
    for schema, name in (("auth", "users"), ("storage", "objects")):
        oid = ask(f"select '{schema}.{name}'::regclass::oid as oid")[0]["oid"]
        yield from (f"- trigger `{_short(row['text'])}`" for row in ask(TRIGGERS, {"oid": oid}))
        for policy in ask(POLICIES, {"schema": schema, "name": name}):
            yield f"{_policy(policy)} ({schema}.{name})"
    for row in ask(BUCKETS):
        kinds = ", ".join(row["allowed_mime_types"] or ["anything"])
        kind = "public" if row["public"] else "private"
        yield f"- bucket `{row['id']}`: {kind}, at most {row['file_size_limit']} bytes, {kinds}"


def _types(ask: Any) -> Iterator[str]:
    yield "## Types\n"
    yield from (f"- `{row['name']}`: {row['labels']}" for row in ask(TYPES))


def _functions(ask: Any) -> Iterator[str]:
    yield "## Functions\n"
    yield "The digest is of the body.\n"
    yield "| function | gives | rights of | called by | digest |\n|---|---|---|---|---|"
    for row in ask(FUNCTIONS):
        rights = "maker" if row["definer"] else "caller"
        callers = row["callers"] or "triggers"
        yield f"| `{row['name']}` | {row['result']} | {rights} | {callers} | {row['digest']} |"


def _published(ask: Any) -> Iterator[str]:
    yield "## Published to Realtime\n"
    yield from (f"- {row['name']}: {row['columns']}" for row in ask(PUBLISHED))


if __name__ == "__main__":
    main()
