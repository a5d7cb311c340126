-- Objects that have to go: written in the statement that made them useless, carried out by the worker.
-- Storage's rows cannot be deleted by SQL, and a bucket takes part in no transaction.
create table private.deletions (
  bucket text not null,
  key text not null,
  reason text not null,
  attempts integer not null default 0,
  last_error text,
  wake_at timestamptz not null default now(),  -- when to try: the end of a grace, a lease and a pause in one
  created_at timestamptz not null default now(),
  primary key (bucket, key)
);
create index deletions_due on private.deletions (wake_at);

alter table private.deletions enable row level security;
revoke all on private.deletions from public, anon, authenticated;
grant select, insert, update, delete on private.deletions to gateway_service;

create policy "the gateway carries deletions out" on private.deletions
  for all to gateway_service using (true) with check (true);
