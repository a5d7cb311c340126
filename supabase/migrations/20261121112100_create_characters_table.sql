-- A character, from a photo, a LoRA or a description. It belongs to one user; made in a project, its members
-- read it. A row is not deleted but marked: pictures have to go first.
create table public.characters (
  id uuid primary key default gen_random_uuid(),
  user_id uuid not null references auth.users (id) on delete restrict,
  project_id uuid references public.comic_projects (id) on delete set null,
  name text not null check (char_length(name) between 1 and 100),
  gender text check (char_length(gender) <= 50),
  age text check (char_length(age) <= 50),              -- 12, or early thirties
  ethnicity text check (char_length(ethnicity) <= 100),
  style text,
  source text not null check (source in ('photo', 'lora', 'description')),
  upload_id uuid,                                       -- outlives the upload, which is swept in time
  lora_id uuid references public.loras (id) on delete restrict,
  description text check (char_length(description) <= 4000),
  consented_at timestamptz,                             -- when consent to use the photo was given
  consent boolean generated always as (consented_at is not null) stored,
  attributes jsonb not null default '{}' check (jsonb_typeof(attributes) = 'object'),
  library_db_id text check (library_db_id ~ '^[0-9a-fA-F]{24}$'),
  library_character_id text check (char_length(library_character_id) between 1 and 200),

  -- where its pipeline stands; status and error follow the job (map_jobs_onto_panels_and_characters)
  status text not null default 'pending' check (status in ('pending', 'processing', 'ready', 'failed')),
  error_code text,
  error_message text,
  job_id uuid references public.generation_jobs (id) on delete set null,
  reference_image_workflow_ids jsonb not null default '{}'   -- the job of each view: {"front": "…"}
    check (jsonb_typeof(reference_image_workflow_ids) = 'object'),

  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  deleted_at timestamptz,

  constraint photos_need_consent
    check (source <> 'photo' or (upload_id is not null and consented_at is not null)),
  constraint lora_characters_name_their_lora check (source <> 'lora' or lora_id is not null),
  constraint described_characters_have_a_description check (source <> 'description' or description is not null),
  constraint failed_characters_say_why check (status <> 'failed' or error_code is not null)
);
create index characters_by_user on public.characters (user_id, created_at desc, id desc);
create index characters_by_project on public.characters (project_id) where project_id is not null;
create index characters_by_lora on public.characters (lora_id) where lora_id is not null;
create index characters_by_upload on public.characters (upload_id) where upload_id is not null;
create index characters_by_job on public.characters (job_id) where job_id is not null;

create trigger set_updated_at before update on public.characters
  for each row execute function private.set_updated_at();

alter table public.characters enable row level security;
revoke all on public.characters from anon, authenticated;
grant select on public.characters to authenticated;
grant insert (
  user_id, project_id, name, gender, age, ethnicity, style, source, upload_id, lora_id, description,
  consented_at, attributes, library_db_id, library_character_id
) on public.characters to authenticated;
grant update (
  project_id, name, gender, age, ethnicity, style, description, attributes, library_db_id,
  library_character_id, deleted_at
) on public.characters to authenticated;
grant select, insert, update on public.characters to gateway_service;

create policy "users and members of the project see characters" on public.characters
  for select to authenticated
  using ((select auth.uid()) = user_id or project_id = any ((select private.project_ids('viewer'))::uuid[]));
-- Another's LoRA or project is refused exactly as one that does not exist.
create policy "users make characters of their own" on public.characters
  for insert to authenticated
  with check ((select auth.uid()) = user_id
    and (project_id is null or project_id = any ((select private.project_ids('editor'))::uuid[]))
    and (lora_id is null or exists (select from public.loras l where l.id = characters.lora_id)));
create policy "users edit their own characters" on public.characters
  for update to authenticated using ((select auth.uid()) = user_id)
  with check ((select auth.uid()) = user_id
    and (project_id is null or project_id = any ((select private.project_ids('editor'))::uuid[])));
create policy "the gateway keeps every character" on public.characters
  for all to gateway_service using (true) with check (true);
