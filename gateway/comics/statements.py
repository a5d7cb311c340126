"""Every statement about comics, written and named as SQL.

Whatever changes positions locks the row above first: the project for chapters, the chapter for panels.
"""

_ROLE = """
(select m.role from public.project_members m
 where m.project_id = p.id and m.user_id = (select auth.uid()))
"""

COMIC = f"""
select p.*, {_ROLE.strip()} as role,
  (select count(*) from public.comic_chapters c where c.project_id = p.id) as chapter_count,
  (select count(*) from public.comic_chapters c join public.comic_panels a on a.chapter_id = c.id
   where c.project_id = p.id) as panel_count
from public.comic_projects p where p.id = %(id)s
"""

COMICS = f"""
select p.*, {_ROLE.strip()} as role, coalesce(n.chapters, 0) as chapter_count,
  coalesce(n.panels, 0) as panel_count
from public.comic_projects p left join lateral (
  select count(distinct c.id) as chapters, count(a.id) as panels
  from public.comic_chapters c left join public.comic_panels a on a.chapter_id = c.id
  where c.project_id = p.id) n on true
where %(after)s::uuid is null or (p.created_at, p.id) < (
  select created_at, id from public.comic_projects where id = %(after)s)
order by p.created_at desc, p.id desc limit %(limit)s
"""

_CAST = """
array(select k.character_id from public.panel_characters k where k.panel_id = a.id order by k.position)
"""

TREE = f"""
with panels as (
  select a.*, {_CAST.strip()} as character_ids
  from public.comic_panels a join public.comic_chapters c on c.id = a.chapter_id
  where c.project_id = %(id)s
)
select p.*, {_ROLE.strip()} as role,
  (select count(*) from panels) as panel_count,
  (select coalesce(jsonb_agg(to_jsonb(c) || jsonb_build_object('panels', (
      select coalesce(jsonb_agg(to_jsonb(a) order by a.position), '[]') from panels a
      where a.chapter_id = c.id)) order by c.position), '[]')
   from public.comic_chapters c where c.project_id = p.id) as chapters
from public.comic_projects p where p.id = %(id)s
"""

CREATE_COMIC = """
insert into public.comic_projects (user_id, name, base_model, base_model_group, style)
values (%(user_id)s, %(name)s, %(base_model)s, %(base_model_group)s, %(style)s) returning id
"""

CHANGE_COMIC = """
update public.comic_projects
set name = coalesce(%(name)s, name), base_model = coalesce(%(base_model)s, base_model),
    base_model_group = coalesce(%(base_model_group)s, base_model_group), style = coalesce(%(style)s, style)
where id = %(id)s returning id
"""

DELETE_COMIC = "delete from public.comic_projects where id = %(id)s returning id"

# Members

MEMBERS = """
select user_id, role, created_at from public.project_members where project_id = %(id)s
order by role desc, created_at, user_id
"""

ADD_MEMBER = """
insert into public.project_members (project_id, user_id, role)
values (%(id)s, %(user_id)s, %(role)s::public.project_role)
on conflict (project_id, user_id) do update set role = excluded.role
returning user_id, role, created_at
"""

REMOVE_MEMBER = """
delete from public.project_members where project_id = %(id)s and user_id = %(user_id)s returning user_id
"""

# Chapters

LOCK_COMIC = "select id from public.comic_projects where id = %(id)s for no key update"

CHAPTER = "select * from public.comic_chapters where id = %(id)s"

CREATE_CHAPTER = """
insert into public.comic_chapters (project_id, name, position)
select %(id)s, coalesce(%(name)s, 'Chapter ' || n), n
from (select count(*) + 1 as n from public.comic_chapters where project_id = %(id)s) here
returning *
"""

CHANGE_CHAPTER = "update public.comic_chapters set name = %(name)s where id = %(id)s returning *"

DELETE_CHAPTER = "delete from public.comic_chapters where id = %(id)s returning project_id"

