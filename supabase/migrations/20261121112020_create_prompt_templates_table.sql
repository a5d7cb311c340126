-- A prompt with {{variables}}. `version` counts the texts it had: pictures name the one they were made from.
create table public.prompt_templates (
  id uuid primary key default gen_random_uuid(),
  user_id uuid not null references auth.users (id) on delete cascade,
  name text not null check (char_length(name) between 1 and 100),
  text text not null check (char_length(text) between 1 and 10000),
  variables text[] not null default '{}',
  defaults jsonb not null default '{}' check (jsonb_typeof(defaults) = 'object'),
  version integer not null default 1 check (version > 0),
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  unique (user_id, name)
);
create index prompt_templates_by_user on public.prompt_templates (user_id, created_at desc, id desc);

create function private.count_template_version() returns trigger
language plpgsql set search_path = '' as $$
begin
  new.version = old.version + 1;
  return new;
end $$;
revoke all on function private.count_template_version() from public;

create trigger count_template_version before update on public.prompt_templates
  for each row when (old.text is distinct from new.text or old.defaults is distinct from new.defaults)
  execute function private.count_template_version();
create trigger set_updated_at before update on public.prompt_templates
  for each row execute function private.set_updated_at();

alter table public.prompt_templates enable row level security;
revoke all on public.prompt_templates from anon, authenticated;
grant select, delete on public.prompt_templates to authenticated;
grant insert (user_id, name, text, variables, defaults) on public.prompt_templates to authenticated;
grant update (name, text, variables, defaults) on public.prompt_templates to authenticated;
grant select, insert, update on public.prompt_templates to gateway_service;

create policy "users see their own templates" on public.prompt_templates
  for select to authenticated using ((select auth.uid()) = user_id);
create policy "users write their own templates" on public.prompt_templates
  for insert to authenticated with check ((select auth.uid()) = user_id);
create policy "users edit their own templates" on public.prompt_templates
  for update to authenticated using ((select auth.uid()) = user_id) with check ((select auth.uid()) = user_id);
create policy "users delete their own templates" on public.prompt_templates
  for delete to authenticated using ((select auth.uid()) = user_id);
create policy "the gateway keeps every template" on public.prompt_templates
  for all to gateway_service using (true) with check (true);
