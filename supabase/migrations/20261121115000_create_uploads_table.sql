-- Pictures that users bring. What arrives stands under raw_key until it has been drawn anew under key; every
-- column after source is the gateway's word, so users write none of them.
create table public.uploads (
  id uuid primary key default gen_random_uuid(),
  user_id uuid not null references auth.users (id) on delete restrict,
  source text not null check (source in ('upload', 'url')),
  filename text not null check (char_length(filename) between 1 and 255),
  status text not null default 'pending' check (status in ('pending', 'ready', 'failed')),

  -- as declared, and as found once the picture is ready
  content_type text not null check (content_type in ('image/png', 'image/jpeg', 'image/webp')),
  bytes bigint not null check (bytes > 0),

  bucket text not null default 'uploads',
  raw_key text unique,
  key text unique,
  sha256 text check (sha256 ~ '^[0-9a-f]{64}$'),
  width integer check (width > 0),
  height integer check (height > 0),
  error_code text,
  error_message text,

  created_at timestamptz not null default now(),
  expires_at timestamptz,   -- until then the signed address takes the file
  sweep_at timestamptz,     -- when to remove what stands under the keys and should not; null: nothing
  deleted_at timestamptz,

  constraint ready_uploads_have_a_picture check (
    status <> 'ready' or (key is not null and sha256 is not null and width is not null and height is not null)),
  constraint failed_uploads_say_why check ((status = 'failed') = (error_code is not null))
);
create index uploads_by_user on public.uploads (user_id, created_at desc, id desc);
create index uploads_to_sweep on public.uploads (sweep_at) where sweep_at is not null;

alter table public.uploads enable row level security;
revoke all on public.uploads from anon, authenticated;
grant select (
  id, user_id, source, filename, status, content_type, bytes, bucket, raw_key, key, sha256, width, height,
  error_code, error_message, created_at, expires_at, deleted_at
) on public.uploads to authenticated;
grant select, insert, update on public.uploads to gateway_service;

create policy "users see their own uploads" on public.uploads
  for select to authenticated using ((select auth.uid()) = user_id);
create policy "the gateway keeps every upload" on public.uploads
  for all to gateway_service using (true) with check (true);
