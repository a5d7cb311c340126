-- Chapters in their order. Positions are checked at the end of a statement, so one update may permute them.
create table public.comic_chapters (
  id uuid primary key default gen_random_uuid(),
  project_id uuid not null references public.comic_projects (id) on delete cascade,
  name text not null check (char_length(name) between 1 and 200),
  position integer not null check (position >= 0),
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  unique (project_id, position) deferrable initially immediate
);

create trigger set_updated_at before update on public.comic_chapters
  for each row execute function private.set_updated_at();

-- The chapters of the caller's projects, for the policies of panels.
create function private.chapter_ids(at_least public.project_role) returns uuid[]
language sql stable security definer set search_path = '' as $$
  select coalesce(array_agg(c.id), '{}')
  from public.project_members m join public.comic_chapters c using (project_id)
  where m.user_id = (select auth.uid()) and m.role >= at_least
$$;
revoke all on function private.chapter_ids(public.project_role) from public;
grant execute on function private.chapter_ids(public.project_role) to authenticated, gateway_service;

alter table public.comic_chapters enable row level security;
revoke all on public.comic_chapters from anon, authenticated;
grant select, delete on public.comic_chapters to authenticated;
grant insert (project_id, name, position) on public.comic_chapters to authenticated;
grant update (name, position) on public.comic_chapters to authenticated;
grant select, insert, update on public.comic_chapters to gateway_service;

create policy "members see chapters" on public.comic_chapters
  for select to authenticated
  using (project_id = any ((select private.project_ids('viewer'))::uuid[]));
create policy "editors add chapters" on public.comic_chapters
  for insert to authenticated
  with check (project_id = any ((select private.project_ids('editor'))::uuid[]));
create policy "editors change chapters" on public.comic_chapters
  for update to authenticated
  using (project_id = any ((select private.project_ids('editor'))::uuid[]))
  with check (project_id = any ((select private.project_ids('editor'))::uuid[]));
create policy "editors delete chapters" on public.comic_chapters
  for delete to authenticated
  using (project_id = any ((select private.project_ids('editor'))::uuid[]));
create policy "the gateway keeps every chapter" on public.comic_chapters
  for all to gateway_service using (true) with check (true);
