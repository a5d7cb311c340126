"""LoRAs as rows. Users read and name their own; what a file is, is the gateway's word."""

from typing import Any
from uuid import UUID

from psycopg.rows import DictRow

from gateway.auth import Principal
from gateway.db import Database

COLUMNS = """
  id, user_id, name, source, source_ref, trigger_words, license, status, family, base_model, base_model_group,
  rank, has_alpha, modules, key_format, sha256, bytes, bucket, key, error_code, error_message, created_at,
  updated_at, deleted_at
"""
LEASED = f"{COLUMNS}, attempt"

GET = f"select {COLUMNS} from public.loras where id = %(id)s and deleted_at is null"

LIST = f"""
select {COLUMNS} from public.loras l
where deleted_at is null and (%(after)s::uuid is null or (l.created_at, l.id) < (
  select created_at, id from public.loras where id = %(after)s))
order by created_at desc, id desc limit %(limit)s
"""

# Whichever way it is named: the id goes before the name, and that before where it came from.
FIND = f"""
select {COLUMNS} from public.loras
where user_id = (select auth.uid()) and deleted_at is null
  and (id::text = lower(%(reference)s) or name = %(reference)s
       or (source_ref = %(reference)s and source <> 'upload'))
order by
  id::text = lower(%(reference)s) desc, name = %(reference)s desc, status = 'ready' desc, created_at desc
limit 1
"""

CHANGE = f"""
update public.loras
set name = coalesce(%(name)s, name), trigger_words = coalesce(%(trigger_words)s, trigger_words)
where id = %(id)s and deleted_at is null returning {COLUMNS}
"""

DELETE = f"""
update public.loras set deleted_at = now() where id = %(id)s and deleted_at is null returning {COLUMNS}
"""

CREATE = f"""
with reserved as (
  insert into private.idempotency_keys (user_id, key, request_sha256, job_id)
  select %(user_id)s, %(idempotency_key)s, %(request_sha256)s, %(id)s
  where %(idempotency_key)s::text is not null
  on conflict (user_id, key) do nothing
  returning job_id
)
insert into public.loras (
  id, user_id, name, source, source_ref, trigger_words, license, leased_until, attempt
)
select
  %(id)s, %(user_id)s, %(name)s, %(source)s, %(source_ref)s, %(trigger_words)s, %(license)s,
  now() + make_interval(secs => %(lease)s), 1
where %(idempotency_key)s::text is null or exists (select from reserved)
returning {LEASED}
"""

FIRST_REQUEST = """
select request_sha256, job_id as lora_id from private.idempotency_keys
where user_id = %(user_id)s and key = %(key)s
"""

STATE = f"select {COLUMNS} from public.loras where id = %(id)s"

CLAIM = f"""
with due as (
  select id from public.loras
  where status = 'pending' and deleted_at is null and leased_until <= now()
  order by created_at limit %(limit)s for update skip locked
)
update public.loras l
set leased_until = now() + make_interval(secs => %(lease)s), attempt = l.attempt + 1
from due where l.id = due.id
returning {", ".join(f"l.{name.strip()}" for name in LEASED.split(","))}
"""

RENEW = """
update public.loras set leased_until = now() + make_interval(secs => %(lease)s)
where id = %(id)s and attempt = %(attempt)s and status = 'pending' and deleted_at is null
returning id
"""

READY = """
update public.loras
set status = 'ready', family = %(family)s, base_model = %(base_model)s,
    base_model_group = %(base_model_group)s, rank = %(rank)s, has_alpha = %(has_alpha)s,
    modules = %(modules)s, key_format = %(key_format)s,
    sha256 = %(sha256)s, bytes = %(bytes)s, bucket = %(bucket)s, key = %(key)s,
    trigger_words = case when trigger_words = '{}' then %(trigger_words)s else trigger_words end
where id = %(id)s and attempt = %(attempt)s and status = 'pending' and deleted_at is null
returning id
"""

FAIL = """
update public.loras set status = 'failed', error_code = %(code)s, error_message = %(message)s
where id = %(id)s and attempt = %(attempt)s and status = 'pending'
"""

DISCARD = """
update public.loras set deleted_at = now()
where id = %(id)s and status = 'failed' and deleted_at is null
"""


class LoraRows:
    """Each method sends one statement."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def get(self, caller: Principal, lora_id: UUID) -> DictRow | None:
        return await self._own(caller, GET, {"id": lora_id})

    async def find(self, caller: Principal, reference: str) -> DictRow | None:
        """By id, name, or where it came from."""
        return await self._own(caller, FIND, {"reference": reference})

    async def page(self, caller: Principal, after: UUID | None, limit: int) -> list[DictRow]:
        async with self._db.as_user(caller) as connection:
            return await (
                await connection.execute(LIST.encode(), {"after": after, "limit": limit})
            ).fetchall()

    async def change(self, caller: Principal, lora_id: UUID, values: dict[str, Any]) -> DictRow | None:
        return await self._own(caller, CHANGE, {"id": lora_id, **values})

    async def delete(self, caller: Principal, lora_id: UUID) -> DictRow | None:
        return await self._own(caller, DELETE, {"id": lora_id})

    async def create(self, values: dict[str, Any]) -> DictRow | None:
        """The new row, leased; None when the idempotency key was used before."""
        return await self._db.one(CREATE, values)

    async def first_request(self, user_id: UUID, key: str) -> DictRow | None:
        """Hash and LoRA of the first request with this idempotency key."""
        return await self._db.one(FIRST_REQUEST, {"user_id": user_id, "key": key})

    async def state(self, lora_id: UUID) -> DictRow:
        """As it is now, deleted or not."""
        row = await self._db.one(STATE, {"id": lora_id})
        assert row is not None
        return row

    async def claim(self, limit: int, lease: float) -> list[DictRow]:
        """Pending LoRAs that nobody is fetching."""
        return await self._db.all(CLAIM, {"limit": limit, "lease": lease})

    async def renew(self, row: DictRow, lease: float) -> bool:
        """False when the lease was lost, or the LoRA deleted."""
        return await self._db.one(RENEW, _fence(row) | {"lease": lease}) is not None

    async def ready(self, row: DictRow, facts: dict[str, Any]) -> bool:
        return await self._db.one(READY, facts | _fence(row)) is not None

    async def fail(self, row: DictRow, code: str, message: str) -> None:
        await self._db.do(FAIL, _fence(row) | {"code": code, "message": message})

    async def discard(self, lora_id: UUID) -> None:
        """A LoRA that was refused leaves its name free."""
        await self._db.do(DISCARD, {"id": lora_id})

    async def _own(self, caller: Principal, statement: str, values: dict[str, Any]) -> DictRow | None:
        async with self._db.as_user(caller) as connection:
            return await (await connection.execute(statement.encode(), values)).fetchone()


def _fence(row: DictRow) -> dict[str, Any]:
    return {"id": row["id"], "attempt": row["attempt"]}
