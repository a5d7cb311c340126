-- What was sent to whom, and how it went. The body is made when it is sent: it carries addresses that expire.
create table public.webhook_deliveries (
  id uuid primary key default gen_random_uuid(),
  endpoint_id uuid not null references public.webhook_endpoints (id) on delete cascade,
  user_id uuid not null references auth.users (id) on delete cascade,
  event_id uuid not null,          -- the same for every endpoint and every try
  event_type text not null,
  job_id uuid,
  payload jsonb not null default '{}',
  redelivery_of uuid references public.webhook_deliveries (id) on delete set null,
  status text not null default 'pending' check (status in ('pending', 'delivered', 'failed')),
  attempts integer not null default 0,
  wake_at timestamptz default now(),
  response_status integer,
  response_body text,
  error text,
  duration_ms integer,
  occurred_at timestamptz not null default now(),
  created_at timestamptz not null default now(),
  delivered_at timestamptz,

  constraint ended_deliveries_never_wake check ((wake_at is null) = (status <> 'pending'))
);
create unique index webhook_deliveries_once on public.webhook_deliveries (endpoint_id, event_id)
  where redelivery_of is null;
create index webhook_deliveries_by_endpoint
  on public.webhook_deliveries (endpoint_id, created_at desc, id desc);
create index webhook_deliveries_by_user on public.webhook_deliveries (user_id);
create index webhook_deliveries_by_redelivery on public.webhook_deliveries (redelivery_of)
  where redelivery_of is not null;
create index webhook_deliveries_due on public.webhook_deliveries (wake_at) where wake_at is not null;
create index webhook_deliveries_by_age on public.webhook_deliveries (created_at);

alter table public.webhook_deliveries enable row level security;
revoke all on public.webhook_deliveries from anon, authenticated;
grant select on public.webhook_deliveries to authenticated;
grant select, insert, update, delete on public.webhook_deliveries to gateway_service;

create policy "users see their own deliveries" on public.webhook_deliveries
  for select to authenticated using ((select auth.uid()) = user_id);
create policy "the gateway keeps every delivery" on public.webhook_deliveries
  for all to gateway_service using (true) with check (true);
