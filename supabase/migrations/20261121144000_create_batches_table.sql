-- Jobs that were asked for together. They are made with their batch or not at all, and none joins later, so
-- how the batch stands is read from them.
create table public.batches (
  id uuid primary key default gen_random_uuid(),
  user_id uuid not null references auth.users (id) on delete restrict,
  created_at timestamptz not null default now()
);
create index batches_by_user on public.batches (user_id, created_at desc, id desc);

alter table public.batches enable row level security;
revoke all on public.batches from anon, authenticated;
grant select on public.batches to authenticated;
grant select, insert on public.batches to gateway_service;

create policy "users see their own batches" on public.batches
  for select to authenticated using ((select auth.uid()) = user_id);
create policy "the gateway makes every batch" on public.batches
  for all to gateway_service using (true) with check (true);

-- Deferred: the first job of a batch, whose row tells a repeated request from a new one, is made first.
alter table public.generation_jobs
  add column batch_id uuid references public.batches (id) on delete restrict deferrable initially deferred,
  add column batch_position integer check (batch_position >= 0),
  add constraint jobs_of_a_batch_have_a_place check ((batch_id is null) = (batch_position is null));
create unique index generation_jobs_by_batch on public.generation_jobs (batch_id, batch_position)
  where batch_id is not null;

grant select (batch_id, batch_position) on public.generation_jobs to authenticated;
