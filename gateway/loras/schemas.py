"""What goes in and out of ``/v1/loras``."""

import datetime
from typing import Annotated, Literal, Self
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from gateway.jobs.schemas import Text
from gateway.loras.places import NAME_LIMIT, is_reference


def _no_reference(name: str) -> str:
    """A job names a LoRA by id, name or reference: none may pass for another."""
    if is_reference(name):
        raise ValueError("must not look like an address")
    try:
        UUID(name)
    except ValueError:
        return name
    raise ValueError("must not look like an id")


Name = Annotated[
    Text, Field(min_length=1, max_length=NAME_LIMIT, pattern=r"\S"), AfterValidator(_no_reference)
]
TriggerWords = Annotated[list[Annotated[Text, Field(min_length=1, max_length=100)]], Field(max_length=20)]
License = Annotated[Text, Field(max_length=100)]


class LoraSource(BaseModel):
    """A file that was sent (see `POST /v1/loras/uploads`), or where to fetch one."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"oneOf": [{"required": [name]} for name in ("upload_id", "url")]}
    )

    upload_id: UUID | None = None
    url: Annotated[Text, Field(min_length=1, max_length=2000)] | None = Field(
        default=None,
        description="`https://…`, `hf:<repository>[@<revision>]/<file>` or `civitai:<versionId>`.",
    )

    @model_validator(mode="after")
    def _named_once(self) -> Self:
        if (self.upload_id is None) == (self.url is None):
            raise ValueError("must have exactly one of upload_id and url")
        return self


class LoraCreate(BaseModel):
    """Without `trigger_words`, those that Civitai tells of its files."""

    model_config = ConfigDict(extra="forbid")

    name: Name
    source: LoraSource
    trigger_words: TriggerWords = []
    license: License | None = None


class LoraChange(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: Name | None = None
    trigger_words: TriggerWords | None = None


class LoraUploadCreate(BaseModel):
    """A safetensors file that is about to be sent."""

    model_config = ConfigDict(extra="forbid")

    filename: Annotated[Text, Field(min_length=1, max_length=255)]
    bytes: int = Field(ge=1, le=2**53)


class LoraError(BaseModel):
    code: str
    message: str


class Lora(BaseModel):
    """A registered LoRA. What the file is stands there once it is `ready`; `rank` is its largest."""

    object: Literal["lora"] = "lora"
    id: UUID
    name: str
    source: LoraSource
    status: Literal["pending", "ready", "failed"]
    trigger_words: list[str]
    license: str | None
    family: str | None
    base_model: str | None
    base_model_group: str | None
    models: list[str] = Field(description="Models that draw with it; the default one first.")
    rank: int | None
    has_alpha: bool | None
    modules: int | None
    key_format: str | None
    sha256: str | None
    bytes: int | None
    error: LoraError | None
    created_at: datetime.datetime
    updated_at: datetime.datetime


class LoraList(BaseModel):
    object: Literal["list"] = "list"
    data: list[Lora]
    has_more: bool
    first_id: UUID | None
    last_id: UUID | None
