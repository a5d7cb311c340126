-- What is spent and what may yet be: a job reserves a bound when it is made and gives it back when what its
-- calls cost is charged. Three rows a job, each once, never changed: nobody is granted to.
create table private.ledger (
  id bigint generated always as identity primary key,
  user_id uuid not null,
  job_id uuid not null references public.generation_jobs (id),
  kind text not null check (kind in ('reserve', 'release', 'settle')),
  usd_micros bigint not null,
  images integer not null,
  gpu_seconds numeric(12, 3) not null,
  counted_at timestamptz not null,  -- when the job was made: all its rows count in that day and month
  created_at timestamptz not null default now(),
  unique (job_id, kind)
);
create index ledger_by_user on private.ledger (user_id, counted_at)
  include (kind, usd_micros, images, gpu_seconds);

revoke all on private.ledger from public, anon, authenticated;
grant select, insert on private.ledger to gateway_service;

alter table public.generation_jobs
  add column reserved_usd_micros bigint not null default 0 check (reserved_usd_micros >= 0),
  add column reserved_gpu_seconds numeric(12, 3) not null default 0 check (reserved_gpu_seconds >= 0),
  add column limit_gpu_seconds numeric(12, 3);  -- of all its calls, which are stopped there; null: none

-- Jobs from before the ledger.
insert into private.ledger (user_id, job_id, kind, usd_micros, images, gpu_seconds, counted_at, created_at)
select j.user_id, j.id, e.kind, e.usd_micros, e.images, e.gpu_seconds, j.created_at,
  case e.kind when 'reserve' then j.created_at else j.finished_at end
from public.generation_jobs j
cross join lateral (
  values
    ('reserve', j.estimated_usd_micros, j.num_images, 0),
    ('release', -j.estimated_usd_micros, -j.num_images, 0),
    ('settle', j.cost_usd_micros, case j.status when 'completed' then j.num_images else 0 end, j.gpu_seconds)
) e (kind, usd_micros, images, gpu_seconds)
where e.kind = 'reserve' or j.status in ('completed', 'failed', 'canceled');