CHAPTER_ORDER = "select id from public.comic_chapters where project_id = %(id)s order by position"

ORDER_CHAPTERS = """
update public.comic_chapters c set position = wanted.n
from unnest(%(ids)s::uuid[]) with ordinality as wanted (id, n)
where c.id = wanted.id and c.project_id = %(id)s and c.position <> wanted.n
"""

# Names of characters as far as the caller sees them: another member's are not theirs to read.
DRIFT = """
select c.id, c.project_id,
  (select coalesce(jsonb_agg(jsonb_build_object('id', a.id, 'position', a.position, 'status', a.status,
      'consistency', a.consistency, 'attempts', a.attempts) order by a.position), '[]')
   from public.comic_panels a where a.chapter_id = c.id) as panels,
  (select coalesce(jsonb_object_agg(who.id, who.name), '{}') from public.characters who
   where who.id in (
     select k.character_id from public.panel_characters k join public.comic_panels a on a.id = k.panel_id
     where a.chapter_id = c.id)) as names
from public.comic_chapters c where c.id = %(id)s
"""

# Panels

LOCK_CHAPTERS = """
select id, project_id from public.comic_chapters where id = any(%(ids)s) order by id for no key update
"""

PANEL = f"""
select a.*, c.project_id, {_CAST.strip()} as character_ids
from public.comic_panels a join public.comic_chapters c on c.id = a.chapter_id
where a.id = %(id)s
"""

PANEL_ORDER = "select id from public.comic_panels where chapter_id = %(id)s order by position"

ORDER_PANELS = """
update public.comic_panels a set position = wanted.n
from unnest(%(ids)s::uuid[]) with ordinality as wanted (id, n)
where a.id = wanted.id and a.chapter_id = %(id)s and a.position <> wanted.n
"""

CHANGE_PANEL = """
update public.comic_panels set prompt = coalesce(%(prompt)s, prompt),
  caption = case when %(caption)s::text is null then caption else nullif(%(caption)s, '') end
where id = %(id)s returning id
"""

MOVE_PANEL = """
update public.comic_panels set chapter_id = %(chapter_id)s, position = (
  select coalesce(max(position), 0) + 1 from public.comic_panels where chapter_id = %(chapter_id)s)
where id = %(id)s
"""

DELETE_PANEL = "delete from public.comic_panels where id = %(id)s returning id"

# Of the chapter, in its order: what an enhancement is told of the story so far.
EARLIER = """
select coalesce(enhanced_prompt, prompt) as prompt from public.comic_panels
where chapter_id = %(chapter_id)s and (%(before)s::int is null or position < %(before)s)
order by position
"""

COMIC_OF_CHAPTER = f"""
select p.*, {_ROLE.strip()} as role from public.comic_projects p
join public.comic_chapters c on c.project_id = p.id where c.id = %(id)s
"""

PANEL_OF_JOB = f"""
select a.*, c.project_id, {_CAST.strip()} as character_ids
from public.comic_panels a join public.comic_chapters c on c.id = a.chapter_id
where a.job_id = %(job_id)s and c.project_id = %(project_id)s
"""

# As the service, in the transaction that makes a panel's job.

LOCK_CHAPTER = "select id from public.comic_chapters where id = %(chapter_id)s for no key update"

CREATE_PANEL = """
insert into public.comic_panels (
  id, chapter_id, position, prompt, caption, mode, enhance, style, seed, max_cost_usd_micros, job_id)
select %(id)s, %(chapter_id)s, count(*) + 1, %(prompt)s, %(caption)s, %(mode)s, %(enhance)s, %(style)s,
  %(seed)s, %(max_cost_usd_micros)s, %(job_id)s
from public.comic_panels where chapter_id = %(chapter_id)s
"""

CREATE_CAST = """
insert into public.panel_characters (panel_id, character_id, position)
select %(id)s, who.id, who.n - 1 from unnest(%(character_ids)s::uuid[]) with ordinality as who (id, n)
"""

