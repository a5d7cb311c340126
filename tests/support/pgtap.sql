-- The five functions of pgTAP that supabase/tests/database asks for, for servers without the extension.
create function extensions.plan(tests integer) returns text language plpgsql as $$
begin
  perform set_config('tap.planned', tests::text, true), set_config('tap.done', '0', true);
  return '1..' || tests;
end $$;

create function extensions.tap(passed boolean, description text, seen text) returns text language plpgsql as $$
begin
  perform set_config('tap.done', (current_setting('tap.done')::integer + 1)::text, true);
  return case when passed then 'ok ' else 'not ok ' end || current_setting('tap.done') || ' - ' || description
    || case when passed then '' else ', found ' || coalesce(seen, 'null') end;
end $$;

create function extensions."is"(have anyelement, want anyelement, description text) returns text
language sql as $$ select extensions.tap(have is not distinct from want, description, have::text) $$;
create function extensions."is"(have text, want text, description text) returns text
language sql as $$ select extensions.tap(have is not distinct from want, description, have) $$;

create function extensions.lives_ok(statement text, description text) returns text language plpgsql as $$
begin
  execute statement;
  return extensions.tap(true, description, null);
exception when others then
  return extensions.tap(false, description, sqlstate || ' ' || sqlerrm);
end $$;

create function extensions.throws_ok(statement text, code text, message text, description text) returns text
language plpgsql as $$
begin
  execute statement;
  return extensions.tap(false, description, 'no error');
exception when others then
  return extensions.tap(
    sqlstate = code and sqlerrm = coalesce(message, sqlerrm), description, sqlstate || ' ' || sqlerrm);
end $$;

create function extensions.finish() returns setof text language sql as $$
  select 'planned ' || current_setting('tap.planned') || ', done ' || current_setting('tap.done')
  where current_setting('tap.planned') <> current_setting('tap.done')
$$;
grant usage on schema extensions to anon, authenticated;
