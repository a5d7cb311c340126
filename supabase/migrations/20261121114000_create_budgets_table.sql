-- What a user may spend. A user has two rows at most, one written by themself and one by an administrator;
-- both hold, so an administrator's limit is a ceiling whatever the user writes. Null is no limit.
create table public.budgets (
  user_id uuid not null references auth.users (id) on delete cascade,
  set_by text not null default 'user' check (set_by in ('user', 'admin')),
  period text not null default 'month' check (period in ('day', 'month')),
  limit_usd_micros bigint check (limit_usd_micros >= 0),
  max_concurrent integer check (max_concurrent >= 1),
  max_images_per_day integer check (max_images_per_day >= 0),
  max_gpu_seconds_per_day integer check (max_gpu_seconds_per_day >= 0),
  warned_at timestamptz,    -- when 80 % were spent: told once in a period, and anew after a change
  exceeded_at timestamptz,  -- when a job was first refused: likewise
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),  -- by whoever set it, not when it was warned of
  primary key (user_id, set_by)
);

alter table public.budgets enable row level security;
revoke all on public.budgets from anon, authenticated;
grant select on public.budgets to authenticated;
grant
  insert (user_id, period, limit_usd_micros, max_concurrent, max_images_per_day, max_gpu_seconds_per_day),
  update (period, limit_usd_micros, max_concurrent, max_images_per_day, max_gpu_seconds_per_day, updated_at)
  on public.budgets to authenticated;
grant select, insert, update on public.budgets to gateway_service;

create policy "users read their own budgets" on public.budgets
  for select to authenticated using ((select auth.uid()) = user_id);
create policy "users set their own budget" on public.budgets
  for insert to authenticated with check ((select auth.uid()) = user_id and set_by = 'user');
create policy "users change their own budget" on public.budgets
  for update to authenticated using ((select auth.uid()) = user_id and set_by = 'user')
  with check ((select auth.uid()) = user_id and set_by = 'user');
create policy "the gateway keeps every budget" on public.budgets
  for all to gateway_service using (true) with check (true);
