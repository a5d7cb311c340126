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

# As the service: what of a panel its readers may not read themselves.

ASSETS = "select * from public.generated_assets where id = any(%(ids)s) and deleted_at is null"
