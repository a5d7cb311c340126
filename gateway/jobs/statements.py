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
  j.attempt, j.progress_seq, j.created_at, j.started_at, j.finished_at, j.expires_at, j.plan, j.slot,
  j.inputs, j.state, j.image_kind, j.batch_id, j.batch_position
"""

_IMAGES = """
  (select coalesce(jsonb_agg(to_jsonb(a) order by a.n), '[]') from public.generated_assets a
   where a.job_id = j.id and a.deleted_at is null) as images
"""

READ_COLUMNS = f"""
  {JOB_COLUMNS},
  {_IMAGES.strip()},
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
  metadata, estimated_usd_micros, reserved_usd_micros, reserved_gpu_seconds, steps, plan, inputs, image_kind,
  batch_id, batch_position, cache_key, expires_at
)
select
  %(id)s, %(user_id)s, %(retry_of)s, %(task)s, %(priority)s::public.job_priority, %(prompt_input)s,
  %(prompt_enhanced)s, %(prompt_final)s, %(prompt_negative)s, %(enhance_status)s, %(style)s, %(model)s,
  %(width)s, %(height)s, %(num_images)s, %(seed)s, %(params)s, %(loras)s, %(references)s, %(visibility)s,
  %(metadata)s, %(estimated_usd_micros)s, %(reserved_usd_micros)s, %(reserved_gpu_seconds)s, %(steps)s,
  %(plan)s, %(inputs)s, %(image_kind)s, %(batch_id)s, %(batch_position)s, %(cache_key)s,
  now() + make_interval(secs => %(expires_in_seconds)s)
where %(idempotency_key)s::text is null or exists (select from reserved)
on conflict (id) do nothing
returning {JOB_COLUMNS}, '[]'::jsonb as images, (
  select count(*) + 1 from public.generation_jobs ahead
  where ahead.user_id = j.user_id and ahead.status = 'queued' and ahead.priority >= j.priority
) as queue_position
"""

FIND_CACHED = """
with found as (
  select j.id from public.generation_jobs j
  where j.user_id = %(user_id)s and j.cache_key = %(cache_key)s and j.status = 'completed'
    and j.num_images = (
      select count(*) from public.generated_assets a where a.job_id = j.id and a.deleted_at is null)
  order by j.created_at desc limit 1
),
kept as (
  insert into private.idempotency_keys (user_id, key, request_sha256, job_id)
  select %(user_id)s, %(idempotency_key)s, %(request_sha256)s, id from found
  where %(idempotency_key)s::text is not null
  on conflict (user_id, key) do nothing
  returning job_id
)
select id from found where %(idempotency_key)s::text is null or exists (select from kept)
"""
FIND_ANSWER = """
select k.request_sha256, k.job_id, k.status, k.body, k.created_at < now() - interval '1 minute' as stale,
  exists (
    select from public.generation_jobs j where j.id = k.job_id and j.created_at < k.created_at) as cached
from private.idempotency_keys k where k.user_id = %(user_id)s and k.key = %(key)s
"""

KEEP_ANSWER = """
update private.idempotency_keys set status = %(status)s, body = %(body)s
where user_id = %(user_id)s and key = %(key)s and status is null
"""

GET = f"select {READ_COLUMNS} from public.generation_jobs j where j.id = %(id)s"

# Values that are null are taken away.  No row where there would be too many.
DESCRIBE = """
update public.generation_jobs set metadata = jsonb_strip_nulls(metadata || %(changes)s)
where id = %(id)s and user_id = %(user_id)s
  and (select count(*) from jsonb_object_keys(jsonb_strip_nulls(metadata || %(changes)s))) <= %(limit)s
