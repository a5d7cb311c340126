-- What /metrics looks for: the jobs that have ended since it last looked.
create index generation_jobs_by_end on public.generation_jobs (finished_at) where finished_at is not null;
