"""Every statement about jobs, written and named as SQL.

Each move is one statement that bumps ``version`` and names the version it saw; no row back means that
somebody else owns the job.  The clock is Postgres's.
"""

JOB_COLUMNS = """
  j.id, j.user_id, j.parent_id, j.retry_of, j.task, j.status, j.stage, j.priority, j.prompt_input,
  j.prompt_enhanced, j.prompt_final, j.prompt_negative, j.enhance_status, j.style, j.model, j.width, j.height,
  j.num_images, j.seed, j.params, j.loras, j."references", j.visibility, j.metadata, j.result_url,
  j.output_bytes, j.error_code, j.error_message, j.error_stage, j.error_retryable, j.processing_time_ms,
  j.queue_time_ms, j.gpu_seconds, j.estimated_usd_micros, j.cost_usd_micros, j.step, j.steps, j.version,
  j.attempt, j.progress_seq, j.created_at, j.started_at, j.finished_at, j.expires_at
"""

READ_COLUMNS = f"""
  {JOB_COLUMNS},
  (select coalesce(jsonb_agg(to_jsonb(a) order by a.n), '[]') from public.generated_assets a
   where a.job_id = j.id and a.deleted_at is null) as images,
  case when j.status = 'queued' then (
    select count(*) from public.generation_jobs ahead
    where ahead.user_id = j.user_id and ahead.status = 'queued'
      and (ahead.priority, j.created_at) >= (j.priority, ahead.created_at)
  ) end as queue_position
"""

RESERVE = """
select private.reserve_job(%(wanted)s, %(credential)s, %(sha256)s, %(retry)s, %(window_seconds)s) as id
"""

CREATE = f"""
with reserved as (
  insert into private.idempotency_keys (user_id, key, request_sha256, job_id)
  select %(user_id)s, %(idempotency_key)s, %(request_sha256)s, %(id)s
  where %(idempotency_key)s::text is not null
  on conflict (user_id, key) do nothing
  returning job_id
),
remembered as (
  insert into private.submissions (job_id, credential, request_sha256)
  select %(id)s, %(credential)s, %(request_sha256)s
  where %(idempotency_key)s::text is null and %(credential)s::text is not null
  on conflict (job_id) do nothing
)
insert into public.generation_jobs as j (
  id, user_id, retry_of, task, priority, prompt_input, prompt_enhanced, prompt_final, prompt_negative,
  enhance_status, style, model, width, height, num_images, seed, params, loras, "references", visibility,
  metadata, estimated_usd_micros, steps, expires_at
)
select
  %(id)s, %(user_id)s, %(retry_of)s, %(task)s, %(priority)s::public.job_priority, %(prompt_input)s,
  %(prompt_enhanced)s, %(prompt_final)s, %(prompt_negative)s, %(enhance_status)s, %(style)s, %(model)s,
  %(width)s, %(height)s, %(num_images)s, %(seed)s, %(params)s, %(loras)s, %(references)s, %(visibility)s,
  %(metadata)s, %(estimated_usd_micros)s, %(steps)s, now() + make_interval(secs => %(expires_in_seconds)s)
where %(idempotency_key)s::text is null or exists (select from reserved)
on conflict (id) do nothing
returning {JOB_COLUMNS}, '[]'::jsonb as images, null::bigint as queue_position
"""

FIND_ANSWER = """
select request_sha256, job_id, status, body, created_at < now() - interval '1 minute' as stale
from private.idempotency_keys where user_id = %(user_id)s and key = %(key)s
"""

KEEP_ANSWER = """
update private.idempotency_keys set status = %(status)s, body = %(body)s
where user_id = %(user_id)s and key = %(key)s and status is null
"""

GET = f"select {READ_COLUMNS} from public.generation_jobs j where j.id = %(id)s"

LIST = f"""
select {READ_COLUMNS} from public.generation_jobs j
where (%(status)s::text is null or j.status::text = %(status)s)
  and (%(model)s::text is null or j.model = %(model)s)
  and (%(style)s::text is null or j.style = %(style)s)
  and (%(parent_id)s::uuid is null or j.parent_id = %(parent_id)s)
  and not exists (
    select from jsonb_each_text(%(metadata)s) wanted where j.metadata ->> wanted.key
      is distinct from wanted.value)
  and (%(after)s::uuid is null or (j.created_at, j.id) < (
    select created_at, id from public.generation_jobs where id = %(after)s))
order by j.created_at desc, j.id desc
limit %(limit)s
"""

CALLS = """
select key, seq, attempt, task, model, call_id, status, request, result, error, timing, fingerprint, gpu,
  gpu_seconds, usd_micros, created_at, dispatched_at, finished_at
from private.generation_calls where job_id = %(job_id)s and user_id = %(user_id)s
order by seq, attempt
"""

