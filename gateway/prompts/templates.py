"""``/v1/prompt-templates``: prompts with ``{{variables}}`` that users keep."""

import datetime
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, cast
from uuid import UUID

import psycopg
from fastapi import APIRouter, Depends, Query, Request, Response
from psycopg.rows import DictRow
from psycopg.types.json import Jsonb
from pydantic import BaseModel, ConfigDict, Field

from gateway.auth import AuthenticatedRoute, Generator, Principal, Reader
from gateway.db import Database
from gateway.errors import BadRequest, Conflict, NotFound
from gateway.jobs.schemas import PROMPT_LIMIT, Text

_VARIABLE = re.compile(r"\{\{\s*([A-Za-z_][A-Za-z0-9_]{0,63})\s*\}\}")

COLUMNS = "id, name, text, variables, defaults, version, created_at, updated_at"
LIST = f"""
select {COLUMNS} from public.prompt_templates t
where %(after)s::uuid is null or (t.created_at, t.id) < (
  select created_at, id from public.prompt_templates where id = %(after)s)
order by t.created_at desc, t.id desc limit %(limit)s
"""
GET = f"select {COLUMNS} from public.prompt_templates where id = %(id)s"
CREATE = f"""
insert into public.prompt_templates (user_id, name, text, variables, defaults)
values (%(user_id)s, %(name)s, %(text)s, %(variables)s, %(defaults)s) returning {COLUMNS}
"""
CHANGE = f"""
update public.prompt_templates
set name = coalesce(%(name)s, name), text = coalesce(%(text)s, text),
    variables = coalesce(%(variables)s, variables), defaults = coalesce(%(defaults)s, defaults)
where id = %(id)s returning {COLUMNS}
"""
DELETE = "delete from public.prompt_templates where id = %(id)s returning id"

router = APIRouter(route_class=AuthenticatedRoute, tags=["prompt templates"])

Name = Annotated[Text, Field(min_length=1, max_length=100)]
TemplateText = Annotated[Text, Field(min_length=1, max_length=10_000)]
Values = dict[Annotated[str, Field(max_length=64)], Annotated[Text, Field(max_length=PROMPT_LIMIT)]]


class TemplateCreate(BaseModel):
    """``text`` names variables as ``{{name}}``; ``defaults`` fill in those that a rendering leaves out."""

    model_config = ConfigDict(extra="forbid")

    name: Name
    text: TemplateText
    defaults: Values = {}


