-- What stands in a panel's lettering box; and editors move panels to other chapters of theirs.
alter table public.comic_panels add column caption text check (char_length(caption) between 1 and 500);
grant insert (caption) on public.comic_panels to authenticated;
grant update (caption, chapter_id) on public.comic_panels to authenticated;
