-- Where users want to be told. Secrets sign what is sent; nobody reads them back but the gateway.
create table public.webhook_endpoints (
  id uuid primary key default gen_random_uuid(),
  user_id uuid not null references auth.users (id) on delete cascade,
  url text not null check (char_length(url) between 1 and 2000),
  description text not null default '' check (char_length(description) <= 200),
  events text[] not null check (cardinality(events) between 1 and 20),
  enabled boolean not null default true,
  disabled_reason text check (disabled_reason in ('by_user', 'gone', 'failing')),
  secret text not null,
  previous_secret text,
  previous_until timestamptz,      -- until then both secrets sign
  failing_since timestamptz,       -- no delivery has succeeded since
  created_at timestamptz not null default now(),

  constraint disabled_endpoints_say_why check (enabled = (disabled_reason is null))
);
create index webhook_endpoints_by_user on public.webhook_endpoints (user_id, created_at desc, id desc);

alter table public.webhook_endpoints enable row level security;
revoke all on public.webhook_endpoints from anon, authenticated;
grant select (
  id, user_id, url, description, events, enabled, disabled_reason, previous_until, failing_since, created_at
) on public.webhook_endpoints to authenticated;
grant insert (user_id, url, description, events, secret) on public.webhook_endpoints to authenticated;
grant update (url, description, events, enabled, disabled_reason) on public.webhook_endpoints to authenticated;
grant delete on public.webhook_endpoints to authenticated;
grant select, update on public.webhook_endpoints to gateway_service;

create policy "users see their own endpoints" on public.webhook_endpoints
  for select to authenticated using ((select auth.uid()) = user_id);
create policy "users add their own endpoints" on public.webhook_endpoints
  for insert to authenticated with check ((select auth.uid()) = user_id);
create policy "users edit their own endpoints" on public.webhook_endpoints
  for update to authenticated using ((select auth.uid()) = user_id) with check ((select auth.uid()) = user_id);
create policy "users delete their own endpoints" on public.webhook_endpoints
  for delete to authenticated using ((select auth.uid()) = user_id);
create policy "the gateway sends to every endpoint" on public.webhook_endpoints
  for all to gateway_service using (true) with check (true);
