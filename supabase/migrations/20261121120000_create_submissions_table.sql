-- Which request made which job, so that a repeat of it that carries no key finds the job. A client that
-- counts its tries has its row before the job is there: a repeat that overtakes the first try makes the
-- job under the same id, and the first try then finds it made.
create table private.submissions (
  job_id uuid primary key,
  credential text not null,
  request_sha256 text not null,
  retries integer not null default 0,
  created_at timestamptz not null default now()
);
create index submissions_by_request
  on private.submissions (credential, request_sha256, created_at desc);
create index submissions_by_age on private.submissions (created_at);

alter table private.submissions enable row level security;
revoke all on private.submissions from public, anon, authenticated;
grant select, insert, update, delete on private.submissions to gateway_service;
create policy "the gateway remembers every submission" on private.submissions
  for all to gateway_service using (true) with check (true);

-- The id of the job that a request is to make, or that an earlier try of it has made. The lock puts the
-- tries of one request in order; it is a statement of its own, so that the look-up behind it sees what
-- the one before has written. Of several equal requests a repeat takes one that no repeat of its count
-- has taken, the newest first: each gets its own.
create function private.reserve_job(
  wanted uuid, asking text, sha256 text, try integer, window_seconds double precision
) returns uuid
language plpgsql volatile set search_path = '' as $$
declare
  found_id uuid;
begin
  perform pg_advisory_xact_lock(hashtextextended(asking || ' ' || sha256, 0));
  if try > 0 then
    update private.submissions set retries = try
    where job_id = (
      select s.job_id from private.submissions s
      where s.credential = asking and s.request_sha256 = sha256
        and s.created_at > now() - make_interval(secs => window_seconds)
      order by (s.retries < try) desc, s.created_at desc limit 1
    )
    returning job_id into found_id;
    if found_id is not null then
      return found_id;
    end if;
  end if;
  insert into private.submissions (job_id, credential, request_sha256, retries)
  values (wanted, asking, sha256, try);
  return wanted;
end $$;
revoke all on function private.reserve_job from public;
grant execute on function private.reserve_job to gateway_service;
