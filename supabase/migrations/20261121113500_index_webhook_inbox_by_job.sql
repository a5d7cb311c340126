-- The debug view of a job says of each call when its webhook arrived.
create index webhook_inbox_by_job on private.webhook_inbox (job_id);
