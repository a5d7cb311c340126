-- A job of several GPU calls, and a job with children.
alter table public.generation_jobs
  add column plan text,                               -- who leads the job; null: the plan of its task
  add column slot text,                               -- which of its parent's children it is
  add column inputs jsonb not null default '{}',      -- what the plan is told beside the columns above
  add column state jsonb not null default '{}',       -- what finished calls have left behind
  add column waiting boolean not null default false,  -- for its children, which takes no place in flight
  add column image_kind text not null default 'generation';

create unique index generation_jobs_by_slot on public.generation_jobs (parent_id, slot)
  where parent_id is not null;
create index generation_jobs_living_children on public.generation_jobs (parent_id)
  where parent_id is not null and wake_at is not null;
create index generation_jobs_with_candidates on public.generation_jobs (id)
  where wake_at is null and state ? 'candidates';

grant select (plan, slot, inputs, state, image_kind) on public.generation_jobs to authenticated;
-- The claim opens a call for every job; a parent makes none and takes the open one away.
grant delete on private.generation_calls to gateway_service;
