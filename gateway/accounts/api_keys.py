"""``/v1/api-keys``: users make, see and revoke their own keys."""

import datetime
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from psycopg.rows import DictRow
from pydantic import BaseModel, ConfigDict, Field

from gateway.auth import AuthenticatedRoute, Authenticator, Generator, Principal, Reader, key_sha256, new_key
from gateway.db import Database
from gateway.errors import Forbidden, NotFound

PREFIX_CHARACTERS = 7
"""Enough of a key to tell it from others."""

LIST = """
select id, name, prefix, scopes, created_at from public.api_keys k
where revoked_at is null
  and (%(after)s::uuid is null or (k.created_at, k.id) < (
    select created_at, id from public.api_keys where id = %(after)s))
order by created_at desc, id desc
limit %(limit)s
"""
ADD = """
insert into public.api_keys (user_id, name, prefix, sha256, scopes)
values (%(user_id)s, %(name)s, %(prefix)s, %(sha256)s, %(scopes)s)
returning id, name, prefix, scopes, created_at
"""
REVOKE = """
update public.api_keys set revoked_at = now()
where id = %(id)s and user_id = %(user_id)s and revoked_at is null
returning id
"""

router = APIRouter(route_class=AuthenticatedRoute, tags=["API keys"])

Scope = Literal["generate", "read", "admin"]


class ApiKeyCreate(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str = Field(default="", max_length=100, pattern=r"^[^\x00]*$")
    scopes: list[Scope] = Field(min_length=1, max_length=3, description="None that the caller lacks.")


class ApiKey(BaseModel):
    object: Literal["api_key"] = "api_key"
    id: UUID
    name: str
    prefix: str = Field(description="The first characters of the key.")
    scopes: list[Scope]
    created_at: datetime.datetime


class NewApiKey(ApiKey):
    key: str = Field(description="The key itself, told this once.")


class ApiKeyList(BaseModel):
    object: Literal["list"] = "list"
    data: list[ApiKey]
    has_more: bool
    first_id: UUID | None
    last_id: UUID | None


@router.get("/v1/api-keys")
async def list_api_keys(
    request: Request,
    caller: Reader,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    after: UUID | None = None,
) -> ApiKeyList:
    """The caller's keys, newest first, without those that were revoked."""
    rows = await _page(_db(request), caller, limit + 1, after)
    data = [ApiKey.model_validate(row) for row in rows[:limit]]
    return ApiKeyList(
        data=data,
        has_more=len(rows) > limit,
        first_id=data[0].id if data else None,
        last_id=data[-1].id if data else None,
    )


@router.post("/v1/api-keys", status_code=201)
async def create_api_key(
    request: Request, response: Response, body: ApiKeyCreate, caller: Generator
) -> NewApiKey:
    """Make a key. It is told this once, so a repeated request makes another one."""
    if missing := sorted(set(body.scopes) - caller.scopes):
        raise Forbidden(
            f"A key cannot have more rights than its maker: {', '.join(missing)}.", param="scopes"
        )
    key = new_key()
    row = await _db(request).one(
        ADD,
        {
            **{"user_id": caller.user_id, "name": body.name, "scopes": sorted(set(body.scopes))},
            **{"prefix": key[:PREFIX_CHARACTERS], "sha256": key_sha256(key)},
        },
    )
    assert row is not None
    response.headers["Cache-Control"] = "no-store"
    return NewApiKey(**row, key=key)


@router.delete("/v1/api-keys/{key_id}", status_code=204)
async def revoke_api_key(request: Request, key_id: UUID, caller: Generator) -> Response:
    """Revoke a key. This gateway refuses it at once, others within ten seconds."""
    if await _db(request).one(REVOKE, {"id": key_id, "user_id": caller.user_id}) is None:
        raise NotFound(f"There is no API key {key_id}.")
    authenticator: Authenticator = request.app.state.authenticator
    authenticator.api_keys.forget(key_id)
    return Response(status_code=204)


async def _page(db: Database, caller: Principal, limit: int, after: UUID | None) -> list[DictRow]:
    async with db.as_user(caller) as connection:
        return await (await connection.execute(LIST, {"limit": limit, "after": after})).fetchall()


def _db(request: Request) -> Database:
    db: Database = request.app.state.db
    return db
