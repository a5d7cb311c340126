-- Registered LoRA files. What the header says of a file is written by the gateway, never by its owner.
-- A row is not deleted but marked: its object has to go first, and finished pictures name it.
create table public.loras (
  id uuid primary key default gen_random_uuid(),
  user_id uuid not null references auth.users (id) on delete restrict,
  name text not null check (char_length(name) between 1 and 100),
  source text not null check (source in ('upload', 'url', 'huggingface', 'civitai')),
  source_ref text not null check (char_length(source_ref) between 1 and 2000),
  trigger_words text[] not null default '{}',
  license text,

  -- what the file is
  status text not null default 'pending' check (status in ('pending', 'ready', 'failed')),
  family text,              -- as the catalogue names it
  base_model text,          -- as its author wrote it: Flux.1 D
  base_model_group text,    -- which models it fits: Flux1
  rank integer check (rank > 0),
  alpha double precision,
  key_format text,          -- diffusers, kohya, comfyui ...
  sha256 text check (sha256 ~ '^[0-9a-f]{64}$'),
  bytes bigint check (bytes > 0),
  bucket text,
  key text unique,
  error_code text,
  error_message text,

  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  deleted_at timestamptz,

  constraint ready_loras_have_a_file
    check (status <> 'ready' or (sha256 is not null and bytes is not null and bucket is not null and key is not null)),
  constraint failed_loras_say_why check (status <> 'failed' or error_code is not null)
);
create unique index loras_by_name on public.loras (user_id, name) where deleted_at is null;
create index loras_by_user on public.loras (user_id, created_at desc, id desc);
create index loras_pending on public.loras (created_at) where status = 'pending' and deleted_at is null;

create trigger set_updated_at before update on public.loras
  for each row execute function private.set_updated_at();

alter table public.loras enable row level security;
revoke all on public.loras from anon, authenticated;
grant select (
  id, user_id, name, source, source_ref, trigger_words, license, status, family, base_model, base_model_group,
  rank, alpha, key_format, sha256, bytes, error_code, error_message, created_at, updated_at, deleted_at
) on public.loras to authenticated;
grant insert (user_id, name, source, source_ref, trigger_words, license) on public.loras to authenticated;
grant update (name, trigger_words, license, deleted_at) on public.loras to authenticated;
grant select, insert, update on public.loras to gateway_service;

create policy "users see their own loras" on public.loras
  for select to authenticated using ((select auth.uid()) = user_id);
create policy "users register their own loras" on public.loras
  for insert to authenticated with check ((select auth.uid()) = user_id);
create policy "users edit their own loras" on public.loras
  for update to authenticated using ((select auth.uid()) = user_id) with check ((select auth.uid()) = user_id);
create policy "the gateway keeps every lora" on public.loras
  for all to gateway_service using (true) with check (true);
