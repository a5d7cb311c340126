-- The same gate and the same limits, with three changes: users are served in turn, a budget may say how many of
-- a user's jobs run at once, and a job of a user with a budget learns how long its calls may take.
--
-- In turn: whoever has fewer jobs under way comes first, whatever waits longer. By age alone two users with
-- long queues would take every place there is, and keep it. Priority counts inside a user.
--
-- A call is stopped at three quarters of what its job has reserved; the rest is for the denoising step that is
-- in progress then, and for decoding.
--
-- Who waits is found by hopping from user to user in the index; a distinct list would read every queued row.
create or replace function private.claim_queued_jobs(
  worker text, lease_seconds double precision, per_user integer, in_flight integer, batch integer
) returns setof public.generation_jobs
language plpgsql volatile set search_path = '' as $$
begin
  if not pg_try_advisory_xact_lock(4201) then
    return;
  end if;
  return query
  with recursive busy as (
    select user_id, count(*) as n from public.generation_jobs
    where status = 'processing' and not waiting group by user_id
  ),
  hop as (
    (select user_id from public.generation_jobs where status = 'queued' order by user_id limit 1)
    union all
    select (select q.user_id from public.generation_jobs q
            where q.status = 'queued' and q.user_id > hop.user_id order by q.user_id limit 1)
    from hop where hop.user_id is not null
  ),
  candidate as (
    select q.id, q.priority, q.wake_at, coalesce(busy.n, 0) + q.place as turn
    from hop left join busy using (user_id)
    cross join lateral (
      select id, priority, wake_at, row_number() over (order by priority desc, wake_at) as place
      from public.generation_jobs
      where user_id = hop.user_id and status = 'queued' and wake_at <= now()
      order by priority desc, wake_at
      limit greatest(0, least(per_user, (
        select min(b.max_concurrent) from public.budgets b where b.user_id = hop.user_id
      )) - coalesce(busy.n, 0))
    ) q
    where hop.user_id is not null
  ),
  due as (
    select j.id from public.generation_jobs j join candidate c using (id)
    where j.status = 'queued' and j.wake_at <= now()
    order by c.turn, c.priority desc, c.wake_at
    limit least(batch, greatest(0, in_flight - (select coalesce(sum(n), 0) from busy)))
    for update of j skip locked
  ),
  claimed as (
    update public.generation_jobs j
    set status = 'processing', stage = 'loading', version = j.version + 1, leased_by = worker,
        started_at = coalesce(j.started_at, now()), wake_at = now() + make_interval(secs => lease_seconds),
        limit_gpu_seconds = case when j.reserved_gpu_seconds > 0 and exists (
          select from public.budgets b where b.user_id = j.user_id
            and (b.limit_usd_micros is not null or b.max_gpu_seconds_per_day is not null)
        ) then round(j.reserved_gpu_seconds * 0.75, 3) end
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
