-- Who sees and changes what. Run by `supabase test db`.
begin;
create extension if not exists pgtap with schema extensions;
select plan(13);

insert into auth.users (id, email) values
  ('20000000-0000-4000-8000-000000000001', 'owner@policies.example.com'),
  ('20000000-0000-4000-8000-000000000002', 'viewer@policies.example.com'),
  ('20000000-0000-4000-8000-000000000003', 'other@policies.example.com');
insert into public.generation_jobs (user_id, prompt_input, prompt_final, model, width, height, seed)
values ('20000000-0000-4000-8000-000000000001', 'a', 'a', 'instant', 64, 64, 1);
insert into public.comic_projects (id, user_id, name)
values ('20000000-0000-4000-8000-000000000004', '20000000-0000-4000-8000-000000000001', 'a');
insert into public.comic_chapters (id, project_id, name, position)
values ('20000000-0000-4000-8000-000000000005', '20000000-0000-4000-8000-000000000004', 'Chapter 1', 0);
insert into public.project_members (project_id, user_id, role)
values ('20000000-0000-4000-8000-000000000004', '20000000-0000-4000-8000-000000000002', 'viewer');

set local role authenticated;
set local request.jwt.claims = '{"sub": "20000000-0000-4000-8000-000000000001", "role": "authenticated"}';
select is((select count(*) from public.generation_jobs), 1::bigint, 'owners see their jobs');
select throws_ok('select leased_by from public.generation_jobs', '42501', null, 'but not the machinery');
select throws_ok('update public.generation_jobs set prompt_final = ''b''', '42501', null,
  'and change nothing of them');
select is((select count(*) from public.comic_chapters), 1::bigint, 'owners see their chapters');
select lives_ok('update public.comic_chapters set name = ''Prologue''', 'and name them');
select throws_ok(
  'update public.project_members set role = ''owner'' where user_id = ''20000000-0000-4000-8000-000000000002''',
  '42501', null, 'a project has one owner');

set local request.jwt.claims = '{"sub": "20000000-0000-4000-8000-000000000002", "role": "authenticated"}';
select is((select name from public.comic_chapters), 'Prologue', 'viewers read');
select throws_ok(
  $$insert into public.comic_panels (chapter_id, position, prompt)
    values ('20000000-0000-4000-8000-000000000005', 0, 'a')$$,
  '42501', null, 'and write nothing');

set local request.jwt.claims =
  '{"sub": "20000000-0000-4000-8000-000000000003", "role": "service_role", "user_metadata": {"role": "admin"}}';
select is((select count(*) from public.generation_jobs), 0::bigint, 'others see no job, whatever they claim');
select is((select count(*) from public.comic_projects), 0::bigint, 'and no project');
select is((select count(*) from public.profiles), 1::bigint, 'and one profile, their own');
select throws_ok('select * from private.generation_calls', '42501', null, 'and nothing private');

set local role anon;
select throws_ok('select id from public.generation_jobs', '42501', null, 'strangers are refused');

reset role;
select * from finish();
rollback;
