-- Every budget beside what counts against it now. Days and months are UTC's.
create view private.budget_use with (security_invoker = true) as
select
  b.user_id, b.set_by, b.period, b.limit_usd_micros, b.max_concurrent, b.max_images_per_day,
  b.max_gpu_seconds_per_day, b.warned_at, b.exceeded_at, b.updated_at,
  span.starts_at, span.ends_at,
  money.spent_usd_micros, money.held_usd_micros - money.spent_usd_micros as reserved_usd_micros,
  today.images as images_today, today.gpu_seconds as gpu_seconds_today
from public.budgets b
cross join lateral (
  select date_trunc(b.period, now(), 'UTC') as starts_at,
    date_trunc(b.period, now() at time zone 'UTC' + ('1 ' || b.period)::interval) at time zone 'UTC' as ends_at
) span
cross join lateral (
  select coalesce(sum(l.usd_micros), 0)::bigint as held_usd_micros,
    coalesce(sum(l.usd_micros) filter (where l.kind = 'settle'), 0)::bigint as spent_usd_micros
  from private.ledger l where l.user_id = b.user_id and l.counted_at >= span.starts_at
) money
cross join lateral (
  select coalesce(sum(l.images), 0)::bigint as images, coalesce(sum(l.gpu_seconds), 0) as gpu_seconds
  from private.ledger l where l.user_id = b.user_id and l.counted_at >= date_trunc('day', now(), 'UTC')
) today;

revoke all on private.budget_use from public, anon, authenticated;
grant select on private.budget_use to gateway_service;
