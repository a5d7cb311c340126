-- Of jobs whose caller wants equal requests to be answered with the pictures that are there.
alter table public.generation_jobs add column cache_key text;
create index generation_jobs_by_cache_key on public.generation_jobs (user_id, cache_key, created_at desc)
  where cache_key is not null;
