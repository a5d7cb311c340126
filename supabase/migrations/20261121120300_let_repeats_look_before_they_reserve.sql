-- Without a wanted id the function only looks: null where no try of the request has been here.
create or replace function private.reserve_job(
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
      left join public.generation_jobs j on j.id = s.job_id and j.status in ('queued', 'processing')
      where s.credential = asking and s.request_sha256 = sha256
        and (s.created_at > now() - make_interval(secs => window_seconds) or j.id is not null)
      order by (s.retries < try) desc, s.created_at desc limit 1
    )
    returning job_id into found_id;
    if found_id is not null then
      return found_id;
    end if;
  end if;
  if wanted is not null then
    insert into private.submissions (job_id, credential, request_sha256, retries)
    values (wanted, asking, sha256, try);
  end if;
  return wanted;
end $$;
