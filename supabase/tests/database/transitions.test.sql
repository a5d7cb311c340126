-- A job's way through its statuses, and what follows it. Run by `supabase test db`.
begin;
create extension if not exists pgtap with schema extensions;
select plan(10);

insert into auth.users (id, email) values ('10000000-0000-4000-8000-000000000001', 'transitions@example.com');
insert into public.generation_jobs (id, user_id, prompt_input, prompt_final, model, width, height, seed)
values ('10000000-0000-4000-8000-000000000002', '10000000-0000-4000-8000-000000000001', 'a', 'a', 'instant',
  64, 64, 1);
insert into public.comic_projects (id, user_id, name)
values ('10000000-0000-4000-8000-000000000003', '10000000-0000-4000-8000-000000000001', 'a');
insert into public.comic_chapters (id, project_id, name, position)
values ('10000000-0000-4000-8000-000000000004', '10000000-0000-4000-8000-000000000003', 'Chapter 1', 0);
insert into public.comic_panels (chapter_id, position, prompt, job_id)
values ('10000000-0000-4000-8000-000000000004', 0, 'a', '10000000-0000-4000-8000-000000000002');

select is((select status from public.comic_panels where job_id = '10000000-0000-4000-8000-000000000002'),
  'pending', 'a queued job''s panel is pending');
select throws_ok(
  $$update public.generation_jobs set status = 'completed', wake_at = null
    where id = '10000000-0000-4000-8000-000000000002'$$,
  '23514', 'a job cannot go from queued to completed', 'a queued job does not complete');
select lives_ok(
  $$update public.generation_jobs set status = 'processing' where id = '10000000-0000-4000-8000-000000000002'$$,
  'a queued job is processed');
select is((select status from public.comic_panels where job_id = '10000000-0000-4000-8000-000000000002'),
  'generating', 'its panel is generating');
select throws_ok(
  $$update public.generation_jobs set status = 'failed', wake_at = null
    where id = '10000000-0000-4000-8000-000000000002'$$,
  '23514', null, 'a job does not fail without saying why');
select throws_ok(
  $$update public.generation_jobs set status = 'completed' where id = '10000000-0000-4000-8000-000000000002'$$,
  '23514', null, 'a job that has ended does not fall due');
select lives_ok(
  $$update public.generation_jobs set status = 'completed', wake_at = null
    where id = '10000000-0000-4000-8000-000000000002'$$,
  'a processed job completes');
select is((select status from public.comic_panels where job_id = '10000000-0000-4000-8000-000000000002'),
  'ready', 'its panel is ready');
select throws_ok(
  $$update public.generation_jobs set status = 'queued', wake_at = now()
    where id = '10000000-0000-4000-8000-000000000002'$$,
  '23514', 'a job cannot go from completed to queued', 'a completed job stays completed');
select is((select count(*) from private.job_events where job_id = '10000000-0000-4000-8000-000000000002'),
  3::bigint, 'each move is an event');

select * from finish();
rollback;
