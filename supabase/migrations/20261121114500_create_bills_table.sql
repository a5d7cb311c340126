-- What Modal billed for a day, as `tenkaigen costs --reconcile` last read it: billed less charged is idle.
create table private.bills (
  day date primary key,
  usd_micros bigint not null check (usd_micros >= 0),
  recorded_at timestamptz not null default now()
);
revoke all on private.bills from public, anon, authenticated;
grant select on private.bills to gateway_service;
