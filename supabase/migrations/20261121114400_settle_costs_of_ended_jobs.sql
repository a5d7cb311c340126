-- A job is charged the sum of its calls in the statement that ends it; one that ended with a call still
-- running, in the statement that ends the call. Until then its reserve stands.
create function private.settle_costs(ended uuid[]) returns void
language plpgsql set search_path = '' as $$
declare
  limited boolean;
begin
  perform from public.budgets
  where user_id in (select user_id from public.generation_jobs where id = any(ended))
  order by user_id, set_by for update;
  limited := found;

  with due as (
    select j.id, j.user_id, j.created_at, r.usd_micros, r.images, r.gpu_seconds
    from public.generation_jobs j join private.ledger r on r.job_id = j.id and r.kind = 'reserve'
    where j.id = any(ended) and j.status in ('completed', 'failed', 'canceled')
      and not exists (
        select from private.generation_calls c
        where c.job_id = j.id and c.status in ('pending', 'queued', 'running'))
  ),
  charge as (
    select due.id, coalesce(sum(c.usd_micros), 0) as usd_micros, coalesce(sum(c.gpu_seconds), 0) as gpu_seconds,
      (select count(*) from public.generated_assets a where a.job_id = due.id) as images
    from due left join private.generation_calls c on c.job_id = due.id and c.status <> 'lost'
    group by due.id
  ),
  written as (
    insert into private.ledger (user_id, job_id, kind, usd_micros, images, gpu_seconds, counted_at)
    select due.user_id, due.id, e.kind, e.usd_micros, e.images, e.gpu_seconds, due.created_at
    from due join charge using (id)
    cross join lateral (
      values
        ('release', -due.usd_micros, -due.images, -due.gpu_seconds),
        ('settle', charge.usd_micros, charge.images, charge.gpu_seconds)
    ) e (kind, usd_micros, images, gpu_seconds)
    on conflict (job_id, kind) do nothing
  )
  update public.generation_jobs j set cost_usd_micros = charge.usd_micros, gpu_seconds = charge.gpu_seconds
  from charge
  where j.id = charge.id
    and (j.cost_usd_micros, j.gpu_seconds) is distinct from (charge.usd_micros, charge.gpu_seconds);

  if not limited then
    return;
  end if;
  with warned as (
    update public.budgets b set warned_at = now()
    from private.budget_use u
    where (u.user_id, u.set_by) = (b.user_id, b.set_by)
      and b.user_id in (select user_id from public.generation_jobs where id = any(ended))
      and u.limit_usd_micros > 0 and u.spent_usd_micros * 5 >= u.limit_usd_micros * 4
      and (b.warned_at is null or b.warned_at < greatest(u.starts_at, b.updated_at))
    returning b.user_id, b.set_by, jsonb_build_object(
      'set_by', b.set_by, 'period', b.period, 'starts_at', u.starts_at,
      'limit_usd_micros', u.limit_usd_micros, 'spent_usd_micros', u.spent_usd_micros) as payload
  )
  insert into private.outbox (job_id, user_id, kind, payload)
  select distinct on (w.user_id) j.id, w.user_id, 'budget.warning', w.payload
  from warned w join public.generation_jobs j on j.user_id = w.user_id and j.id = any(ended)
  order by w.user_id, w.set_by, j.finished_at desc
  on conflict (job_id, kind) do nothing;
end $$;
revoke all on function private.settle_costs(uuid[]) from public;
grant execute on function private.settle_costs(uuid[]) to gateway_service;

create function private.settle_ended_jobs() returns trigger
language plpgsql set search_path = '' as $$
declare
  ended uuid[];
begin
  select array_agg(after.id) into ended
  from moved after join previous before using (id)
  where after.status in ('completed', 'failed', 'canceled') and before.status <> after.status;
  if ended is not null then
    perform private.settle_costs(ended);
  end if;
  return null;
end $$;
revoke all on function private.settle_ended_jobs() from public;

create function private.settle_jobs_of_ended_calls() returns trigger
language plpgsql set search_path = '' as $$
declare
  ended uuid[];
begin
  select array_agg(distinct after.job_id) into ended
  from moved after join previous before using (job_id, seq, attempt)
  where before.status in ('pending', 'queued', 'running')
    and after.status not in ('pending', 'queued', 'running')
    and exists (
      select from public.generation_jobs j
      where j.id = after.job_id and j.status in ('completed', 'failed', 'canceled'));
  if ended is not null then
    perform private.settle_costs(ended);
  end if;
  return null;
end $$;
revoke all on function private.settle_jobs_of_ended_calls() from public;

create trigger settle_ended_jobs after update on public.generation_jobs
  referencing old table as previous new table as moved
  for each statement execute function private.settle_ended_jobs();
create trigger settle_jobs_of_ended_calls after update on private.generation_calls
  referencing old table as previous new table as moved
  for each statement execute function private.settle_jobs_of_ended_calls();
