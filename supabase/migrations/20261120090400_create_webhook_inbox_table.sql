-- Every final event of the GPU service, once. A record, not the dedupe: the fenced transition is.
create table private.webhook_inbox (
  source text not null,
  webhook_id text not null,
  job_id uuid not null,
  body_sha256 text not null,
  payload jsonb not null,
  received_at timestamptz not null default now(),
  primary key (source, webhook_id)
);
create index webhook_inbox_by_age on private.webhook_inbox (received_at);

revoke all on private.webhook_inbox from public, anon, authenticated;
grant select, insert, delete on private.webhook_inbox to gateway_service;
