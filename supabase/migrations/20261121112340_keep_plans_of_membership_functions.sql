-- Before Postgres 18 a function in SQL is planned anew at each call, which cost more than the query that asked;
-- PL/pgSQL keeps the plan for as long as the connection lives.
create or replace function private.project_ids(at_least public.project_role) returns uuid[]
language plpgsql stable security definer set search_path = '' as $$
begin
  return (
    select coalesce(array_agg(project_id), '{}') from public.project_members
    where user_id = (select auth.uid()) and role >= at_least);
end $$;

create or replace function private.chapter_ids(at_least public.project_role) returns uuid[]
language plpgsql stable security definer set search_path = '' as $$
begin
  return (
    select coalesce(array_agg(c.id), '{}')
    from public.project_members m join public.comic_chapters c using (project_id)
    where m.user_id = (select auth.uid()) and m.role >= at_least);
end $$;
