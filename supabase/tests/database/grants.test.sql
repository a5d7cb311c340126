-- What is granted to whom, for every table that there is. Run by `supabase test db`.
begin;
create extension if not exists pgtap with schema extensions;
select plan(6);

select is((select count(*) from pg_class
    where relnamespace = 'public'::regnamespace and relkind = 'r' and not relrowsecurity),
  0::bigint, 'every public table has row-level security');
select is((select count(*) from information_schema.role_table_grants
    where table_schema in ('public', 'private') and grantee in ('anon', 'PUBLIC')),
  0::bigint, 'strangers are granted nothing');
select is((select count(*) from information_schema.role_table_grants
    where table_schema in ('public', 'private') and grantee = 'authenticated'
      and privilege_type not in ('SELECT', 'DELETE')),
  0::bigint, 'users write by column only');
select is(has_schema_privilege('authenticated', 'private', 'usage'), false, 'users cannot enter private');
select is((select count(*) from pg_roles where rolname in ('gateway', 'gateway_service') and rolbypassrls),
  0::bigint, 'no login of the gateway bypasses row-level security');
select is((select count(*) from pg_proc
    where pronamespace in ('public'::regnamespace, 'private'::regnamespace)
      and has_function_privilege('anon', oid, 'execute')),
  0::bigint, 'strangers call nothing');

select * from finish();
rollback;
