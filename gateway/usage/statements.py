"""Every statement about usage, budgets and the ledger, written and named as SQL."""

# Calls to go by.  One that was stopped for its cost would have taken longer: it counts double, or a model
# that is always stopped would never be understood.
SAMPLES = """
select c.task, c.gpu, c.gpu_seconds::float * case c.status when 'failed' then 2 else 1 end as gpu_seconds,
  coalesce((c.request ->> 'num_images')::int, 1) as num_images,
  greatest(1, ceil(coalesce((c.request ->> 'num_inference_steps')::int, 1)
      * case c.task when 'upscale' then coalesce((c.request ->> 'strength')::float, 1) else 1 end))::int
    * case when (c.request ->> 'true_cfg_scale')::float > 1 then 2 else 1 end as passes,
  case c.task
    when 'image' then coalesce((c.result ->> 'native_width')::int, (c.request ->> 'width')::int)
      * coalesce((c.result ->> 'native_height')::int, (c.request ->> 'height')::int)
    when 'upscale' then coalesce((c.fingerprint ->> 'tiles')::int * (c.result ->> 'native_width')::int
      * (c.result ->> 'native_height')::int, (c.request ->> 'width')::int * (c.request ->> 'height')::int)
    else 1 end as pixels,
  coalesce(jsonb_array_length(c.request -> 'references'), 0) as "references",
  coalesce((c.timing ->> 'boot_seconds')::float, 0) + coalesce((c.timing ->> 'load_seconds')::float, 0)
    as start_seconds,
  extract(epoch from now() - c.finished_at)::float as age
from private.generation_calls c
where c.model = %(model)s and c.gpu is not null and c.gpu_seconds > 0 and c.request is not null
  and (c.status = 'succeeded' or c.error ->> 'code' = 'cost_limit_reached')
  and c.finished_at is not null
order by c.finished_at desc limit %(limit)s
"""

LIVING_JOBS = """
select user_id, count(*) filter (where status = 'queued')::int as queued,
  count(*) filter (where status = 'processing' and call_id is not null and stage <> 'storing')::int as running
from public.generation_jobs where wake_at is not null
group by user_id
"""

LATE_CALLS = """
select extract(epoch from finished_at)::float as ended, gpu_seconds::float
from private.generation_calls
where finished_at > now() - interval '10 minutes' and gpu_seconds > 0
order by finished_at desc limit 100
"""

BUDGETS = "select * from private.budget_use where user_id = %(user_id)s"

SPENT_THIS_MONTH = """
select date_trunc('month', now(), 'UTC') as starts_at,
  (date_trunc('month', now() at time zone 'UTC') + interval '1 month') at time zone 'UTC' as ends_at,
  coalesce(sum(usd_micros) filter (where kind = 'settle'), 0)::bigint as spent_usd_micros,
  coalesce(sum(usd_micros) filter (where kind <> 'settle'), 0)::bigint as reserved_usd_micros,
  coalesce(sum(images) filter (where today), 0)::bigint as images_today,
  coalesce(sum(gpu_seconds) filter (where today), 0) as gpu_seconds_today
from (
  select *, counted_at >= date_trunc('day', now(), 'UTC') as today from private.ledger
  where user_id = %(user_id)s and counted_at >= date_trunc('month', now(), 'UTC')
) this_month
"""

SET_OWN_BUDGET = """
insert into public.budgets (user_id, period, limit_usd_micros, max_concurrent, max_images_per_day,
  max_gpu_seconds_per_day)
values ((select auth.uid()), %(period)s, %(limit_usd_micros)s, %(max_concurrent)s, %(max_images_per_day)s,
  %(max_gpu_seconds_per_day)s)
on conflict (user_id, set_by) do update
set period = excluded.period, limit_usd_micros = excluded.limit_usd_micros,
  max_concurrent = excluded.max_concurrent, max_images_per_day = excluded.max_images_per_day,
  max_gpu_seconds_per_day = excluded.max_gpu_seconds_per_day, updated_at = now()
"""

SET_ADMINS_BUDGET = """
insert into public.budgets (user_id, set_by, period, limit_usd_micros, max_concurrent, max_images_per_day,
  max_gpu_seconds_per_day)
values (%(user_id)s, 'admin', %(period)s, %(limit_usd_micros)s, %(max_concurrent)s, %(max_images_per_day)s,
  %(max_gpu_seconds_per_day)s)
on conflict (user_id, set_by) do update
set period = excluded.period, limit_usd_micros = excluded.limit_usd_micros,
  max_concurrent = excluded.max_concurrent, max_images_per_day = excluded.max_images_per_day,
  max_gpu_seconds_per_day = excluded.max_gpu_seconds_per_day, updated_at = now()
"""

# Nothing was made that could be named, so it is told beside the user's newest job.
RECORD_REFUSAL = """
with over as (
  update public.budgets b set exceeded_at = now()
  from private.budget_use u
  where (u.user_id, u.set_by) = (b.user_id, b.set_by) and b.user_id = %(user_id)s and b.set_by = %(set_by)s
    and (b.exceeded_at is null or b.exceeded_at < greatest(u.starts_at, b.updated_at))
    and exists (select from public.generation_jobs j where j.user_id = b.user_id)
  returning b.user_id, jsonb_build_object(
    'set_by', b.set_by, 'period', b.period, 'starts_at', u.starts_at, 'limit_usd_micros', u.limit_usd_micros,
    'spent_usd_micros', u.spent_usd_micros, 'reserved_usd_micros', u.reserved_usd_micros) as payload
)
insert into private.outbox (job_id, user_id, kind, payload)
select newest.id, over.user_id, 'budget.exceeded', over.payload
from over cross join lateral (
  select id from public.generation_jobs j where j.user_id = over.user_id
  order by created_at desc, id desc limit 1
) newest
on conflict (job_id, kind) do nothing
"""