CLAIM_QUEUED = """
select *, expires_at <= now() as expired
from private.claim_queued_jobs(%(worker)s, %(lease)s, %(per_user)s, %(in_flight)s, %(batch)s)
"""

CLAIM_DUE = """
with due as (
  select id from public.generation_jobs
  where status = 'processing' and wake_at <= now()
  order by priority desc, wake_at limit %(batch)s
  for update skip locked
)
update public.generation_jobs j
set version = j.version + 1, leased_by = %(worker)s, wake_at = now() + make_interval(secs => %(lease)s)
from due where j.id = due.id
returning j.*, j.expires_at <= now() as expired
"""

PICTURES = """
select id, bucket, key, sha256 from public.generated_assets
where id = any(%(ids)s) and user_id = (select auth.uid()) and deleted_at is null
"""

RECORD_DISPATCHED = """
with sent as (
  update private.generation_calls
  set call_id = %(call_id)s, request = %(request)s, dispatched_at = coalesce(dispatched_at, now()),
      status = case when status = 'pending' then 'queued' else status end
  where job_id = %(id)s and seq = %(seq)s and attempt = %(attempt)s
)
update public.generation_jobs
set version = version + 1, call_id = %(call_id)s, tries = 0, leased_by = null,
    wake_at = now() + make_interval(secs => %(patience)s)
where id = %(id)s and version = %(version)s
returning id
"""

RECORD_PROGRESS = """
update public.generation_jobs
set stage = %(stage)s, step = greatest(step, %(step)s), steps = %(steps)s, progress_seq = %(progress_seq)s,
    wake_at = greatest(wake_at, now() + make_interval(secs => %(patience)s))
where id = %(id)s and seq = %(seq)s and attempt = %(attempt)s
  and status = 'processing' and stage <> 'storing' and progress_seq < %(progress_seq)s
returning id
"""

# The ended call is recorded whatever became of the job: one that was canceled meanwhile is charged
# what its call had cost by then, once.
RECORD_RESULT = """
with received as (
  insert into private.webhook_inbox (source, webhook_id, job_id, body_sha256, payload)
  select 'gpu', %(webhook_id)s, %(id)s, %(body_sha256)s, %(call)s where %(webhook_id)s::text is not null
  on conflict (source, webhook_id) do nothing
),
settled as (
  update private.generation_calls
  set call_id = %(call_id)s, status = %(call_status)s, result = %(result)s, error = %(error)s,
      timing = %(timing)s, fingerprint = %(fingerprint)s, gpu = %(gpu)s, gpu_seconds = %(gpu_seconds)s,
      usd_micros = %(usd_micros)s, finished_at = now()
  where job_id = %(id)s and seq = %(seq)s and attempt = %(attempt)s
    and status in ('pending', 'queued', 'running')
  returning job_id
),
charged as (
  update public.generation_jobs j
  set cost_usd_micros = cost_usd_micros + %(usd_micros)s, gpu_seconds = gpu_seconds + %(gpu_seconds)s
  from settled where j.id = settled.job_id and j.status in ('completed', 'failed', 'canceled')
)
update public.generation_jobs j
set status = 'processing', stage = 'storing', version = version + 1, tries = 0, call_id = %(call_id)s,
    call = %(call)s, step = greatest(step, %(step)s), leased_by = %(worker)s,
    started_at = coalesce(started_at, now()), wake_at = now() + make_interval(secs => %(lease)s)
where id = %(id)s and seq = %(seq)s and attempt = %(attempt)s
  and status in ('queued', 'processing') and stage <> 'storing'
returning j.*, false as expired
"""

POSTPONE = """
update public.generation_jobs
set version = version + 1, tries = tries + 1, leased_by = null, stage = coalesce(%(stage)s, stage),
    step = greatest(step, %(step)s), wake_at = now() + make_interval(secs => %(seconds)s)
where id = %(id)s and version = %(version)s
returning id
"""

REQUEUE = """
with lost as (
  update private.generation_calls set status = 'lost', finished_at = now(), usd_micros = 0
  where job_id = %(id)s and seq = %(seq)s and attempt = %(attempt)s and %(lost)s
    and exists (select from public.generation_jobs where id = %(id)s and version = %(version)s)
)
update public.generation_jobs
set status = 'queued', stage = 'queued', version = version + 1, leased_by = null, call_id = null, call = null,
    attempt = attempt + %(lost)s::int, step = 0, progress_seq = 0, tries = tries + %(failed)s::int,
    wake_at = now() + make_interval(secs => %(seconds)s)
where id = %(id)s and version = %(version)s
returning id
"""