DRAW_AGAIN = "update public.comic_panels set job_id = %(job_id)s where id = %(id)s"

# As the service, in the transaction that ends a panel's job, or the retry of the panel's job.

KEEP_PANEL = """
update public.comic_panels
set job_id = %(job_id)s, image_id = coalesce(%(image_id)s, image_id),
    enhanced_prompt = coalesce(%(enhanced_prompt)s, enhanced_prompt),
    consistency = coalesce(%(consistency)s, consistency), attempts = %(attempts)s
where id = %(id)s and (job_id = %(job_id)s or job_id = %(retry_of)s)
"""

DISCARD_PICTURE = """
with gone as (
  update public.generated_assets a set deleted_at = now()
  where a.job_id = %(job_id)s and a.deleted_at is null
    and not exists (select from public.comic_panels p where p.image_id = a.id)
  returning bucket, key
)
insert into private.deletions (bucket, key, reason)
select bucket, file, 'panel' from gone, unnest(array[key, key || '.thumbnail.webp']) as file
on conflict (bucket, key) do nothing
"""

JOB_OWNER = "select user_id from public.generation_jobs where id = %(id)s and wake_at is not null"

ANNOUNCE = """
insert into private.outbox (job_id, user_id, kind, payload)
values (%(job_id)s, %(user_id)s, %(kind)s, %(payload)s)
on conflict (job_id, kind) do nothing
"""

# As the service: panels that were deleted, and come back at the end of their chapter or where they stood.

DELETED_PANEL = """
select project_id, (panel ->> 'chapter_id')::uuid as chapter_id, (panel ->> 'position')::int as position
from private.deleted_panels where panel_id = %(id)s
"""

# A panel whose picture was still to come has lost its job: nobody draws it any more.
RESTORE_PANEL = """
with gone as (
  delete from private.deleted_panels where panel_id = %(id)s returning panel, character_ids
),
old as (
  select p.*, g.character_ids from gone g, jsonb_populate_record(null::public.comic_panels, g.panel) p
),
called_off as (
  delete from private.deletions d using public.generated_assets a, old
  where a.id = old.image_id and a.deleted_at is not null
    and d.bucket = a.bucket and d.key in (a.key, a.key || '.thumbnail.webp') and d.attempts = 0
  returning d.key
),
picture as (
  update public.generated_assets a set deleted_at = null
  from old where a.id = old.image_id and a.purged_at is null and a.key in (select key from called_off)
  returning a.id
),
whole as (
  select old.*, picture.id as shown, picture.id is null and (status in ('generating', 'ready')
    or (status = 'pending' and job_id is not null)) as lost
  from old left join picture on true
),
back as (
  insert into public.comic_panels (
    id, chapter_id, position, prompt, caption, mode, enhance, style, seed, max_cost_usd_micros, status,
    job_id, image_id, enhanced_prompt, consistency, attempts, error_code, error_message, created_at)
  select id, chapter_id,
    (select count(*) + 1 from public.comic_panels p where p.chapter_id = whole.chapter_id),
    prompt, caption, mode, enhance, style, seed, max_cost_usd_micros,
    case when lost then 'failed' else status end, case when not lost then job_id end, shown,
    enhanced_prompt, consistency, attempts,
    case when lost then 'deleted_while_drawn' else error_code end,
    case when lost then 'The panel was deleted before its picture was there.' else error_message end,
    created_at
  from whole
)
insert into public.panel_characters (panel_id, character_id, position)
select old.id, c.id, row_number() over (order by who.n) - 1
from old, unnest(old.character_ids) with ordinality as who (id, n)
join public.characters c on c.id = who.id
"""

FORGET_DELETED = "delete from private.deleted_panels where deleted_at < now() - interval '7 days'"

# As the service: what of a panel its readers may not read themselves.

ASSETS = "select * from public.generated_assets where id = any(%(ids)s) and deleted_at is null"
