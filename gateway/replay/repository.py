"""What is known of a picture, and whose files have a hash: every statement, written and named as SQL."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from psycopg.rows import DictRow

from gateway.auth import Principal
from gateway.db import Database

# The prompt of a picture was written for the call that drew it, and its key may name that call too, as
# user/job/seq-attempt-n.  Of a call that was made again, the last attempt drew.
DRAWN = r"""
select a.id, a.job_id, a.n, a.bucket, a.key, a.sha256, a.width, a.height, a.content_type, a.visibility,
  a.kind, j.prompt_input, j.prompt_enhanced, j.prompt_final, j.prompt_negative, j.enhance_status, j.style,
  j.params, j.inputs, c.task, c.request, c.result, c.fingerprint, p.template_version as style_version,
  p.id is not null as has_artifact, p.input, p.enhanced, p.final, p.negative,
  p.enhance_status as artifact_status
from public.generated_assets a
join public.generation_jobs j on j.id = a.job_id
left join public.prompt_artifacts p on p.id = a.prompt_artifact_id
left join lateral (
  select c.task, c.request, c.result, c.fingerprint from private.generation_calls c
  where c.job_id = a.job_id and c.status = 'succeeded'
    and c.seq = coalesce((regexp_match(a.key, '/(\d+)-\d+-\d+\.'))[1]::int, p.seq)
    and c.attempt = coalesce((regexp_match(a.key, '/\d+-(\d+)-\d+\.'))[1]::int, c.attempt)
  order by c.attempt desc limit 1
) c on true
where a.id = %(id)s and a.user_id = %(user_id)s and a.deleted_at is null
"""

# An upload before a picture before a LoRA: any of them holds the same bytes.
FILES = """
select distinct on (sha256) sha256, name, bucket, key from (
  select sha256, jsonb_build_object('upload_id', id) as name, bucket, key, 1 as place from public.uploads
  where user_id = %(user_id)s and sha256 = any(%(hashes)s) and status = 'ready' and deleted_at is null
  union all
  select sha256, jsonb_build_object('image_id', id), bucket, key, 2 from public.generated_assets
  where user_id = %(user_id)s and sha256 = any(%(hashes)s) and deleted_at is null
  union all
  select sha256, jsonb_build_object('lora', id, 'name', name), bucket, key, 3 from public.loras
  where user_id = %(user_id)s and sha256 = any(%(hashes)s) and status = 'ready' and deleted_at is null
) as found order by sha256, place
"""

OF_FILE = """
select id, job_id, visibility from public.generated_assets
where user_id = %(user_id)s and sha256 = %(sha256)s and deleted_at is null
order by visibility limit 1
"""


class ReplayRows:
    """All of one user's: each statement says whose."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def drawn(self, caller: Principal, image_id: UUID) -> DictRow | None:
        """A picture with its job, its call where that is known, and its prompts."""
        return await self._db.one(DRAWN, {"id": image_id, "user_id": caller.user_id})

    async def files(self, caller: Principal, hashes: Sequence[str]) -> dict[str, dict[str, Any]]:
        """The caller's files by their hash, as a job's row names them."""
        if not hashes:
            return {}
        rows = await self._db.all(FILES, {"user_id": caller.user_id, "hashes": list(hashes)})
        return {
            row["sha256"]: {**row["name"], **{name: row[name] for name in ("bucket", "key", "sha256")}}
            for row in rows
        }

    async def of_file(self, caller: Principal, sha256: str) -> DictRow | None:
        """The caller's picture with these bytes: its id, job and visibility."""
        return await self._db.one(OF_FILE, {"user_id": caller.user_id, "sha256": sha256})
