-- Keys of machines. The key itself is shown once; only its hash is here.
create table public.api_keys (
  id uuid primary key default gen_random_uuid(),
  user_id uuid not null references auth.users (id) on delete cascade,
  prefix text not null,                       -- the first characters, to tell keys apart
  sha256 text not null unique check (sha256 ~ '^[0-9a-f]{64}$'),
  scopes text[] not null check (scopes <@ array['generate', 'read', 'admin']),
  created_at timestamptz not null default now(),
  revoked_at timestamptz
);
create index api_keys_by_user on public.api_keys (user_id);

alter table public.api_keys enable row level security;
revoke all on public.api_keys from anon, authenticated;
grant select (id, user_id, prefix, scopes, created_at, revoked_at) on public.api_keys to authenticated;
grant select on public.api_keys to gateway_service;

create policy "users see their own keys" on public.api_keys
  for select to authenticated using ((select auth.uid()) = user_id);
create policy "the gateway checks every key" on public.api_keys
  for select to gateway_service using (true);
