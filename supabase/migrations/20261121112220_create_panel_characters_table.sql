-- Who is in a panel; their references go to the model in this order.
create table public.panel_characters (
  panel_id uuid not null references public.comic_panels (id) on delete cascade,
  character_id uuid not null references public.characters (id) on delete cascade,
  position integer not null check (position >= 0),
  primary key (panel_id, character_id),
  unique (panel_id, position) deferrable initially immediate
);
create index panel_characters_by_character on public.panel_characters (character_id);

alter table public.panel_characters enable row level security;
revoke all on public.panel_characters from anon, authenticated;
grant select, delete on public.panel_characters to authenticated;
grant insert (panel_id, character_id, position) on public.panel_characters to authenticated;
grant update (position) on public.panel_characters to authenticated;
grant select, insert, update on public.panel_characters to gateway_service;

create policy "who sees a panel sees who is in it" on public.panel_characters
  for select to authenticated
  using (exists (select from public.comic_panels p where p.id = panel_id));
-- An editor puts in whom they see: their own characters and those of the project.
create policy "editors put characters into panels" on public.panel_characters
  for insert to authenticated
  with check (
    exists (select from public.comic_panels p
      where p.id = panel_id and p.chapter_id = any ((select private.chapter_ids('editor'))::uuid[]))
    and exists (select from public.characters c where c.id = character_id));
create policy "editors order the characters of panels" on public.panel_characters
  for update to authenticated
  using (exists (select from public.comic_panels p
    where p.id = panel_id and p.chapter_id = any ((select private.chapter_ids('editor'))::uuid[])))
  with check (exists (select from public.comic_panels p
    where p.id = panel_id and p.chapter_id = any ((select private.chapter_ids('editor'))::uuid[])));
create policy "editors take characters out of panels" on public.panel_characters
  for delete to authenticated
  using (exists (select from public.comic_panels p
    where p.id = panel_id and p.chapter_id = any ((select private.chapter_ids('editor'))::uuid[])));
create policy "the gateway keeps everybody in panels" on public.panel_characters
  for all to gateway_service using (true) with check (true);
