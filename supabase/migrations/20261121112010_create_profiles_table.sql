-- What a user shows of themselves; the account is a row of auth.users, and makes its profile by trigger.
create table public.profiles (
  id uuid primary key references auth.users (id) on delete cascade,
  display_name text check (char_length(display_name) between 1 and 100),
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now()
);

create trigger set_updated_at before update on public.profiles
  for each row execute function private.set_updated_at();

-- Signing up runs as Supabase's auth server, which has no rights here.
create function private.create_profile() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
  insert into public.profiles (id, display_name)
  values (new.id, nullif(left(coalesce(
    new.raw_user_meta_data ->> 'display_name', new.raw_user_meta_data ->> 'full_name',
    split_part(new.email, '@', 1)), 100), ''))
  on conflict (id) do nothing;
  return new;
end $$;
revoke all on function private.create_profile() from public;

create trigger create_profile after insert on auth.users
  for each row execute function private.create_profile();

insert into public.profiles (id, display_name)
select id, nullif(left(split_part(email, '@', 1), 100), '') from auth.users
on conflict (id) do nothing;

alter table public.profiles enable row level security;
revoke all on public.profiles from anon, authenticated;
grant select (id, display_name, created_at, updated_at) on public.profiles to authenticated;
grant update (display_name) on public.profiles to authenticated;
grant select, insert, update on public.profiles to gateway_service;

create policy "users see their own profile" on public.profiles
  for select to authenticated using ((select auth.uid()) = id);
create policy "users edit their own profile" on public.profiles
  for update to authenticated using ((select auth.uid()) = id) with check ((select auth.uid()) = id);
create policy "the gateway keeps every profile" on public.profiles
  for all to gateway_service using (true) with check (true);
