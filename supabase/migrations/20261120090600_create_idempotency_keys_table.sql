-- The first answer to each Idempotency-Key, replayed for 24 hours.
create table private.idempotency_keys (
  user_id uuid not null,
  key text not null check (length(key) between 1 and 255),
  request_sha256 text not null,
  job_id uuid not null,
  status integer,       -- null while the first request is still being answered
  body jsonb,
  created_at timestamptz not null default now(),
  primary key (user_id, key)
);
create index idempotency_keys_by_age on private.idempotency_keys (created_at);

revoke all on private.idempotency_keys from public, anon, authenticated;
grant select, insert, update, delete on private.idempotency_keys to gateway_service;
