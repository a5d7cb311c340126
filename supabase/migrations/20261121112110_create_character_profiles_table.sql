-- What a character looks like, as the vision model or the fallback saw it and its owner corrected it.
create table public.character_profiles (
  character_id uuid primary key references public.characters (id) on delete cascade,
  color_palette text[] not null default '{}',     -- #rrggbb, the most of the picture first
  do_not_change text[] not null default '{}',
  attributes jsonb not null default '{}' check (jsonb_typeof(attributes) = 'object'),
  source text not null check (source in ('vlm', 'fallback')),
  edited_at timestamptz,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now()
);

create trigger set_updated_at before update on public.character_profiles
  for each row execute function private.set_updated_at();

alter table public.character_profiles enable row level security;
revoke all on public.character_profiles from anon, authenticated;
grant select on public.character_profiles to authenticated;
grant update (color_palette, do_not_change, attributes, edited_at) on public.character_profiles to authenticated;
grant select, insert, update on public.character_profiles to gateway_service;

create policy "who sees a character sees its profile" on public.character_profiles
  for select to authenticated
  using (exists (select from public.characters c where c.id = character_id));
create policy "users edit their own characters' profiles" on public.character_profiles
  for update to authenticated
  using (exists (select from public.characters c
    where c.id = character_id and c.user_id = (select auth.uid())))
  with check (exists (select from public.characters c
    where c.id = character_id and c.user_id = (select auth.uid())));
create policy "the gateway keeps every character's profile" on public.character_profiles
  for all to gateway_service using (true) with check (true);
