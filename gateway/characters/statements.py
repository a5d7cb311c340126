"""Every statement about characters, written and named as SQL."""

from gateway.storage.deletions import COPIES_ASKED_FOR
from gateway.storage.keys import THUMBNAIL

ANNOUNCE = """
insert into private.outbox (job_id, user_id, kind, payload)
values (%(job_id)s, %(user_id)s, %(kind)s, %(payload)s)
on conflict (job_id, kind) do nothing
"""

# What becomes of a character's jobs.  Each locks the character first: it may be deleted at the same time.

KEEP_PROFILE = """
insert into public.character_profiles (character_id, color_palette, do_not_change, attributes, source)
select id, %(color_palette)s, %(do_not_change)s, %(attributes)s, %(source)s
from public.characters where id = %(id)s and deleted_at is null for no key update
on conflict (character_id) do update
set color_palette = excluded.color_palette, do_not_change = excluded.do_not_change,
    attributes = excluded.attributes, source = excluded.source
where character_profiles.edited_at is null
"""

KEEP_PICTURES = """
with character as (
  select id from public.characters where id = %(id)s and deleted_at is null for no key update
)
insert into public.character_images (
  id, character_id, kind, view, angle, asset_id, job_id, prompt, status, metrics, created_by)
select picture, character.id, %(kind)s, %(view)s, %(angle)s, picture, %(job_id)s, %(prompt)s, 'succeeded',
  %(metrics)s, %(user_id)s
from character, unnest(%(ids)s::uuid[]) as picture
on conflict (id) do nothing
"""

KEEP_FAILURE = """
insert into public.character_images (
  id, character_id, kind, angle, job_id, prompt, status, error, created_by)
select %(job_id)s, id, %(kind)s, %(angle)s, %(job_id)s, %(prompt)s, 'failed', %(error)s, %(user_id)s
from public.characters where id = %(id)s and deleted_at is null
on conflict (id) do nothing
"""


def _removed(reason: str) -> str:
    """A picture's files, to be removed by the worker: with its row goes its thumbnail."""
    return f"""gone as (
  update public.generated_assets a set deleted_at = now()
  from removed where a.id = removed.asset_id and a.deleted_at is null
  returning a.id, a.bucket, a.key, a.sha256
),
scheduled as (
  insert into private.deletions (bucket, key, reason)
  select bucket, file, '{reason}' from gone, unnest(array[key, key || '{THUMBNAIL}']) as file
  on conflict (bucket, key) do nothing
)"""


# Prompt and recipe stay: they are the history.
REPLACE_PICTURES = f"""
with removed as (
  update public.character_images set replaced_at = now(), is_selected = false
  where character_id = %(id)s and replaced_at is null and deleted_at is null
    and not id = any(%(ids)s::uuid[])
  returning asset_id
),
{_removed("character")}
select count(*) from removed
"""
# Drawn for a character that was deleted meanwhile.
DISCARD_PICTURES = f"""
with removed as (
  select asset_id from unnest(%(ids)s::uuid[]) as drawn (asset_id)
  where not exists (select from public.character_images i where i.asset_id = drawn.asset_id)
    and exists (select from public.characters where id = %(id)s and deleted_at is not null)
),
{_removed("character")}
select count(*) from removed
"""

# What users do.

CREATE = """
insert into public.characters (
  id, user_id, project_id, name, gender, age, ethnicity, style, source, upload_id, lora_id, description,
  consented_at, attributes, library_db_id, library_character_id, job_id, reference_image_workflow_ids)
values (
  %(id)s, %(user_id)s, %(project_id)s, %(name)s, %(gender)s, %(age)s, %(ethnicity)s, %(style)s, %(source)s,
  %(upload_id)s, %(lora_id)s, %(description)s, case when %(consent)s then now() end, %(attributes)s,
  %(library_db_id)s, %(library_character_id)s, %(job_id)s, %(workflow_ids)s)
"""

KEEP_RUN = """
insert into public.character_runs (character_id, style, run_token, job_id)
values (%(id)s, coalesce(%(style)s, ''), %(run_token)s, %(job_id)s)
"""

# A project that nobody gave a base model takes that of its first LoRA.
ADOPT_BASE_MODEL = """
update public.comic_projects set base_model_group = %(group)s
where id = %(project_id)s and base_model_group is null
"""

RUN_AGAIN = """
update public.characters
set job_id = %(job_id)s,
    reference_image_workflow_ids = reference_image_workflow_ids || %(workflow_ids)s
where id = %(id)s
"""

# A parent that was claimed has only been looked at: processing begins when a step of it does.
_CHARACTER = """
select c.*, to_jsonb(p) as profile,
  case when c.status = 'processing' and not exists (
    select from public.generation_jobs j where j.parent_id = c.job_id and j.status <> 'queued')
  then 'pending' else c.status end as state,
  (select j.version from public.generation_jobs j where j.id = c.job_id) as job_version,
  (select i.id from public.character_images i
   where i.character_id = c.id and i.is_selected) as selected_image_id,
  (select coalesce(jsonb_agg(jsonb_build_object(
      'id', i.id, 'kind', i.kind, 'view', i.view, 'asset_id', i.asset_id, 'created_at', i.created_at)
      order by i.created_at, i.id), '[]')
   from public.character_images i
   where i.character_id = c.id and i.kind in ('reference', 'variant', 'view') and i.status = 'succeeded'
     and i.replaced_at is null and i.deleted_at is null) as pictures
from public.characters c left join public.character_profiles p on p.character_id = c.id
"""

