-- One row per GPU call: what was sent, what it took, what it cost.
create table private.generation_calls (
  job_id uuid not null references public.generation_jobs (id) on delete cascade,
  seq integer not null,
  attempt integer not null,
  key text not null unique generated always as
    (job_id::text || ':' || seq::text || ':' || attempt::text) stored,
  user_id uuid not null,
  task text not null,
  model text not null,
  call_id text,
  status text not null default 'pending'
    check (status in ('pending', 'queued', 'running', 'succeeded', 'failed', 'canceled', 'lost')),
  request jsonb,
  result jsonb,
  error jsonb,
  timing jsonb,
  fingerprint jsonb,
  gpu text,
  gpu_seconds numeric(12, 3) not null default 0,
  usd_micros bigint not null default 0,
  created_at timestamptz not null default now(),
  dispatched_at timestamptz,
  finished_at timestamptz,
  primary key (job_id, seq, attempt)
);
create index generation_calls_open on private.generation_calls (created_at)
  where status in ('pending', 'queued', 'running');

revoke all on private.generation_calls from public, anon, authenticated;
grant select, insert, update on private.generation_calls to gateway_service;