# What ends a job, whatever the end: the row, the outbox and the parent's alarm in one statement.
_ENDED = """
announced as (
  insert into private.outbox (job_id, user_id, kind)
  select id, user_id, 'job.' || status::text from ended on conflict (job_id, kind) do nothing
),
woken as (
  update public.generation_jobs parent set wake_at = now()
  from ended where parent.id = ended.parent_id and parent.wake_at is not null
)
"""

COMPLETE = f"""
with ended as (
  update public.generation_jobs
  set status = 'completed', stage = null, version = version + 1, wake_at = null,
      leased_by = null, call = null, finished_at = now(), result_url = %(result_url)s,
      output_bytes = %(output_bytes)s,
      step = greatest(step, steps), {{costs}}
  where id = %(id)s and version = %(version)s
  returning id, user_id, parent_id, status
),
stored as (
  insert into public.generated_assets (
    id, user_id, job_id, n, key, content_type, bytes, sha256, width, height, seed, visibility)
  select a.id, ended.user_id, ended.id, a.n, a.key, a.content_type, a.bytes, a.sha256, a.width, a.height,
    a.seed, %(visibility)s
  from ended, jsonb_to_recordset(%(assets)s) as a(
    id uuid, n int, key text, content_type text, bytes bigint, sha256 text, width int, height int,
    seed bigint)
  on conflict (id) do nothing
),
{_ENDED}
select id from ended
"""

FAIL = f"""
with ended as (
  update public.generation_jobs
  set status = 'failed', error_stage = stage, stage = null, version = version + 1, wake_at = null,
      leased_by = null, call = null, finished_at = now(), error_code = %(code)s, error_message = %(message)s,
      error_retryable = %(retryable)s, {{costs}}
  where id = %(id)s and version = %(version)s
  returning id, user_id, parent_id, status
),
{_ENDED}
select id from ended
"""

EXPIRE_QUEUED = f"""
with late as (
  select id from public.generation_jobs where status = 'queued' and expires_at <= now()
  limit 500 for update skip locked
),
ended as (
  update public.generation_jobs j
  set status = 'failed', error_stage = stage, stage = null, version = version + 1, wake_at = null,
      finished_at = now(), error_code = %(code)s, error_message = %(message)s, error_retryable = %(retryable)s
  from late where j.id = late.id
  returning j.id, j.user_id, j.parent_id, j.status
),
{_ENDED}
select id from ended
"""

# A job whose pictures are being stored is past canceling: nothing is left to save, and no object is orphaned.
CANCEL = f"""
with ended as (
  update public.generation_jobs
  set status = 'canceled', stage = null, version = version + 1, wake_at = null,
      leased_by = null, call = null, finished_at = now(), {{costs}}
  where id = %(id)s and user_id = %(user_id)s and status in ('queued', 'processing')
    and stage <> 'storing'
  returning id, user_id, parent_id, status, call_id
),
{_ENDED}
select call_id from ended
"""

_COSTS = """
      processing_time_ms = round(extract(epoch from now() - coalesce(started_at, now())) * 1000),
      queue_time_ms = round(extract(epoch from coalesce(started_at, now()) - created_at) * 1000),
      (cost_usd_micros, gpu_seconds) = (
        select coalesce(sum(c.usd_micros), 0), coalesce(sum(c.gpu_seconds), 0)
        from private.generation_calls c where c.job_id = generation_jobs.id and c.status <> 'lost')
"""
COMPLETE, FAIL, CANCEL = (text.format(costs=_COSTS.strip()) for text in (COMPLETE, FAIL, CANCEL))

# Calls that outlived their job: canceled while the dispatch was under way, or by a gateway that died.
STRAY_CALLS = """
select c.job_id, c.seq, c.attempt, c.call_id, c.created_at < now() - interval '2 minutes' as old
from private.generation_calls c join public.generation_jobs j on j.id = c.job_id
where c.status in ('pending', 'queued', 'running')
  and (j.status in ('completed', 'failed', 'canceled') or (j.seq, j.attempt) <> (c.seq, c.attempt))
limit 50
"""

CLOSE_CALL = """
update private.generation_calls set status = 'lost', finished_at = now()
where job_id = %(job_id)s and seq = %(seq)s and attempt = %(attempt)s
  and status in ('pending', 'queued', 'running')
"""

PRUNE = (
    "delete from private.webhook_inbox where received_at < now() - interval '30 days'",
    "delete from private.idempotency_keys where created_at < now() - interval '24 hours'",
    "delete from private.submissions where created_at < now() - interval '1 hour'",
    "delete from private.job_events where created_at < now() - interval '24 hours'",
)
