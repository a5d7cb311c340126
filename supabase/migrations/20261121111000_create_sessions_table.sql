-- Browsers that are signed in. The cookie itself is nowhere: only its hash is here, and the Supabase tokens
-- are sealed with a key that is made from the cookie and from the gateway's own key.
create table private.sessions (
  id uuid primary key default gen_random_uuid(),
  user_id uuid not null references auth.users (id) on delete cascade,
  cookie_sha256 text not null unique check (cookie_sha256 ~ '^[0-9a-f]{64}$'),
  sealed_tokens text,                        -- null for the local user, who has none
  created_at timestamptz not null default now(),
  expires_at timestamptz not null
);
create index sessions_by_user on private.sessions (user_id);
create index sessions_by_end on private.sessions (expires_at);

alter table private.sessions enable row level security;
revoke all on private.sessions from public, anon, authenticated;
grant select, insert, update, delete on private.sessions to gateway_service;

create policy "the gateway keeps every session" on private.sessions
  for all to gateway_service using (true) with check (true);
