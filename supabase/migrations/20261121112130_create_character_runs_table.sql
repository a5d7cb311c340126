-- One run of a character's pipeline for each token: asking twice for the same run finds the first one's job.
create table public.character_runs (
  character_id uuid not null references public.characters (id) on delete cascade,
  style text not null,
  run_token text not null check (char_length(run_token) between 1 and 255),
  job_id uuid references public.generation_jobs (id) on delete set null,
  created_at timestamptz not null default now(),
  primary key (character_id, style, run_token)
);
create index character_runs_by_job on public.character_runs (job_id) where job_id is not null;

alter table public.character_runs enable row level security;
revoke all on public.character_runs from anon, authenticated;
grant select on public.character_runs to authenticated;
grant select, insert, update on public.character_runs to gateway_service;

create policy "users see their own characters' runs" on public.character_runs
  for select to authenticated
  using (exists (select from public.characters c
    where c.id = character_id and c.user_id = (select auth.uid())));
create policy "the gateway keeps every run" on public.character_runs
  for all to gateway_service using (true) with check (true);
