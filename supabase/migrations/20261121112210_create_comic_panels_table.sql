-- Panels in their order. A panel is drawn by a job and shows one of its pictures.
create table public.comic_panels (
  id uuid primary key default gen_random_uuid(),
  chapter_id uuid not null references public.comic_chapters (id) on delete cascade,
  position integer not null check (position >= 0),
  prompt text not null check (char_length(prompt) between 1 and 1500),
  mode text not null default 'reference' check (mode in ('reference', 'lora')),
  enhance boolean not null default true,
  style text,
  seed bigint check (seed >= 0),
  max_cost_usd_micros bigint check (max_cost_usd_micros >= 0),   -- what repairs may cost in all

  -- what came of it; status and error follow the job (map_jobs_onto_panels_and_characters)
  status text not null default 'pending' check (status in ('pending', 'generating', 'ready', 'failed')),
  job_id uuid references public.generation_jobs (id) on delete set null,
  image_id uuid references public.generated_assets (id) on delete set null,
  enhanced_prompt text check (char_length(enhanced_prompt) <= 1500),
  consistency jsonb check (jsonb_typeof(consistency) = 'object'),   -- score, per_character
  attempts integer not null default 0 check (attempts >= 0),
  error_code text,
  error_message text,

  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  unique (chapter_id, position) deferrable initially immediate,
  constraint failed_panels_say_why check (status <> 'failed' or error_code is not null)
);
create index comic_panels_by_job on public.comic_panels (job_id) where job_id is not null;
create index comic_panels_by_image on public.comic_panels (image_id) where image_id is not null;

create trigger set_updated_at before update on public.comic_panels
  for each row execute function private.set_updated_at();

alter table public.comic_panels enable row level security;
revoke all on public.comic_panels from anon, authenticated;
grant select, delete on public.comic_panels to authenticated;
grant insert (chapter_id, position, prompt, mode, enhance, style, seed, max_cost_usd_micros)
  on public.comic_panels to authenticated;
grant update (position, prompt, mode, enhance, style, seed, max_cost_usd_micros)
  on public.comic_panels to authenticated;
grant select, insert, update on public.comic_panels to gateway_service;

create policy "members see panels" on public.comic_panels
  for select to authenticated
  using (chapter_id = any ((select private.chapter_ids('viewer'))::uuid[]));
create policy "editors add panels" on public.comic_panels
  for insert to authenticated
  with check (chapter_id = any ((select private.chapter_ids('editor'))::uuid[]));
create policy "editors change panels" on public.comic_panels
  for update to authenticated
  using (chapter_id = any ((select private.chapter_ids('editor'))::uuid[]))
  with check (chapter_id = any ((select private.chapter_ids('editor'))::uuid[]));
create policy "editors delete panels" on public.comic_panels
  for delete to authenticated
  using (chapter_id = any ((select private.chapter_ids('editor'))::uuid[]));
create policy "the gateway keeps every panel" on public.comic_panels
  for all to gateway_service using (true) with check (true);
