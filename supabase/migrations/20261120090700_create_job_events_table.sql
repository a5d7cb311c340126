-- The log behind server-sent events. A trigger writes it, so that no move of a job can forget to.
--
-- An id is transaction id * 4096 + place in the transaction. Transactions commit out of order, so a
-- reader that remembered the newest id of a sequence would miss late commits; with this id it reads
-- up to the oldest transaction still running (pg_snapshot_xmin) and loses nothing.
create table private.job_events (
  id bigint primary key,
  job_id uuid not null,
  user_id uuid not null,
  event text not null check (event in ('status', 'progress', 'completed', 'failed', 'canceled')),
  status public.job_status not null,
  stage text,
  step integer not null,
  steps integer not null,
  created_at timestamptz not null default now()
);
create index job_events_by_user on private.job_events (user_id, id);
create index job_events_by_age on private.job_events (created_at);

revoke all on private.job_events from public, anon, authenticated;
grant select, insert, delete on private.job_events to gateway_service;

create function private.first_free_event_id() returns bigint
language sql volatile set search_path = '' as $$
  select coalesce(max(id), mine.first) + 1
  from (select pg_current_xact_id()::text::bigint * 4096 as first) mine
  left join private.job_events on id >= mine.first and id < mine.first + 4096
  group by mine.first
$$;

create function private.log_created_jobs() returns trigger
language plpgsql set search_path = '' as $$
begin
  insert into private.job_events (id, job_id, user_id, event, status, stage, step, steps)
  select free.id + row_number() over () - 1, created.id, user_id, 'status', status, stage, step, steps
  from created, (select private.first_free_event_id() as id) free;
  return null;
end $$;

create function private.log_moved_jobs() returns trigger
language plpgsql set search_path = '' as $$
begin
  insert into private.job_events (id, job_id, user_id, event, status, stage, step, steps)
  select free.id + row_number() over () - 1, after.id, after.user_id,
    case
      when after.status in ('completed', 'failed', 'canceled') then after.status::text
      when after.status is distinct from before.status or after.stage is distinct from before.stage then 'status'
      else 'progress'
    end,
    after.status, after.stage, after.step, after.steps
  from moved after join previous before using (id), (select private.first_free_event_id() as id) free
  where (after.status, after.stage, after.step) is distinct from (before.status, before.stage, before.step);
  return null;
end $$;

revoke all on function private.first_free_event_id(), private.log_created_jobs(), private.log_moved_jobs()
  from public;
grant execute on function private.first_free_event_id() to gateway_service;

create trigger log_created_jobs after insert on public.generation_jobs
  referencing new table as created for each statement execute function private.log_created_jobs();
create trigger log_moved_jobs after update on public.generation_jobs
  referencing old table as previous new table as moved for each statement execute function private.log_moved_jobs();
