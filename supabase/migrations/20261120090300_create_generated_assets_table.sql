-- One row per stored picture. The id is derived from job, seq, attempt and number: storing twice writes one row.
create table public.generated_assets (
  id uuid primary key,
  user_id uuid not null references auth.users (id) on delete restrict,
  job_id uuid not null references public.generation_jobs (id) on delete restrict,
  n integer not null,
  kind text not null default 'generation',
  bucket text not null default 'generated-designs',
  key text not null unique,
  content_type text not null check (content_type in ('image/png', 'image/jpeg', 'image/webp')),
  bytes bigint not null check (bytes > 0),
  sha256 text not null check (sha256 ~ '^[0-9a-f]{64}$'),
  width integer not null,
  height integer not null,
  seed bigint not null,
  visibility text not null default 'public' check (visibility in ('public', 'private')),
  created_at timestamptz not null default now(),
  deleted_at timestamptz
);
create index generated_assets_by_user on public.generated_assets (user_id, created_at desc, id desc);
create index generated_assets_by_job on public.generated_assets (job_id, n);

alter table public.generated_assets enable row level security;
revoke all on public.generated_assets from anon, authenticated;
grant select on public.generated_assets to authenticated;
grant select, insert, update on public.generated_assets to gateway_service;

create policy "users see their own pictures" on public.generated_assets
  for select to authenticated using ((select auth.uid()) = user_id);
create policy "the gateway keeps every picture" on public.generated_assets
  for all to gateway_service using (true) with check (true);
