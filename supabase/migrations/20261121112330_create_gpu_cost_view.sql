-- What each day's jobs cost, by model; days are UTC and those on which the jobs were asked for.
create view public.v_gpu_cost_daily with (security_invoker = true) as
  select (created_at at time zone 'utc')::date as day, model, count(*) as jobs,
    sum(gpu_seconds) as gpu_seconds, sum(cost_usd_micros)::bigint as usd_micros
  from public.generation_jobs
  group by 1, 2;

revoke all on public.v_gpu_cost_daily from anon, authenticated;
grant select on public.v_gpu_cost_daily to authenticated, gateway_service;