returning id
"""

LIST = f"""
select {READ_COLUMNS} from public.generation_jobs j
where (%(status)s::text is null or j.status::text = %(status)s)
  and (%(model)s::text is null or j.model = %(model)s)
  and (%(style)s::text is null or j.style = %(style)s)
  and (%(task)s::text is null or coalesce(j.plan, j.task) = %(task)s)
  and (%(parent_id)s::uuid is null or j.parent_id = %(parent_id)s)
  and (%(batch_id)s::uuid is null or j.batch_id = %(batch_id)s)
  and not exists (
    select from jsonb_each_text(%(metadata)s) wanted where j.metadata ->> wanted.key
      is distinct from wanted.value)
  and (%(after)s::uuid is null or (j.created_at, j.id) < (
    select created_at, id from public.generation_jobs where id = %(after)s))
order by j.created_at desc, j.id desc
limit %(limit)s
"""

OF_BATCH = f"""
select {READ_COLUMNS} from public.generation_jobs j where j.batch_id = %(batch_id)s order by j.batch_position
"""

CALLS = """
select key, seq, attempt, task, model, call_id, status, request, result, error, timing, fingerprint, gpu,
  gpu_seconds, usd_micros, created_at, dispatched_at, finished_at, (
    select min(i.received_at) from private.webhook_inbox i
    where i.job_id = c.job_id and i.payload ->> 'key' = c.key) as webhook_at
from private.generation_calls c where job_id = %(job_id)s and user_id = %(user_id)s
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

CHILDREN = f"""
select {JOB_COLUMNS}, {_IMAGES.strip()} from public.generation_jobs j
where j.parent_id = %(id)s order by j.slot
"""

# Every prompt that a picture was asked for with, once for each call, however often a step is repeated.
_PROMPT = """
  insert into public.prompt_artifacts (
    user_id, job_id, seq, character_id, panel_id, mode, input, enhanced, final, negative, enhance_status,
    model, template_id, template_version)
  select user_id, id, called.seq,
    (select id from public.characters where id = (inputs ->> 'character_id')::uuid),
    (select id from public.comic_panels where id = (inputs ->> 'panel_id')::uuid),
    coalesce(inputs ->> 'prompt_mode', inputs -> 'enhance' ->> 'mode',
      case when style is null then 'exact' else 'styled' end),
    prompt_input, prompt_enhanced, prompt_final, prompt_negative, enhance_status, model, style,
    %(style_version)s
"""

# The claim opens a call under its job's task; which one it really is is known once it is sent.
RECORD_DISPATCHED = f"""
with prompt as (
  {_PROMPT.strip()}
  from public.generation_jobs join (select %(seq)s::int as seq) called using (seq)
  where id = %(id)s and %(task)s = 'image'
  on conflict (job_id, seq) do nothing
),
sent as (
  update private.generation_calls
  set call_id = %(call_id)s, task = %(task)s, model = %(model)s, request = %(request)s,
      dispatched_at = coalesce(dispatched_at, now()),
      status = case when status = 'pending' then 'queued' else status end
  where job_id = %(id)s and seq = %(seq)s and attempt = %(attempt)s
)
update public.generation_jobs
set version = version + 1, call_id = %(call_id)s, tries = 0, leased_by = null,
    stage = case when stage = 'loading' then %(stage)s else stage end,
    wake_at = now() + make_interval(secs => %(patience)s)
where id = %(id)s and version = %(version)s
returning id
"""

RECORD_PROGRESS = """
with moved as (
  update public.generation_jobs
  set stage = %(stage)s, step = greatest(step, %(step)s), steps = coalesce(%(steps)s, steps),
      progress_seq = %(progress_seq)s,
      wake_at = greatest(wake_at, now() + make_interval(secs => %(patience)s))
  where id = %(id)s and seq = %(seq)s and attempt = %(attempt)s
    and status = 'processing' and call is null and progress_seq < %(progress_seq)s
  returning id
),
seen as (
  insert into private.previews (job_id, event_id, n, content_type, content)
  select id, pg_current_xact_id()::text::bigint * 4096 + 4095, %(n)s::int, %(content_type)s::text,
    %(content)s::bytea
  from moved where %(content)s::bytea is not null
  on conflict (job_id) do update set event_id = excluded.event_id, n = excluded.n,
    content_type = excluded.content_type, content = excluded.content, created_at = now()
)
select id from moved
"""

