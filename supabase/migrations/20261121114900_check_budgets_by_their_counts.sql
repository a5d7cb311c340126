-- As before, with the sums of `budget_counts`: made under the lock, before the ledger is written, and then
-- moved along with it.
create or replace function private.reserve_costs() returns trigger
language plpgsql set search_path = '' as $$
declare
  over record;
  users uuid[];
begin
  select array_agg(distinct locked.user_id) into users from (
    select user_id from public.budgets where user_id in (select user_id from created)
    order by user_id, set_by for update
  ) locked;
  if users is not null then
    perform private.count_budgets(users);
  end if;

  insert into private.ledger (user_id, job_id, kind, usd_micros, images, gpu_seconds, counted_at)
  select user_id, id, 'reserve', greatest(reserved_usd_micros, estimated_usd_micros),
    case when task in ('image', 'upscale') then num_images else 0 end, reserved_gpu_seconds, created_at
  from created;
  if users is null then
    return null;
  end if;

  update private.budget_counts k
  set held_usd_micros = k.held_usd_micros + made.usd_micros, images = k.images + made.images,
    gpu_seconds = k.gpu_seconds + made.gpu_seconds
  from (
    select user_id, sum(greatest(reserved_usd_micros, estimated_usd_micros)) as usd_micros,
      sum(case when task in ('image', 'upscale') then num_images else 0 end) as images,
      sum(reserved_gpu_seconds) as gpu_seconds
    from created group by user_id
  ) made
  where k.user_id = made.user_id;

  select u.*, coalesce(u.spent_usd_micros + u.reserved_usd_micros > u.limit_usd_micros, false) as over_budget
  into over
  from private.budget_use u
  where u.user_id = any(users)
    and (u.spent_usd_micros + u.reserved_usd_micros > u.limit_usd_micros
      or u.images_today > u.max_images_per_day or u.gpu_seconds_today > u.max_gpu_seconds_per_day)
  order by over_budget desc, u.set_by limit 1;
  if found then
    raise exception 'over budget' using errcode = 'TK402', detail = to_json(over)::text;
  end if;
  return null;
end $$;

create or replace function private.settle_costs(ended uuid[]) returns void
language plpgsql set search_path = '' as $$
declare
  users uuid[];
begin
  select array_agg(distinct locked.user_id) into users from (
    select user_id from public.budgets
    where user_id in (select user_id from public.generation_jobs where id = any(ended))
    order by user_id, set_by for update
  ) locked;
  if users is not null then
    perform private.count_budgets(users);
  end if;

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
    returning *
  ),
  counted as (
    update private.budget_counts k
    set held_usd_micros = k.held_usd_micros + change.held, spent_usd_micros = k.spent_usd_micros + change.spent,
      images = k.images + change.images, gpu_seconds = k.gpu_seconds + change.gpu_seconds
    from (
      select b.user_id, b.set_by,
        coalesce(sum(w.usd_micros), 0) as held,
        coalesce(sum(w.usd_micros) filter (where w.kind = 'settle'), 0) as spent,
        coalesce(sum(w.images) filter (where w.counted_at >= b.day_starts_at), 0) as images,
        coalesce(sum(w.gpu_seconds) filter (where w.counted_at >= b.day_starts_at), 0) as gpu_seconds
      from private.budget_counts b join written w on w.user_id = b.user_id and w.counted_at >= b.starts_at
      group by b.user_id, b.set_by
    ) change
    where (k.user_id, k.set_by) = (change.user_id, change.set_by)
  )
  update public.generation_jobs j set cost_usd_micros = charge.usd_micros, gpu_seconds = charge.gpu_seconds
  from charge
  where j.id = charge.id
    and (j.cost_usd_micros, j.gpu_seconds) is distinct from (charge.usd_micros, charge.gpu_seconds);

  if users is null then
    return;
  end if;
  with warned as (
    update public.budgets b set warned_at = now()
    from private.budget_use u
    where (u.user_id, u.set_by) = (b.user_id, b.set_by) and b.user_id = any(users)
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
