-- The row is the state machine and the only truth about a job.
create type public.job_status as enum ('queued', 'processing', 'completed', 'failed', 'canceled');
create type public.job_priority as enum ('low', 'normal', 'high');

create table public.generation_jobs (
  id uuid primary key default gen_random_uuid(),
  user_id uuid not null references auth.users (id) on delete restrict,
  parent_id uuid references public.generation_jobs (id),
  retry_of uuid references public.generation_jobs (id),
  task text not null default 'image'
    check (task in ('image', 'upscale', 'enhance', 'parse', 'profile', 'judge')),
  status public.job_status not null default 'queued',
  stage text default 'queued'
    check (stage in ('queued', 'enhancing', 'loading', 'generating', 'storing', 'judging')),
  priority public.job_priority not null default 'normal',

  -- what was asked
  prompt_input text not null,
  prompt_enhanced text,
  prompt_final text not null,
  prompt_negative text,
  prompt text generated always as (prompt_input) stored,
  enhance_status text not null default 'off' check (enhance_status in ('off', 'done', 'fallback')),
  style text,
  model text not null,
  width integer not null check (width > 0),
  height integer not null check (height > 0),
  num_images integer not null default 1 check (num_images between 1 and 10),
  seed bigint not null check (seed >= 0),
  params jsonb not null default '{}',
  loras jsonb not null default '[]',
  "references" jsonb not null default '[]',
  visibility text not null default 'public' check (visibility in ('public', 'private')),
  metadata jsonb not null default '{}',

  -- what came of it; result_url is the stable path on the gateway, signatures are never stored
  result_url text,
  output_bytes bigint,
  error_code text,
  error_message text,
  error_stage text,
  error_retryable boolean,
  processing_time_ms integer,
  queue_time_ms integer,
  gpu_seconds numeric(12, 3) not null default 0,
  estimated_usd_micros bigint not null default 0,
  cost_usd_micros bigint not null default 0,
  step integer not null default 0,
  steps integer not null default 0,

  -- the machine
  version integer not null default 1,       -- fence: every move names the version it saw
  seq integer not null default 1,           -- which GPU call of the job
  attempt integer not null default 1,       -- which try of that call
  tries integer not null default 0,         -- failures in a row of the current step, for its backoff
  progress_seq integer not null default 0,  -- newest progress event seen
  call_id text,
  call jsonb,                               -- the ended call that is being stored
  leased_by text,
  wake_at timestamptz default now(),        -- lease end, retry, webhook deadline, next poll
  created_at timestamptz not null default now(),
  started_at timestamptz,
  finished_at timestamptz,
  expires_at timestamptz not null default now() + interval '1 hour',

  constraint terminal_jobs_never_wake
    check ((wake_at is null) = (status in ('completed', 'failed', 'canceled'))),
  constraint failed_jobs_say_why check (status <> 'failed' or error_code is not null)
);

create index generation_jobs_due on public.generation_jobs (priority desc, wake_at) where wake_at is not null;
create index generation_jobs_queued on public.generation_jobs (user_id, priority desc, wake_at)
  where status = 'queued';
create index generation_jobs_processing on public.generation_jobs (user_id) where status = 'processing';
create index generation_jobs_by_user on public.generation_jobs (user_id, created_at desc, id desc);
create index generation_jobs_by_parent on public.generation_jobs (parent_id) where parent_id is not null;
create index generation_jobs_by_retry_of on public.generation_jobs (retry_of) where retry_of is not null;

create function private.refuse_forbidden_transition() returns trigger
language plpgsql set search_path = '' as $$
begin
  if not ((old.status = 'queued' and new.status in ('processing', 'failed', 'canceled'))
       or (old.status = 'processing' and new.status in ('queued', 'completed', 'failed', 'canceled'))) then
    raise exception 'a job cannot go from % to %', old.status, new.status using errcode = 'check_violation';
  end if;
  return new;
end $$;
revoke all on function private.refuse_forbidden_transition() from public;

create trigger refuse_forbidden_transition before update of status on public.generation_jobs
  for each row when (old.status is distinct from new.status)
  execute function private.refuse_forbidden_transition();

alter table public.generation_jobs enable row level security;
revoke all on public.generation_jobs from anon, authenticated;
grant select (
  id, user_id, parent_id, retry_of, task, status, stage, priority, prompt_input, prompt_enhanced, prompt_final,
  prompt_negative, prompt, enhance_status, style, model, width, height, num_images, seed, params, loras,
  "references", visibility, metadata, result_url, output_bytes, error_code, error_message, error_stage,
  error_retryable, processing_time_ms, queue_time_ms, gpu_seconds, estimated_usd_micros, cost_usd_micros,
  step, steps, version, attempt, progress_seq, created_at, started_at, finished_at, expires_at
) on public.generation_jobs to authenticated;
grant select, insert, update on public.generation_jobs to gateway_service;

create policy "users read their own jobs" on public.generation_jobs
  for select to authenticated using ((select auth.uid()) = user_id);
create policy "the gateway moves every job" on public.generation_jobs
  for all to gateway_service using (true) with check (true);
