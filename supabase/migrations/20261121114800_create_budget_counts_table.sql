-- The sums that a budget is checked against, kept beside it, so that a check does not read a month of the
-- ledger. They are a copy and nothing else: written under the lock of the budget, made anew when a day or
-- a period begins, when they are older than ten minutes, and after a crash, which empties an unlogged table.
create unlogged table private.budget_counts (
  user_id uuid not null,
  set_by text not null,
  starts_at timestamptz not null,
  day_starts_at timestamptz not null,
  held_usd_micros bigint not null,
  spent_usd_micros bigint not null,
  images bigint not null,
  gpu_seconds numeric(16, 3) not null,
  counted_at timestamptz not null default now(),
  primary key (user_id, set_by)
);
revoke all on private.budget_counts from public, anon, authenticated;
grant select, insert, update on private.budget_counts to gateway_service;

create or replace view private.budget_use with (security_invoker = true) as
select
  b.user_id, b.set_by, b.period, b.limit_usd_micros, b.max_concurrent, b.max_images_per_day,
  b.max_gpu_seconds_per_day, b.warned_at, b.exceeded_at, b.updated_at,
  span.starts_at, span.ends_at,
  coalesce(k.spent_usd_micros, l.spent_usd_micros) as spent_usd_micros,
  coalesce(k.held_usd_micros - k.spent_usd_micros, l.held_usd_micros - l.spent_usd_micros)
    as reserved_usd_micros,
  coalesce(k.images, l.images) as images_today,
  coalesce(k.gpu_seconds, l.gpu_seconds) as gpu_seconds_today
from public.budgets b
cross join lateral (
  select date_trunc(b.period, now(), 'UTC') as starts_at,
    date_trunc(b.period, now() at time zone 'UTC' + ('1 ' || b.period)::interval) at time zone 'UTC' as ends_at,
    date_trunc('day', now(), 'UTC') as day_starts_at
) span
left join private.budget_counts k on (k.user_id, k.set_by) = (b.user_id, b.set_by)
  and k.starts_at = span.starts_at and k.day_starts_at = span.day_starts_at
cross join lateral (
  select coalesce(sum(usd_micros), 0)::bigint as held_usd_micros,
    coalesce(sum(usd_micros) filter (where kind = 'settle'), 0)::bigint as spent_usd_micros,
    coalesce(sum(images) filter (where counted_at >= span.day_starts_at), 0)::bigint as images,
    coalesce(sum(gpu_seconds) filter (where counted_at >= span.day_starts_at), 0) as gpu_seconds
  from private.ledger
  where k.user_id is null and user_id = b.user_id and counted_at >= span.starts_at
) l;

create function private.count_budgets(users uuid[]) returns void
language sql set search_path = '' as $$
  with stale as materialized (  -- first, so that the sums are made for these alone
    select b.user_id, b.set_by, span.starts_at, span.day_starts_at
    from public.budgets b
    cross join lateral (
      select date_trunc(b.period, now(), 'UTC') as starts_at, date_trunc('day', now(), 'UTC') as day_starts_at
    ) span
    left join private.budget_counts known on (known.user_id, known.set_by) = (b.user_id, b.set_by)
      and known.starts_at = span.starts_at and known.day_starts_at = span.day_starts_at
      and known.counted_at > now() - interval '10 minutes'
    where b.user_id = any(users) and known.user_id is null
  )
  insert into private.budget_counts as k (
    user_id, set_by, starts_at, day_starts_at, held_usd_micros, spent_usd_micros, images, gpu_seconds)
  select stale.user_id, stale.set_by, stale.starts_at, stale.day_starts_at, l.held, l.spent, l.images,
    l.gpu_seconds
  from stale
  cross join lateral (
    select coalesce(sum(usd_micros), 0) as held,
      coalesce(sum(usd_micros) filter (where kind = 'settle'), 0) as spent,
      coalesce(sum(images) filter (where counted_at >= stale.day_starts_at), 0) as images,
      coalesce(sum(gpu_seconds) filter (where counted_at >= stale.day_starts_at), 0) as gpu_seconds
    from private.ledger where user_id = stale.user_id and counted_at >= stale.starts_at
  ) l
  on conflict (user_id, set_by) do update
  set starts_at = excluded.starts_at, day_starts_at = excluded.day_starts_at,
    held_usd_micros = excluded.held_usd_micros, spent_usd_micros = excluded.spent_usd_micros,
    images = excluded.images, gpu_seconds = excluded.gpu_seconds, counted_at = now()
$$;
revoke all on function private.count_budgets(uuid[]) from public;
grant execute on function private.count_budgets(uuid[]) to gateway_service;
