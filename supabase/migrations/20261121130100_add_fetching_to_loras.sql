-- Who is fetching a pending LoRA, and until when; and what else its header says.
alter table public.loras
  add column leased_until timestamptz not null default now(),
  add column attempt integer not null default 0,   -- the fence: a lease that was taken over writes no more
  add column has_alpha boolean,
  add column modules integer check (modules > 0);  -- layers that it changes

grant select (bucket, key, has_alpha, modules) on public.loras to authenticated;

create index loras_by_source on public.loras (user_id, source_ref) where deleted_at is null;
