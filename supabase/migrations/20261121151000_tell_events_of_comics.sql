-- Whoever follows a comic reads its panels' moves by the comic. The trigger that logs a move knows the job's row
-- already, so this costs jobs nothing, and those that draw no panel are not in the index.
alter table private.job_events add column project_id uuid;
create index job_events_by_project on private.job_events (project_id, id) where project_id is not null;

create or replace function private.log_created_jobs() returns trigger
language plpgsql set search_path = '' as $$
begin
  insert into private.job_events (id, job_id, user_id, event, status, stage, step, steps, project_id)
  select free.id + row_number() over () - 1, created.id, user_id, 'status', status, stage, step, steps,
    case when plan = 'comic_panel' then (inputs ->> 'project_id')::uuid end
  from created, (select private.first_free_event_id() as id) free;
  return null;
end $$;

create or replace function private.log_moved_jobs() returns trigger
language plpgsql set search_path = '' as $$
begin
  insert into private.job_events (id, job_id, user_id, event, status, stage, step, steps, project_id)
  select free.id + row_number() over () - 1, after.id, after.user_id,
    case
      when after.status in ('completed', 'failed', 'canceled') then after.status::text
      when after.status is distinct from before.status or after.stage is distinct from before.stage then 'status'
      else 'progress'
    end,
    after.status, after.stage, after.step, after.steps,
    case when after.plan = 'comic_panel' then (after.inputs ->> 'project_id')::uuid end
  from moved after join previous before using (id), (select private.first_free_event_id() as id) free
  where (after.status, after.stage, after.step) is distinct from (before.status, before.stage, before.step);
  return null;
end $$;
