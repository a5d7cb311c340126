-- What stored pictures take: those of whoever asks, or all for the gateway.
create view public.v_storage_usage with (security_invoker = true) as
  select count(*) as images, coalesce(sum(bytes), 0)::bigint as bytes,
    (coalesce(sum(bytes), 0) / 1048576)::double precision as mb_used
  from public.generated_assets
  where deleted_at is null;

revoke all on public.v_storage_usage from anon, authenticated;
grant select on public.v_storage_usage to authenticated, gateway_service;
