-- How the last day went: of whoever asks, or of all for the gateway.
create index generation_jobs_by_age on public.generation_jobs (created_at);

create view public.v_generation_health_24h with (security_invoker = true) as
  select status, count(*) as count, avg(processing_time_ms) as avg_time   -- milliseconds
  from public.generation_jobs
  where created_at > now() - interval '24 hours'
  group by status;

revoke all on public.v_generation_health_24h from anon, authenticated;
grant select on public.v_generation_health_24h to authenticated, gateway_service;