USAGE = """
select {key} as key, count(distinct c.job_id)::int as jobs,
  coalesce(sum(jsonb_array_length(c.result -> 'images')) filter (
    where c.status = 'succeeded' and j.status = 'completed'), 0)::int as images,
  count(*)::int as calls, sum(c.gpu_seconds) as gpu_seconds, sum(c.usd_micros)::bigint as cost_usd_micros
from private.generation_calls c join public.generation_jobs j on j.id = c.job_id
where c.finished_at >= %(start)s and c.finished_at < %(end)s
  and (%(user_id)s::uuid is null or c.user_id = %(user_id)s)
group by 1
order by {order}
"""
_MOST_FIRST = "cost_usd_micros desc, key nulls last"
_KEYS = {
    "day": ("(c.finished_at at time zone 'UTC')::date::text", "key"),
    "model": ("c.model", _MOST_FIRST),
    "style": ("j.style", _MOST_FIRST),
    "user": ("c.user_id::text", _MOST_FIRST),
    "character": ("j.metadata ->> 'character_id'", _MOST_FIRST),
    "task": ("c.task", _MOST_FIRST),
}
USAGE_BY = {name: USAGE.format(key=key, order=order) for name, (key, order) in _KEYS.items()}

# Over the days that a bill is known for.
IDLE = """
select sum(b.usd_micros)::bigint as billed_usd_micros, coalesce(sum(charged.usd_micros), 0)::bigint
  as charged_usd_micros
from private.bills b
left join lateral (
  select sum(c.usd_micros) as usd_micros from private.generation_calls c
  where c.finished_at >= b.day::timestamp at time zone 'UTC'
    and c.finished_at < (b.day + 1)::timestamp at time zone 'UTC'
) charged on true
where b.day >= (%(start)s at time zone 'UTC')::date and b.day < %(end)s at time zone 'UTC'
"""

JOB_STATS = """
select coalesce(jsonb_object_agg(status, n), '{}') as by_status, coalesce(max(oldest), 0)::float as oldest,
  coalesce(sum(failed), 0)::int as failed_today
from (
  select status::text, count(*) as n,
    count(*) filter (where status = 'failed' and finished_at >= date_trunc('day', now(), 'UTC')) as failed,
    extract(epoch from now() - min(created_at) filter (where status = 'queued')) as oldest
  from public.generation_jobs group by status
) counted
"""

CALL_STATS = """
with today as (
  select status, gpu, gpu_seconds, usd_micros, finished_at - created_at as latency
  from private.generation_calls where finished_at >= date_trunc('day', now(), 'UTC')
),
ended as (select * from today where status <> 'lost')
select
  (select coalesce(jsonb_object_agg(status, n), '{}')
   from (select status, count(*) as n from today group by status) counted) as by_status,
  (select count(*) from private.generation_calls where status in ('pending', 'queued', 'running'))::int
    as running,
  (select coalesce(sum(gpu_seconds), 0) from ended)::float as gpu_seconds,
  (select coalesce(sum(usd_micros), 0) from ended)::bigint as cost_usd_micros,
  (select count(*) filter (where status = 'failed')::float / nullif(count(*), 0) from ended) as error_rate,
  (select percentile_cont(array[0.5, 0.95]) within group (order by extract(epoch from latency)::float)
   from ended where status = 'succeeded') as latency,
  (select percentile_cont(array[0.5, 0.95]) within group (order by gpu_seconds::float)
   from ended where status = 'succeeded') as seconds
"""

STORAGE_STATS = """
select count(*) filter (where deleted_at is null)::int as images, coalesce(sum(bytes), 0)::bigint as bytes
from public.generated_assets
"""

USER_STATS = """
with active as (
  select user_id, count(*)::int as jobs, sum(cost_usd_micros)::bigint as cost_usd_micros,
    max(created_at) as last_at
  from public.generation_jobs where created_at > now() - interval '30 days' group by user_id
)
select count(*)::int as active_30_days, count(*) filter (where last_at > now() - interval '1 day')::int
    as active_today,
  (select coalesce(jsonb_agg(to_jsonb(top) - 'last_at' order by top.jobs desc), '[]')
   from (select * from active order by jobs desc, user_id limit 10) top) as busiest
from active
"""

# An ended call without an event was found by asking: its webhook was lost, late or refused.
WEBHOOK_STATS = """
select
  (select count(*) from private.webhook_inbox where received_at >= date_trunc('day', now(), 'UTC'))::int
    as received,
  (select count(*) from private.generation_calls c
   where c.finished_at >= date_trunc('day', now(), 'UTC') and c.status in ('succeeded', 'failed')
     and not exists (
       select from private.webhook_inbox i where i.job_id = c.job_id
         and (i.payload ->> 'call_id') = c.call_id))::int as missed,
  (select count(*) from private.outbox where delivered_at is null)::int as outbox_waiting,
  (select coalesce(jsonb_object_agg(status, n), '{}') from (
     select status, count(*) as n from public.webhook_deliveries
     where created_at >= date_trunc('day', now(), 'UTC') group by status) counted) as deliveries
"""
