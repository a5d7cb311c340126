"""What Supabase's advisors look for, asked of the catalogue, and each question tried on a planted fault."""

from collections.abc import Iterator

import psycopg
import pytest

from gateway.embedded import EmbeddedPostgres

OURS = "('public'::regnamespace, 'private'::regnamespace)"
ONCE_A_QUERY = r"\( SELECT (auth|private)\.\w+\((''\w+''::[\w.]+)?\) AS \w+\)"

FAULTS = {
    "a table that users reach without row-level security": """
        select oid::regclass::text from pg_class
        where relkind in ('r', 'p') and relnamespace = 'public'::regnamespace and not relrowsecurity""",
    "row-level security without a policy": f"""
        select oid::regclass::text from pg_class c where relrowsecurity and relnamespace in {OURS}
          and not exists (select from pg_policy where polrelid = c.oid)""",
    "a policy that asks who is calling for each row": f"""
        select policyname from pg_policies where schemaname in ('public', 'private', 'storage')
          and regexp_replace(concat_ws(' ', qual, with_check), '{ONCE_A_QUERY}', '', 'g')
            ~ '(\\mauth|\\mprivate)\\.\\w+\\(|current_setting\\('""",
    "two permissive policies for one action": """
        select polrelid::regclass::text from pg_policy, unnest(polroles) role,
          unnest(case when polcmd = '*' then array['r', 'a', 'w', 'd'] else array[polcmd::text] end) action
        where polpermissive group by polrelid, role, action having count(*) > 1""",
    "a policy for everybody": """
        select policyname from pg_policies where schemaname in ('public', 'private', 'storage')
          and not roles <@ '{authenticated,gateway_service}'""",
    "a policy for users that is always true": """
        select policyname from pg_policies
        where 'true' in (qual, with_check) and roles <> '{gateway_service}'""",
    "a policy's column without an index": f"""
        with compared as (  -- behind another column of its policy in an index will do
          select p.oid, polrelid, refobjsubid as attnum from pg_policy p
          join pg_depend d on d.classid = 'pg_policy'::regclass and d.objid = p.oid
            and d.refclassid = 'pg_class'::regclass and d.refobjid = polrelid and refobjsubid > 0
          join pg_class c on c.oid = polrelid and relnamespace in {OURS})
        select distinct polrelid::regclass::text || '.' || attname from compared c
        join pg_attribute a on attrelid = polrelid and a.attnum = c.attnum
        where (polrelid, attname) <> ('public.project_members'::regclass, 'role')  -- few to a project
          and not exists (select from pg_index where indrelid = polrelid and c.attnum = any(indkey)
            and indkey[0] in (select o.attnum from compared o where o.oid = c.oid))""",
    "a foreign key without an index": f"""
        select conname::text from pg_constraint c where contype = 'f' and connamespace in {OURS}
          and not exists (select from pg_index i where i.indrelid = c.conrelid
            and (i.indkey::int2[])[0:cardinality(c.conkey) - 1] @> c.conkey)""",
    "a table without a primary key": f"""
        select oid::regclass::text from pg_class c where relkind in ('r', 'p') and relnamespace in {OURS}
          and not exists (select from pg_constraint where conrelid = c.oid and contype = 'p')""",
    "a view with the rights of its maker": f"""
        select oid::regclass::text from pg_class where relkind in ('v', 'm') and relnamespace in {OURS}
          and not coalesce('security_invoker=true' = any(reloptions), false)""",
    "a view of the accounts": f"""
        select distinct v.oid::regclass::text from pg_class v join pg_rewrite r on r.ev_class = v.oid
        join pg_depend d on d.classid = 'pg_rewrite'::regclass and d.objid = r.oid
        where v.relnamespace in {OURS} and d.refobjid = 'auth.users'::regclass""",
    "a function that trusts the caller's search path": f"""
        select oid::regprocedure::text from pg_proc where pronamespace in {OURS}
          and not coalesce('search_path=""' = any(proconfig), false)""",
    "a function that everybody may call": f"""
        select oid::regprocedure::text from pg_proc where pronamespace in {OURS}
          and has_function_privilege('anon', oid, 'execute')""",
    "a function with its maker's rights where users call": """
        select oid::regprocedure::text from pg_proc
        where prosecdef and pronamespace = 'public'::regnamespace""",
    "a way for users into the private schema": """
        select role from unnest(array['anon', 'authenticated', 'service_role', 'gateway']) role
        where has_schema_privilege(role, 'private', 'usage')""",
    "a right of strangers, or one to write whole rows": f"""
        select c.oid::regclass::text from pg_class c, aclexplode(relacl) given
        where relnamespace in {OURS} and relkind in ('r', 'v', 'm', 'p') and (
          given.grantee in (0, 'anon'::regrole)
          or given.grantee = 'authenticated'::regrole and privilege_type not in ('SELECT', 'DELETE'))""",
}

NEW_TABLE = "create table public.planted (id uuid primary key, user_id uuid not null);"
CLOSED = "alter table public.planted enable row level security;"
OWN = "create policy own on public.planted for select to authenticated using ((select auth.uid()) = user_id);"

PLANTED = {
    "a table that users reach without row-level security": NEW_TABLE,
    "row-level security without a policy": NEW_TABLE + CLOSED,
    "a policy that asks who is calling for each row": NEW_TABLE
    + "create policy own on public.planted for select to authenticated using (auth.uid() = user_id);",
    "two permissive policies for one action": NEW_TABLE
    + OWN
    + "create policy also on public.planted to authenticated using (user_id is null);",
    "a policy for everybody": NEW_TABLE
    + "create policy own on public.planted for select using ((select auth.uid()) = user_id);",
    "a policy for users that is always true": NEW_TABLE
    + "create policy own on public.planted for select to authenticated using (true);",
    "a policy's column without an index": NEW_TABLE + OWN,
    "a foreign key without an index": "create table public.planted (u uuid references auth.users (id));",
    "a table without a primary key": "create table private.planted (id uuid);",
    "a view with the rights of its maker": "create view public.planted as select id from public.loras;",
    "a view of the accounts": "create view public.planted as select email from auth.users;",
    "a function that trusts the caller's search path": "create function private.planted() returns integer"
    " language sql as 'select 1'; revoke all on function private.planted() from public;",
    "a function that everybody may call": "create function private.planted() returns integer language sql"
    " set search_path = '' as 'select 1';",
    "a function with its maker's rights where users call": "create function public.planted() returns integer"
    " language sql security definer set search_path = '' as 'select 1';",
    "a way for users into the private schema": "grant usage on schema private to authenticated;",
    "a right of strangers, or one to write whole rows": "grant insert on public.profiles to authenticated;",
}


@pytest.fixture
def catalogue(postgres: EmbeddedPostgres) -> Iterator[psycopg.Connection]:
    with psycopg.connect(postgres.admin_url) as connection:
        yield connection
        connection.rollback()


@pytest.mark.parametrize("fault", FAULTS)
def test_the_migrations_are_free_of(catalogue: psycopg.Connection, fault: str) -> None:
    assert catalogue.execute(FAULTS[fault].encode()).fetchall() == []


@pytest.mark.parametrize("fault", FAULTS)
def test_the_check_finds(catalogue: psycopg.Connection, fault: str) -> None:
    catalogue.execute(PLANTED[fault].encode())
    assert catalogue.execute(FAULTS[fault].encode()).fetchall() != []
