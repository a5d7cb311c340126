-- Whatever statement makes jobs reserves their bound, or makes none of them. A trigger, so that no way to
-- make a job can forget to.
--
-- The lock is a statement of its own, before the sums: a statement sees what was committed when it began, so
-- one that waited for the lock and summed up would miss what the other had reserved. Users without a
-- budget lock nothing.
create function private.reserve_costs() returns trigger
language plpgsql set search_path = '' as $$
declare
  over record;
  limited boolean;
begin
  perform from public.budgets where user_id in (select user_id from created)
  order by user_id, set_by for update;
  limited := found;

  insert into private.ledger (user_id, job_id, kind, usd_micros, images, gpu_seconds, counted_at)
  select user_id, id, 'reserve', greatest(reserved_usd_micros, estimated_usd_micros),
    case when task in ('image', 'upscale') then num_images else 0 end, reserved_gpu_seconds, created_at
  from created;
  if not limited then
    return null;
  end if;

  select u.*, coalesce(u.spent_usd_micros + u.reserved_usd_micros > u.limit_usd_micros, false) as over_budget
  into over
  from private.budget_use u
  where u.user_id in (select user_id from created)
    and (u.spent_usd_micros + u.reserved_usd_micros > u.limit_usd_micros
      or u.images_today > u.max_images_per_day or u.gpu_seconds_today > u.max_gpu_seconds_per_day)
  order by over_budget desc, u.set_by limit 1;
  if found then
    raise exception 'over budget' using errcode = 'TK402', detail = to_json(over)::text;
  end if;
  return null;
end $$;
revoke all on function private.reserve_costs() from public;

create trigger reserve_costs after insert on public.generation_jobs
  referencing new table as created for each statement execute function private.reserve_costs();