GET = f"{_CHARACTER.strip()} where c.id = %(id)s and c.deleted_at is null"

PAGE = f"""
{_CHARACTER.strip()}
where c.deleted_at is null
  and (%(after)s::uuid is null or (c.created_at, c.id) < (
    select created_at, id from public.characters where id = %(after)s))
order by c.created_at desc, c.id desc
limit %(limit)s
"""

OWN = "select id, user_id, deleted_at from public.characters where id = %(id)s"

MAY_EDIT_PROJECT = """
select 1 as may from public.project_members
where project_id = %(id)s and user_id = (select auth.uid()) and role >= 'editor'
"""

EDIT = """
update public.characters
set name = coalesce(%(name)s, name), gender = coalesce(%(gender)s, gender), age = coalesce(%(age)s, age),
    ethnicity = coalesce(%(ethnicity)s, ethnicity), attributes = %(attributes)s
where id = %(id)s and user_id = (select auth.uid()) and deleted_at is null
returning id
"""

EDIT_PROFILE = """
update public.character_profiles
set color_palette = coalesce(%(color_palette)s::text[], color_palette),
    do_not_change = coalesce(%(do_not_change)s::text[], do_not_change),
    attributes = attributes || %(traits)s, edited_at = now()
where character_id = %(id)s
  and (%(color_palette)s::text[] is not null or %(do_not_change)s::text[] is not null
    or %(traits)s <> '{}'::jsonb)
"""

# Nobody sees the character from now on; what was known of it is forgotten, what was asked for stays.
DELETE = """
update public.characters
set deleted_at = now(), gender = null, age = null, ethnicity = null, attributes = '{}',
    description = case when description is null then null else '' end,
    library_db_id = null, library_character_id = null
where id = %(id)s and user_id = %(user_id)s and deleted_at is null
returning id
"""

FORGET_PROFILE = """
update public.character_profiles
set color_palette = '{}', do_not_change = '{}', attributes = '{}', edited_at = now()
where character_id = %(id)s
"""

DELETE_PICTURES = f"""
with removed as (
  update public.character_images set deleted_at = now(), is_selected = false
  where character_id = %(id)s and deleted_at is null
  returning asset_id
),
{_removed("character")}
select bucket, key from gone
"""

PHOTO_TO_DELETE = """
select c.upload_id from public.characters c
where c.id = %(id)s and c.upload_id is not null and not exists (
  select from public.characters other
  where other.upload_id = c.upload_id and other.id <> c.id and other.deleted_at is null)
"""

LIVING_JOBS = """
select id from public.generation_jobs
where user_id = %(user_id)s and parent_id is null and wake_at is not null
  and inputs ->> 'character_id' = %(id)s::text
"""

# Pictures of a character.

_LIVE = "i.replaced_at is null and i.deleted_at is null"

IMAGES = """
select i.* from public.character_images i
where i.character_id = %(id)s and i.deleted_at is null
  and (%(kind)s::text is null or i.kind = %(kind)s)
  and (i.replaced_at is null or %(replaced)s)
  and (%(after)s::uuid is null or (i.created_at, i.id) < (
    select created_at, id from public.character_images where id = %(after)s))
order by i.created_at desc, i.id desc
limit %(limit)s
"""

OF_JOBS = f"""
select i.* from public.character_images i
where i.character_id = %(id)s and i.job_id = any(%(jobs)s) and {_LIVE}
order by i.angle, i.created_at, i.id
"""

IMAGE = """
select i.* from public.character_images i
where i.character_id = %(id)s and i.id = %(image_id)s and i.deleted_at is null
"""

HAS_REFERENCE = f"""
select i.id from public.character_images i
where i.character_id = %(id)s and i.kind = 'reference' and i.status = 'succeeded' and {_LIVE} limit 1
"""

ASSETS = "select * from public.generated_assets where id = any(%(ids)s)"

LOCK = (
    "select id from public.characters where id = %(id)s and user_id = (select auth.uid()) for no key update"
)

UNSELECT = (
    "update public.character_images set is_selected = false where character_id = %(id)s and is_selected"
)

SELECT = f"""
update public.character_images i set is_selected = true
where i.character_id = %(id)s and i.id = %(image_id)s and i.status = 'succeeded' and {_LIVE}
returning i.*
"""

DELETE_PICTURE = f"""
with removed as (
  update public.character_images set deleted_at = now(), is_selected = false
  where character_id = %(id)s and id = %(image_id)s and deleted_at is null
  returning asset_id
),
{_removed(COPIES_ASKED_FOR)}
select bucket, key, sha256 from gone
"""
