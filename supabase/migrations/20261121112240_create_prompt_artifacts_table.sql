-- Every prompt that was sent: what was typed, what became of it, and what made it so.
create table public.prompt_artifacts (
  id uuid primary key default gen_random_uuid(),
  user_id uuid not null references auth.users (id) on delete restrict,
  job_id uuid not null references public.generation_jobs (id) on delete cascade,
  seq integer not null default 1,       -- which GPU call of the job it was for
  character_id uuid references public.characters (id) on delete set null,
  panel_id uuid references public.comic_panels (id) on delete set null,
  mode text not null default 'styled'   -- exact: as typed; template: from stored data; lora, reference: enhanced
    check (mode in ('exact', 'styled', 'template', 'lora', 'reference')),
  input text not null,
  enhanced text,
  final text not null,
  negative text,
  enhance_status text not null default 'off' check (enhance_status in ('off', 'done', 'fallback')),
  model text,
  template_id text,                     -- a style's or built-in template's name, or a prompt template's id
  template_version integer,
  created_at timestamptz not null default now(),
  unique (job_id, seq)                  -- a repeated step writes the same row
);
create index prompt_artifacts_by_user on public.prompt_artifacts (user_id, created_at desc, id desc);
create index prompt_artifacts_by_character on public.prompt_artifacts (character_id, created_at desc)
  where character_id is not null;
create index prompt_artifacts_by_panel on public.prompt_artifacts (panel_id, created_at desc)
  where panel_id is not null;

alter table public.prompt_artifacts enable row level security;
revoke all on public.prompt_artifacts from anon, authenticated;
grant select on public.prompt_artifacts to authenticated;
grant select, insert, update on public.prompt_artifacts to gateway_service;

create policy "users see their own prompts" on public.prompt_artifacts
  for select to authenticated using ((select auth.uid()) = user_id);
create policy "the gateway keeps every prompt" on public.prompt_artifacts
  for all to gateway_service using (true) with check (true);
