-- A panel's and a character's status is a mapping of their job's. Triggers keep it, so that no move of a job
-- can forget to, and members of a project read it who may not read another member's job.
create function private.entity_status(job public.job_status, running text) returns text
language sql immutable set search_path = '' as $$
  select case job when 'queued' then 'pending' when 'processing' then running
    when 'completed' then 'ready' else 'failed' end
$$;
revoke all on function private.entity_status(public.job_status, text) from public;
grant execute on function private.entity_status(public.job_status, text) to gateway_service;

-- A job moved: its panel and its character follow.
create function private.move_entities_of_job() returns trigger
language plpgsql set search_path = '' as $$
declare
  ended_badly boolean := new.status in ('failed', 'canceled');
  code text := case when ended_badly then coalesce(new.error_code, new.status::text) end;
  message text := case when ended_badly then coalesce(new.error_message, 'The job was ' || new.status || '.') end;
begin
  update public.comic_panels
  set status = private.entity_status(new.status, 'generating'), error_code = code, error_message = message
  where job_id = new.id;
  update public.characters
  set status = private.entity_status(new.status, 'processing'), error_code = code, error_message = message
  where job_id = new.id;
  return null;
end $$;
revoke all on function private.move_entities_of_job() from public;

create trigger move_entities_of_job after update of status on public.generation_jobs
  for each row when (old.status is distinct from new.status)
  execute function private.move_entities_of_job();

-- A panel or a character got a job: it stands where the job stands.
create function private.take_status_of_job() returns trigger
language plpgsql set search_path = '' as $$
declare
  job record;
begin
  select status, error_code, error_message into job from public.generation_jobs where id = new.job_id;
  if not found then
    return new;   -- the foreign key says so better
  end if;
  new.status = private.entity_status(job.status, tg_argv[0]);
  new.error_code = case when job.status in ('failed', 'canceled')
    then coalesce(job.error_code, job.status::text) end;
  new.error_message = case when job.status in ('failed', 'canceled')
    then coalesce(job.error_message, 'The job was ' || job.status || '.') end;
  return new;
end $$;
revoke all on function private.take_status_of_job() from public;

create trigger take_status_of_job before insert or update of job_id on public.comic_panels
  for each row when (new.job_id is not null) execute function private.take_status_of_job('generating');
create trigger take_status_of_job before insert or update of job_id on public.characters
  for each row when (new.job_id is not null) execute function private.take_status_of_job('processing');