# The one that its event brought: a listener that lags behind waits for a later event's.
PREVIEW = """
select event_id, n, content_type, content from private.previews
where job_id = %(job_id)s and event_id / 4096 = %(event_id)s / 4096
"""

# The ended call is recorded whatever became of the job: one that was canceled meanwhile is charged, by the
# trigger of the ledger, what its call had cost by then.
RECORD_RESULT = """
with received as (
  insert into private.webhook_inbox (source, webhook_id, job_id, body_sha256, payload)
  select 'gpu', %(webhook_id)s, %(id)s, %(body_sha256)s, %(call)s where %(webhook_id)s::text is not null
  on conflict (source, webhook_id) do nothing
),
settled as (
  update private.generation_calls
  set call_id = %(call_id)s, task = %(task)s, status = %(call_status)s, result = %(result)s,
      error = %(error)s,
      timing = %(timing)s, fingerprint = %(fingerprint)s, gpu = %(gpu)s, gpu_seconds = %(gpu_seconds)s,
      usd_micros = %(usd_micros)s, finished_at = now()
  where job_id = %(id)s and seq = %(seq)s and attempt = %(attempt)s
    and status in ('pending', 'queued', 'running')
)
update public.generation_jobs j
set status = 'processing', stage = %(stage)s, version = version + 1, tries = 0, call_id = %(call_id)s,
    call = %(call)s, step = greatest(step, %(step)s), leased_by = %(worker)s,
    started_at = coalesce(started_at, now()), wake_at = now() + make_interval(secs => %(lease)s)
where id = %(id)s and seq = %(seq)s and attempt = %(attempt)s
  and status in ('queued', 'processing') and call is null and not waiting
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
),
moved as (
  update public.generation_jobs
  set status = 'queued', stage = 'queued', version = version + 1, leased_by = null, call_id = null,
      call = null, attempt = attempt + %(lost)s::int, step = 0, progress_seq = 0,
      tries = tries + %(failed)s::int,
      wake_at = now() + make_interval(secs => %(seconds)s)
  where id = %(id)s and version = %(version)s
  returning id
),
discarded as (
  insert into private.deletions (bucket, key, reason)
  select 'generated-designs', key, 'leftover' from moved, unnest(%(leftovers)s::text[]) as key
  on conflict (bucket, key) do nothing
)
select id from moved
"""

_SPENT = """
  (cost_usd_micros, gpu_seconds) = (
    select coalesce(sum(c.usd_micros), 0), coalesce(sum(c.gpu_seconds), 0)
    from private.generation_calls c where c.job_id = generation_jobs.id and c.status <> 'lost')
"""

# What a call has left behind, kept with the move that it allows.
_CHANGED = """
  state = state || %(state)s, prompt_enhanced = coalesce(%(prompt_enhanced)s, prompt_enhanced),
  prompt_final = coalesce(%(prompt_final)s, prompt_final),
  enhance_status = coalesce(%(enhance_status)s, enhance_status), seed = coalesce(%(seed)s, seed),
  "references" = coalesce(%(references)s, "references")
"""

# A child that ends while its parent is leased sets the parent's alarm; this keeps it.  The clock is read
# again when the row had to be waited for, which now() is not.
_NEXT_LOOK = """
  wake_at = case when wake_at <= clock_timestamp() then wake_at
            else now() + make_interval(secs => %(seconds)s) end
"""

