-- Panels are deleted for good, and undone from here: a copy of the row, for a week. Nothing is kept of a panel that
-- goes with its chapter or project. A trigger writes it, so that a panel's picture follows it however it goes.
create table private.deleted_panels (
  panel_id uuid primary key,
  project_id uuid not null,
  panel jsonb not null,
  character_ids uuid[] not null,
  deleted_at timestamptz not null default now()
);
create index deleted_panels_by_age on private.deleted_panels (deleted_at);

alter table private.deleted_panels enable row level security;
revoke all on private.deleted_panels from public, anon, authenticated;
grant select, insert, delete on private.deleted_panels to gateway_service;

create policy "the gateway keeps every deleted panel" on private.deleted_panels
  for all to gateway_service using (true) with check (true);

create function private.keep_deleted_panel() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
  insert into private.deleted_panels (panel_id, project_id, panel, character_ids)
  select old.id, c.project_id, to_jsonb(old), array(
    select character_id from public.panel_characters where panel_id = old.id order by position)
  from public.comic_chapters c where c.id = old.chapter_id
  on conflict (panel_id) do nothing;
  with gone as (
    update public.generated_assets set deleted_at = now()
    where id = old.image_id and deleted_at is null
    returning bucket, key
  )
  insert into private.deletions (bucket, key, reason, wake_at)
  select bucket, file, 'panel', now() + interval '7 days'
  from gone, unnest(array[key, key || '.thumbnail.webp']) as file
  on conflict (bucket, key) do update set reason = excluded.reason, wake_at = excluded.wake_at;
  return old;
end $$;
revoke all on function private.keep_deleted_panel() from public;

create trigger keep_deleted_panel before delete on public.comic_panels
  for each row execute function private.keep_deleted_panel();
