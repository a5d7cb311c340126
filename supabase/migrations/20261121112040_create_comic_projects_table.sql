-- A comic. Who may do what with it is said by its members; their policies stand in the next file.
create table public.comic_projects (
  id uuid primary key default gen_random_uuid(),
  user_id uuid not null references auth.users (id) on delete restrict,
  name text not null check (char_length(name) between 1 and 200),
  base_model varchar(50),     -- Flux.1 D
  base_model_group text,      -- Flux1; taken from the first LoRA, if nobody chose
  style text,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now()
);
create index comic_projects_by_user on public.comic_projects (user_id, created_at desc, id desc);

create trigger set_updated_at before update on public.comic_projects
  for each row execute function private.set_updated_at();

alter table public.comic_projects enable row level security;
revoke all on public.comic_projects from anon, authenticated;
grant select, delete on public.comic_projects to authenticated;
grant insert (user_id, name, base_model, base_model_group, style) on public.comic_projects to authenticated;
grant update (name, base_model, base_model_group, style) on public.comic_projects to authenticated;
grant select, insert, update on public.comic_projects to gateway_service;

create policy "users start projects of their own" on public.comic_projects
  for insert to authenticated with check ((select auth.uid()) = user_id);
create policy "owners delete their projects" on public.comic_projects
  for delete to authenticated using ((select auth.uid()) = user_id);
create policy "the gateway keeps every project" on public.comic_projects
  for all to gateway_service using (true) with check (true);
