-- The same claim, with one change: a parent that waits for its children takes no place in flight.
-- Otherwise as many parents as there are places would keep their own children out for ever.
create or replace function private.claim_queued_jobs(
  worker text, lease_seconds double precision, per_user integer, in_flight integer, batch integer
) returns setof public.generation_jobs
language plpgsql volatile set search_path = '' as $$
begin
  if not pg_try_advisory_xact_lock(4201) then
    return;
  end if;
  return query
  with busy as (
    select user_id, count(*) as n from public.generation_jobs
    where status = 'processing' and not generation_jobs.waiting group by user_id
  ),
  waiting as (
    select distinct user_id from public.generation_jobs where status = 'queued' and wake_at <= now()
  ),
  candidate as (
    select q.id, q.priority, q.wake_at
    from waiting left join busy using (user_id)
    cross join lateral (
      select id, priority, wake_at from public.generation_jobs
      where user_id = waiting.user_id and status = 'queued' and wake_at <= now()
      order by priority desc, wake_at
      limit greatest(0, per_user - coalesce(busy.n, 0))
    ) q
  ),
  due as (
    select j.id from public.generation_jobs j join candidate c using (id)
    where j.status = 'queued' and j.wake_at <= now()
    order by c.priority desc, c.wake_at
    limit least(batch, greatest(0, in_flight - (select coalesce(sum(n), 0) from busy)))
    for update of j skip locked
  ),
  claimed as (
    update public.generation_jobs j
    set status = 'processing', stage = 'loading', version = j.version + 1, leased_by = worker,
        started_at = coalesce(j.started_at, now()), wake_at = now() + make_interval(secs => lease_seconds)
    from due where j.id = due.id
    returning j.*
  ),
  opened as (
    insert into private.generation_calls (job_id, seq, attempt, user_id, task, model)
    select id, seq, attempt, user_id, task, model from claimed
    on conflict do nothing
  )
  select * from claimed;
end $$;
