-- A character's pictures. Replaced and deleted ones stay as tombstones: prompt and recipe are the history.
create table public.character_images (
  id uuid primary key default gen_random_uuid(),
  character_id uuid not null references public.characters (id) on delete cascade,
  kind text not null
    check (kind in ('reference', 'view', 'portfolioItem', 'scene', 'variant', 'panel')),
  view text check (view in ('front', 'side', 'back')),
  angle integer check (angle between 0 and 359),
  asset_id uuid references public.generated_assets (id) on delete set null,
  job_id uuid references public.generation_jobs (id) on delete set null,
  provider text not null default 'self',
  prompt text not null,
  source_url text,
  external_id text,
  status text not null check (status in ('succeeded', 'failed')),
  error text,
  metrics jsonb not null default '{}' check (jsonb_typeof(metrics) = 'object'),   -- {"durationMs": 3210}
  is_selected boolean not null default false,
  created_by uuid references auth.users (id) on delete set null,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  replaced_at timestamptz,
  deleted_at timestamptz,

  constraint succeeded_images_have_a_file check
    (status = 'failed' or asset_id is not null or replaced_at is not null or deleted_at is not null),
  constraint failed_images_say_why check (status = 'succeeded' or error is not null),
  constraint views_name_their_side check (kind <> 'view' or view is not null),
  constraint selected_images_are_there
    check (not is_selected or (status = 'succeeded' and replaced_at is null and deleted_at is null))
);
create unique index character_images_selected on public.character_images (character_id) where is_selected;
create index character_images_by_character on public.character_images (character_id, created_at desc, id desc);
create unique index character_images_by_asset on public.character_images (asset_id, character_id);
create index character_images_by_job on public.character_images (job_id) where job_id is not null;
create index character_images_by_creator on public.character_images (created_by) where created_by is not null;

create trigger set_updated_at before update on public.character_images
  for each row execute function private.set_updated_at();

alter table public.character_images enable row level security;
revoke all on public.character_images from anon, authenticated;
grant select on public.character_images to authenticated;
grant update (is_selected, replaced_at, deleted_at) on public.character_images to authenticated;
grant select, insert, update on public.character_images to gateway_service;

create policy "who sees a character sees its images" on public.character_images
  for select to authenticated
  using (exists (select from public.characters c where c.id = character_id));
create policy "users select and remove their own characters' images" on public.character_images
  for update to authenticated
  using (exists (select from public.characters c
    where c.id = character_id and c.user_id = (select auth.uid())))
  with check (exists (select from public.characters c
    where c.id = character_id and c.user_id = (select auth.uid())));
create policy "the gateway keeps every character's images" on public.character_images
  for all to gateway_service using (true) with check (true);
