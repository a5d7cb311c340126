-- What the outside must be told, written in the statement that ended the job.
create table private.outbox (
  id bigint generated always as identity primary key,
  job_id uuid not null references public.generation_jobs (id) on delete cascade,
  user_id uuid not null,
  kind text not null,
  payload jsonb not null default '{}',
  created_at timestamptz not null default now(),
  delivered_at timestamptz,
  unique (job_id, kind)
);
create index outbox_undelivered on private.outbox (id) where delivered_at is null;

revoke all on private.outbox from public, anon, authenticated;
grant select, insert, update, delete on private.outbox to gateway_service;
grant usage on all sequences in schema private to gateway_service;
