"""What /metrics reads, each through an index: a scrape costs what has happened since the last one."""

LIVING_JOBS = """
select status::text as status, count(*)::int as jobs,
  extract(epoch from now() - min(created_at))::float as oldest_seconds
from public.generation_jobs where wake_at is not null group by status
"""

# Rows that ended long ago are `settled`: no transaction that could add to them is still open.
# A job's own time is what is left of it without its GPU calls; a parent's is that of its children too.
ENDED_JOBS = """
with ended as (
  select j.status::text as status, j.model, coalesce(j.error_code, '') as error_code,
    j.finished_at < now() - make_interval(secs => %(settled)s) as settled,
    case when j.status = 'completed'
        and exists (select from private.generation_calls c where c.job_id = j.id)
        and not exists (select from public.generation_jobs child where child.parent_id = j.id)
      then greatest(0, extract(epoch from j.finished_at - j.created_at) - j.gpu_seconds)::float
    end as seconds
  from public.generation_jobs j where j.finished_at >= %(since)s
)
select status, model, error_code, settled, now() - make_interval(secs => %(settled)s) as until,
  width_bucket(seconds, %(bounds)s::float[]) as bucket, count(*)::int as n,
  coalesce(sum(seconds), 0)::float as seconds
from ended group by status, model, error_code, settled, bucket
"""

ENDED_CALLS = """
with ended as (
  select model, task, status, gpu_seconds::float as gpu_seconds, usd_micros,
    finished_at < now() - make_interval(secs => %(settled)s) as settled,
    extract(epoch from finished_at - coalesce(dispatched_at, created_at))::float as seconds
  from private.generation_calls where finished_at >= %(since)s
)
select model, task, status, settled, now() - make_interval(secs => %(settled)s) as until,
  width_bucket(seconds, %(bounds)s::float[]) as bucket, count(*)::int as n, sum(seconds)::float as seconds,
  sum(gpu_seconds)::float as gpu_seconds, sum(usd_micros)::bigint as usd_micros
from ended group by model, task, status, settled, bucket
"""

DELIVERIES = """
select
  (select count(*) from private.outbox where delivered_at is null)::int as outbox,
  (select count(*) from public.webhook_deliveries where wake_at is not null and attempts = 0)::int
    as pending,
  (select count(*) from public.webhook_deliveries where wake_at is not null and attempts > 0)::int
    as retrying,
  (select count(*) from public.webhook_deliveries where status = 'failed')::int as failed
"""