class TemplateChange(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: Name | None = None
    text: TemplateText | None = None
    defaults: Values | None = None


class RenderBody(BaseModel):
    model_config = ConfigDict(extra="forbid")

    variables: Values = {}


class Template(BaseModel):
    """``version`` grows with every other text."""

    object: Literal["prompt_template"] = "prompt_template"
    id: UUID
    name: str
    text: str
    variables: list[str]
    defaults: dict[str, str]
    version: int
    created_at: datetime.datetime
    updated_at: datetime.datetime


class TemplateList(BaseModel):
    object: Literal["list"] = "list"
    data: list[Template]
    has_more: bool
    first_id: UUID | None
    last_id: UUID | None


class Rendered(BaseModel):
    prompt: str
    template_id: UUID
    template_version: int


def variables_of(text: str) -> list[str]:
    """Names of a template's variables, each once, in the order of the text."""
    return list(dict.fromkeys(_VARIABLE.findall(text)))


def rendered(text: str, values: Mapping[str, str]) -> str:
    """The text with every variable replaced, once: a value that looks like a variable stays as it is."""
    return _VARIABLE.sub(lambda found: values[found[1]], text)


class Templates:
    """Templates as their owner, whose policies decide what there is."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def page(self, caller: Principal, after: UUID | None, limit: int) -> list[DictRow]:
        async with self._db.as_user(caller) as connection:
            return await (
                await connection.execute(LIST.encode(), {"after": after, "limit": limit})
            ).fetchall()

    async def get(self, caller: Principal, template_id: UUID) -> DictRow:
        return await self._one(caller, GET, {"id": template_id})

    async def create(self, caller: Principal, body: TemplateCreate) -> DictRow:
        values = {**body.model_dump(), "defaults": Jsonb(body.defaults), "variables": variables_of(body.text)}
        return await self._one(caller, CREATE, values | {"user_id": caller.user_id})

    async def change(self, caller: Principal, template_id: UUID, body: TemplateChange) -> DictRow:
        values = {
            "id": template_id,
            **body.model_dump(),
            "variables": None if body.text is None else variables_of(body.text),
            "defaults": None if body.defaults is None else Jsonb(body.defaults),
        }
        return await self._one(caller, CHANGE, values)

    async def delete(self, caller: Principal, template_id: UUID) -> None:
        await self._one(caller, DELETE, {"id": template_id})

    async def _one(self, caller: Principal, sql: str, values: dict[str, Any]) -> DictRow:
        try:
            async with self._db.as_user(caller) as connection:
                row = await (await connection.execute(sql.encode(), values)).fetchone()
        except psycopg.errors.UniqueViolation:
            raise Conflict(
                "There is a template of this name already.", code="name_taken", param="name"
            ) from None
        if row is None:
            raise NotFound("There is no such template.")
        return row


async def _templates(request: Request) -> Templates:
    return cast(Templates, request.app.state.templates)


Service = Annotated[Templates, Depends(_templates)]


@router.post("/v1/prompt-templates", status_code=201)
async def create_template(body: TemplateCreate, caller: Generator, service: Service) -> Template:
    """Keep a template."""
    return Template(**await service.create(caller, body))


@router.get("/v1/prompt-templates")
async def list_templates(
    caller: Reader,
    service: Service,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    after: UUID | None = None,
) -> TemplateList:
    """The caller's templates, newest first."""
    rows = await service.page(caller, after, limit + 1)
    data = [Template(**row) for row in rows[:limit]]
    return TemplateList(
        data=data,
        has_more=len(rows) > limit,
        first_id=data[0].id if data else None,
        last_id=data[-1].id if data else None,
    )


@router.get("/v1/prompt-templates/{template_id}")
async def get_template(template_id: UUID, caller: Reader, service: Service) -> Template:
    """One template."""
    return Template(**await service.get(caller, template_id))


@router.patch("/v1/prompt-templates/{template_id}")
async def change_template(
    template_id: UUID, body: TemplateChange, caller: Generator, service: Service
) -> Template:
    """Change what is given; another text or other defaults make the next version."""
    return Template(**await service.change(caller, template_id, body))


@router.delete("/v1/prompt-templates/{template_id}", status_code=204)
async def delete_template(template_id: UUID, caller: Generator, service: Service) -> Response:
    """Forget a template."""
    await service.delete(caller, template_id)
    return Response(status_code=204)


@router.post("/v1/prompt-templates/{template_id}/render")
async def render_template(template_id: UUID, body: RenderBody, caller: Reader, service: Service) -> Rendered:
    """The prompt with these variables; a variable without a value or a default is an error."""
    row = await service.get(caller, template_id)
    values = {**row["defaults"], **body.variables}
    missing = [name for name in row["variables"] if name not in values]
    if missing:
        raise BadRequest(
            f"This template needs a value for {', '.join(missing)}.",
            code="missing_variables",
            param="variables",
        )
    unknown = sorted(body.variables.keys() - set(row["variables"]))
    if unknown:
        raise BadRequest(
            f"This template has no variable {', '.join(unknown)}.",
            code="unknown_variables",
            param="variables",
        )
    prompt = rendered(row["text"], values)
    if len(prompt) > PROMPT_LIMIT:
        raise BadRequest(
            f"The prompt has {len(prompt)} characters; {PROMPT_LIMIT} are allowed.",
            code="prompt_too_long",
            param="variables",
        )
    return Rendered(prompt=prompt, template_id=row["id"], template_version=row["version"])