NEXT = f"""
with moved as (
  update public.generation_jobs
  set version = version + 1, seq = seq + 1, attempt = 1, tries = 0, step = 0, progress_seq = 0,
      call_id = null, call = null, stage = 'loading', waiting = false, leased_by = %(worker)s,
      wake_at = now() + make_interval(secs => %(lease)s), {_SPENT.strip()}, {_CHANGED.strip()}
  where id = %(id)s and version = %(version)s
  returning *
),
opened as (
  insert into private.generation_calls (job_id, seq, attempt, user_id, task, model)
  select id, seq, attempt, user_id, task, model from moved
  on conflict do nothing
)
select *, expires_at <= now() as expired from moved
"""

FAN_OUT = f"""
with moved as (
  update public.generation_jobs
  set version = version + 1, tries = 0, call_id = null, call = null, stage = 'generating', waiting = true,
      leased_by = null, {_NEXT_LOOK.strip()}, {_SPENT.strip()}, {_CHANGED.strip()}
  where id = %(id)s and version = %(version)s
  returning *
),
never_made as (
  delete from private.generation_calls c using moved
  where c.job_id = moved.id and c.seq = moved.seq and c.attempt = moved.attempt
    and c.status = 'pending' and c.call_id is null
),
born as (
  insert into public.generation_jobs (
    id, user_id, parent_id, slot, expires_at, task, priority, prompt_input, prompt_enhanced, prompt_final,
    prompt_negative, enhance_status, style, model, width, height, num_images, seed, params, loras,
    "references", visibility, metadata, estimated_usd_micros, reserved_usd_micros, reserved_gpu_seconds,
    steps, plan, inputs, image_kind
  )
  select
    child.id, moved.user_id, moved.id, child.slot, moved.expires_at, child.task,
    child.priority::public.job_priority, child.prompt_input, child.prompt_enhanced, child.prompt_final,
    child.prompt_negative, child.enhance_status, child.style, child.model, child.width, child.height,
    child.num_images, child.seed, child.params, child.loras, child."references", child.visibility,
    child.metadata, child.estimated_usd_micros, child.reserved_usd_micros, child.reserved_gpu_seconds,
    child.steps, child.plan, child.inputs, child.image_kind
  from moved, jsonb_to_recordset(%(children)s) as child (
    id uuid, slot text, task text, priority text, prompt_input text, prompt_enhanced text, prompt_final text,
    prompt_negative text, enhance_status text, style text, model text, width int, height int, num_images int,
    seed bigint, params jsonb, loras jsonb, "references" jsonb, visibility text, metadata jsonb,
    estimated_usd_micros bigint, reserved_usd_micros bigint, reserved_gpu_seconds numeric, steps int,
    plan text, inputs jsonb, image_kind text)
  on conflict do nothing
)
select id from moved
"""

WAIT_FOR_CHILDREN = f"""
update public.generation_jobs
set version = version + 1, tries = 0, leased_by = null, {_NEXT_LOOK.strip()}
where id = %(id)s and version = %(version)s
returning id
"""

