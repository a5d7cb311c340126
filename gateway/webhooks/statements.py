"""Every statement about endpoints and deliveries."""

ENDPOINT_COLUMNS = """
  id, url, description, events, enabled, disabled_reason, previous_until, failing_since, created_at
"""
DELIVERY_COLUMNS = """
  id, endpoint_id, event_id, event_type, job_id, redelivery_of, status, attempts,
  case when status = 'pending' then wake_at end as next_attempt_at,
  response_status, response_body, error, duration_ms, occurred_at, created_at, delivered_at
"""

ADD_ENDPOINT = f"""
insert into public.webhook_endpoints (user_id, url, description, events, secret)
select %(user_id)s, %(url)s, %(description)s, %(events)s, %(secret)s
where (select count(*) from public.webhook_endpoints) < %(limit)s
returning {ENDPOINT_COLUMNS}
"""
ENDPOINTS = f"""
select {ENDPOINT_COLUMNS} from public.webhook_endpoints e
where %(after)s::uuid is null or (e.created_at, e.id) < (
  select created_at, id from public.webhook_endpoints where id = %(after)s)
order by e.created_at desc, e.id desc limit %(limit)s
"""
ENDPOINT = f"select {ENDPOINT_COLUMNS} from public.webhook_endpoints where id = %(id)s"
CHANGE_ENDPOINT = f"""
update public.webhook_endpoints
set url = coalesce(%(url)s, url), description = coalesce(%(description)s, description),
    events = coalesce(%(events)s, events), enabled = coalesce(%(enabled)s, enabled),
    disabled_reason = case
      when coalesce(%(enabled)s, enabled) then null else coalesce(disabled_reason, 'by_user') end
where id = %(id)s returning {ENDPOINT_COLUMNS}
"""
DELETE_ENDPOINT = "delete from public.webhook_endpoints where id = %(id)s returning id"
ROTATE_SECRET = f"""
update public.webhook_endpoints
set previous_secret = secret, previous_until = now() + make_interval(secs => %(overlap)s), secret = %(secret)s
where id = %(id)s and user_id = %(user_id)s returning {ENDPOINT_COLUMNS}
"""
DELIVERIES = f"""
select {DELIVERY_COLUMNS} from public.webhook_deliveries d
where d.endpoint_id = %(endpoint_id)s
  and (%(status)s::text is null or d.status = %(status)s)
  and (%(after)s::uuid is null or (d.created_at, d.id) < (
    select created_at, id from public.webhook_deliveries where id = %(after)s))
order by d.created_at desc, d.id desc limit %(limit)s
"""
ADD_TEST = f"""
insert into public.webhook_deliveries (endpoint_id, user_id, event_id, event_type)
select id, user_id, gen_random_uuid(), 'webhook.test' from public.webhook_endpoints
where id = %(id)s and user_id = %(user_id)s
returning {DELIVERY_COLUMNS}
"""
REDELIVER = f"""
insert into public.webhook_deliveries (
  endpoint_id, user_id, event_id, event_type, job_id, payload, redelivery_of, occurred_at)
select endpoint_id, user_id, event_id, event_type, job_id, payload, coalesce(redelivery_of, id), occurred_at
from public.webhook_deliveries where id = %(id)s and user_id = %(user_id)s
returning {DELIVERY_COLUMNS}
"""

# Jobs that other jobs or requests have made for themselves are nobody's news.
ANNOUNCE = """
with due as (
  select id, job_id, user_id, kind, payload, created_at from private.outbox
  where delivered_at is null order by id limit 200
  for update skip locked
),
made as (
  insert into public.webhook_deliveries (
    endpoint_id, user_id, event_id, event_type, job_id, payload, occurred_at)
  select e.id, due.user_id, md5('outbox ' || due.id)::uuid, due.kind, due.job_id, due.payload, due.created_at
  from due join public.webhook_endpoints e using (user_id) join public.generation_jobs j on j.id = due.job_id
  where e.enabled and (due.kind = any(e.events) or '*' = any(e.events))
    and not (due.kind like 'job.%%' and (
      j.parent_id is not null or j.task in ('enhance', 'parse', 'profile', 'judge')))
  on conflict (endpoint_id, event_id) where redelivery_of is null do nothing
)
update private.outbox o set delivered_at = now() from due where o.id = due.id
returning o.id
"""

CLAIM = """
with due as (
  select d.id from public.webhook_deliveries d join public.webhook_endpoints e on e.id = d.endpoint_id
  where d.wake_at <= now() and e.enabled
  order by d.wake_at limit %(batch)s
  for update of d skip locked
)
update public.webhook_deliveries d
set attempts = d.attempts + 1, wake_at = now() + make_interval(secs => %(lease)s)
from due, public.webhook_endpoints e
where d.id = due.id and e.id = d.endpoint_id
returning d.id, d.endpoint_id, d.user_id, d.event_id, d.event_type, d.job_id, d.payload, d.attempts,
  d.occurred_at, e.url, e.secret,
  case when e.previous_until > now() then e.previous_secret end as previous_secret
"""

# A delivery that came too late to its lease is recorded all the same: it was sent.
RECORD = """
with sent as (
  update public.webhook_deliveries
  set status = %(status)s, response_status = %(response_status)s, response_body = %(response_body)s,
      error = %(error)s, duration_ms = %(duration_ms)s,
      wake_at = case when %(status)s = 'pending' then now() + make_interval(secs => %(seconds)s) end,
      delivered_at = case when %(status)s = 'delivered' then now() end
  where id = %(id)s and status = 'pending'
  returning endpoint_id, created_at
)
update public.webhook_endpoints e
set failing_since = case when %(status)s = 'delivered' then null else coalesce(e.failing_since, now()) end,
    enabled = e.enabled and not (%(gone)s or (%(status)s = 'failed' and e.failing_since <= sent.created_at)),
    disabled_reason = case
      when not e.enabled then e.disabled_reason
      when %(gone)s then 'gone'
      when %(status)s = 'failed' and e.failing_since <= sent.created_at then 'failing' end
from sent where e.id = sent.endpoint_id
"""

PRUNE = (
    "delete from public.webhook_deliveries where created_at < now() - interval '30 days' and wake_at is null"
)
