-- The newest look at each picture that is being drawn. Unlogged: after a crash the next look is a second away.
create unlogged table private.previews (
  job_id uuid primary key references public.generation_jobs (id) on delete cascade,
  event_id bigint not null,     -- its place in the stream of events: behind the progress of its transaction
  n integer not null,
  content_type text not null,
  content bytea not null check (octet_length(content) between 1 and 12000),
  created_at timestamptz not null default now()
);
create index previews_by_age on private.previews (created_at);

alter table private.previews enable row level security;
revoke all on private.previews from public, anon, authenticated;
grant select, insert, update, delete on private.previews to gateway_service;
create policy "the gateway keeps every preview" on private.previews
  for all to gateway_service using (true) with check (true);
