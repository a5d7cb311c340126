-- Who takes part in a comic: viewers read, editors write, the owner also invites and deletes.
-- The owner's row comes with the project and goes with it.
create type public.project_role as enum ('viewer', 'editor', 'owner');

create table public.project_members (
  project_id uuid not null references public.comic_projects (id) on delete cascade,
  user_id uuid not null references auth.users (id) on delete cascade,
  role public.project_role not null default 'viewer',
  created_at timestamptz not null default now(),
  primary key (project_id, user_id)
);
create index project_members_by_user on public.project_members (user_id, role);
create unique index project_members_owner on public.project_members (project_id) where role = 'owner';

create function private.add_project_owner() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
  insert into public.project_members (project_id, user_id, role) values (new.id, new.user_id, 'owner');
  return null;
end $$;
revoke all on function private.add_project_owner() from public;

create trigger add_project_owner after insert on public.comic_projects
  for each row execute function private.add_project_owner();

-- The caller's projects, for policies. Reading the members as their owner keeps policies from asking each
-- other in a circle. An array asked for in a sub-select is made once a query, and an index can look it up.
create function private.project_ids(at_least public.project_role) returns uuid[]
language sql stable security definer set search_path = '' as $$
  select coalesce(array_agg(project_id), '{}') from public.project_members
  where user_id = (select auth.uid()) and role >= at_least
$$;
revoke all on function private.project_ids(public.project_role) from public;
grant execute on function private.project_ids(public.project_role) to authenticated, gateway_service;

alter table public.project_members enable row level security;
revoke all on public.project_members from anon, authenticated;
grant select, delete on public.project_members to authenticated;
grant insert (project_id, user_id, role) on public.project_members to authenticated;
grant update (role) on public.project_members to authenticated;
grant select, insert, update on public.project_members to gateway_service;

create policy "members see each other" on public.project_members
  for select to authenticated
  using (project_id = any ((select private.project_ids('viewer'))::uuid[]));
create policy "owners invite" on public.project_members
  for insert to authenticated
  with check (role < 'owner' and project_id = any ((select private.project_ids('owner'))::uuid[]));
create policy "owners change roles" on public.project_members
  for update to authenticated
  using (role < 'owner' and project_id = any ((select private.project_ids('owner'))::uuid[]))
  with check (role < 'owner' and project_id = any ((select private.project_ids('owner'))::uuid[]));
create policy "owners dismiss and members leave" on public.project_members
  for delete to authenticated
  using (role < 'owner'
    and (user_id = (select auth.uid()) or project_id = any ((select private.project_ids('owner'))::uuid[])));
create policy "the gateway keeps every member" on public.project_members
  for all to gateway_service using (true) with check (true);

-- A project's owner is asked for by name too: the statement that makes a project reads it back before its
-- members are there.
create policy "members see their projects" on public.comic_projects
  for select to authenticated
  using ((select auth.uid()) = user_id or id = any ((select private.project_ids('viewer'))::uuid[]));
create policy "editors change their projects" on public.comic_projects
  for update to authenticated
  using (id = any ((select private.project_ids('editor'))::uuid[]))
  with check (id = any ((select private.project_ids('editor'))::uuid[]));
