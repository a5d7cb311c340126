-- What /metrics counts: deliveries that were given up, few among the 30 days that are kept.
create index webhook_deliveries_failed on public.webhook_deliveries (created_at) where status = 'failed';