# What ends a job, whatever the end: the row, the outbox and the parent's alarm in one statement, in which
# a trigger settles with the ledger as well.
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
      output_bytes = %(output_bytes)s, waiting = false,
      step = greatest(step, steps), {_CHANGED.strip()}, {{costs}}
  where id = %(id)s and version = %(version)s
  returning *
),
prompt as (
  {_PROMPT.strip()}
  from ended, (select distinct seq from jsonb_to_recordset(%(assets)s) as a(seq int)) called
  on conflict (job_id, seq) do update set seq = excluded.seq
  returning id, seq
),
stored as (
  insert into public.generated_assets (
    id, user_id, job_id, n, kind, key, content_type, bytes, sha256, width, height, seed, visibility,
    prompt_artifact_id)
  select a.id, ended.user_id, ended.id, a.n, ended.image_kind, a.key, a.content_type, a.bytes, a.sha256,
    a.width, a.height, a.seed, ended.visibility, (select id from prompt where prompt.seq = a.seq)
  from ended, jsonb_to_recordset(%(assets)s) as a(
    id uuid, seq int, n int, key text, content_type text, bytes bigint, sha256 text, width int, height int,
    seed bigint)
  on conflict (id) do nothing
),
{_ENDED}
select * from ended
"""

FAIL = f"""
with ended as (
  update public.generation_jobs
  set status = 'failed', error_stage = stage, stage = null, version = version + 1, wake_at = null,
      leased_by = null, call = null, finished_at = now(), error_code = %(code)s, error_message = %(message)s,
      error_retryable = %(retryable)s, waiting = false, state = state || %(state)s, {{costs}}
  where id = %(id)s and version = %(version)s
  returning *
),
{_ENDED}
select * from ended
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
  returning j.*
),
{_ENDED}
select * from ended
"""

# A job whose pictures are being stored is past canceling: nothing is left to save, and no object is orphaned.
CANCEL = f"""
with ended as (
  update public.generation_jobs
  set status = 'canceled', stage = null, version = version + 1, wake_at = null,
      leased_by = null, call = null, finished_at = now(), waiting = false, {{costs}}
  where id = %(id)s and user_id = %(user_id)s and status in ('queued', 'processing')
    and stage is distinct from 'storing'
  returning *
),
{_ENDED}
select * from ended
"""

# Nothing runs on for a parent that has ended, however it ended.
CANCEL_ORPHANS = f"""
with orphans as (
  select j.id from public.generation_jobs j join public.generation_jobs parent on parent.id = j.parent_id
  where j.wake_at is not null and parent.wake_at is null and j.stage is distinct from 'storing'
  limit 500 for update of j skip locked
),
ended as (
  update public.generation_jobs
  set status = 'canceled', stage = null, version = version + 1, wake_at = null,
      leased_by = null, call = null, finished_at = now(), waiting = false, {{costs}}
  where id in (select id from orphans)
  returning *
),
{_ENDED}
select * from ended
"""

_COSTS = f"""
      processing_time_ms = round(extract(epoch from now() - coalesce(started_at, now())) * 1000),
      queue_time_ms = round(extract(epoch from coalesce(started_at, now()) - created_at) * 1000),
      {_SPENT.strip()}
"""
COMPLETE, FAIL, CANCEL, CANCEL_ORPHANS = (
    text.format(costs=_COSTS.strip()) for text in (COMPLETE, FAIL, CANCEL, CANCEL_ORPHANS)
)

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

# Pictures that an ended job had stored on the way and did not keep.
DISCARD_LEFTOVERS = """
with ended as (
  select id, state -> 'candidates' as candidates from public.generation_jobs
  where wake_at is null and state ? 'candidates'
  limit 50 for update skip locked
),
forgotten as (
  update public.generation_jobs j set state = state - 'candidates' from ended where j.id = ended.id
)
insert into private.deletions (bucket, key, reason)
select 'generated-designs', picture ->> 'key', 'leftover'
from ended, jsonb_array_elements(candidates) as picture
where not exists (select from public.generated_assets a where a.key = picture ->> 'key')
on conflict (bucket, key) do nothing
"""

# Jobs that ended in the moment in which a call of theirs did, each taking the other for still going on.
SETTLE_FORGOTTEN = """
select private.settle_costs(array_agg(r.job_id))
from private.ledger r join public.generation_jobs j on j.id = r.job_id
where r.kind = 'reserve' and r.id > (select coalesce(max(id), 0) - 100000 from private.ledger)
  and j.finished_at < now() - interval '1 minute'
  and not exists (select from private.ledger s where s.job_id = r.job_id and s.kind = 'settle')
"""

PRUNE = (
    "delete from private.webhook_inbox where received_at < now() - interval '30 days'",
    "delete from private.idempotency_keys where created_at < now() - interval '24 hours'",
    "delete from private.submissions where created_at < now() - interval '25 hours'",  # a job lives 24
    "delete from private.previews where created_at < now() - interval '10 minutes'",
    "delete from private.job_events where created_at < now() - interval '24 hours'",
)
