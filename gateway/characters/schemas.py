"""What goes in and out of ``/v1/characters``."""

import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import AfterValidator, AliasChoices, BaseModel, ConfigDict, Field

from gateway.characters.profiles import INVARIANTS_MAX
from gateway.characters.prompts import ANGLES
from gateway.jobs.schemas import Prompt, says_something, storable

Kind = Literal["reference", "view", "portfolioItem", "scene", "variant", "panel"]
View = Literal["front", "side", "back"]
Status = Literal["pending", "processing", "ready", "failed"]


Words = Annotated[
    str,
    AfterValidator(storable),
    AfterValidator(says_something),
    Field(json_schema_extra={"pattern": r"\S"}),
]
Name = Annotated[Words, Field(max_length=100)]
Short = Annotated[Words, Field(max_length=50)]
Trait = Annotated[Words, Field(max_length=200)]
ExternalId = Annotated[str, Field(max_length=200), AfterValidator(storable)]
Age = Short | Annotated[int, Field(ge=0, le=100_000)]
Angle = Annotated[int, Field(ge=0, le=359)]


class Attributes(BaseModel):
    """What is known of a character's looks: beside the named fields, any trait in words."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Trait] = Field(init=False)

    do_not_change: list[Trait] | None = Field(default=None, max_length=INVARIANTS_MAX)
    color_palette: list[Short] | None = Field(default=None, max_length=16)
    opening: Trait | None = None
    """Takes the place of "Child portrait, friendly lighting, full body" in the portrait's prompt."""

    @property
    def traits(self) -> dict[str, str]:
        return dict(self.__pydantic_extra__ or {})


class CharacterCreate(BaseModel):
    """A photo needs ``upload_id`` and ``consent: true``, a LoRA ``lora``, a description ``description``."""

    model_config = ConfigDict(extra="forbid")

    name: Name
    gender: Short | None = None
    age: Age | None = None
    ethnicity: Short | None = None
    style: Short | None = None
    source: Literal["photo", "lora", "description"]
    upload_id: UUID | None = None
    consent: bool = False
    lora: Trait | None = None
    description: Prompt | None = None
    attributes: Attributes = Attributes()
    project_id: UUID | None = None
    library_db_id: ExternalId | None = None
    library_character_id: ExternalId | None = None
    run_token: Annotated[str, Field(min_length=1, max_length=255), AfterValidator(storable)] | None = None
    """As ``Idempotency-Key``, for callers that can send no headers."""


class CharacterEdit(BaseModel):
    """What is left out stays as it is; ``attributes`` is another name of ``profile``."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    name: Name | None = None
    gender: Short | None = None
    age: Age | None = None
    ethnicity: Short | None = None
    profile: Attributes = Field(default=Attributes(), validation_alias=AliasChoices("profile", "attributes"))


class InitialImage(BaseModel):
    """The typed prompt goes to the model as it is; without one, the suggested prompt does."""

    model_config = ConfigDict(extra="forbid")

    prompt: Prompt | None = None
    on_conflict: Literal["replace", "error"] = "replace"
    history_policy: Literal["replace", "keep"] = "replace"
    delete_timing: Literal["after", "before"] = "after"
    """When the old pictures go: once the new one is there, or before it is drawn."""
    num_images: Annotated[int, Field(ge=1, le=4)] = 1
    """The first is the master reference, the others are variants of it, to select from."""


class ReferenceSet(BaseModel):
    model_config = ConfigDict(extra="forbid")

    reference_image_id: UUID | None = None
    angles: list[Angle] = Field(default=list(ANGLES), min_length=1, max_length=36)


class Scene(BaseModel):
    model_config = ConfigDict(extra="forbid")

    sceneContext: Prompt


class Profile(BaseModel):
    """Traits, each under its own name, beside those below."""

    model_config = ConfigDict(extra="allow")

    color_palette: list[str]
    do_not_change: list[str]
    source: Literal["vlm", "fallback"]


class ReferenceImage(BaseModel):
    url: str
    thumbnail_url: str
    width: int
    height: int
    view: View | None = Field(description="Null: the master reference, where there are no views.")


class CharacterError(BaseModel):
    code: str
    message: str


class Character(BaseModel):
    """A character and how far it has come."""

    object: Literal["character"] = "character"
    id: UUID
    name: str
    gender: str | None
    age: str | None
    ethnicity: str | None
    style: str | None
    source: Literal["photo", "lora", "description"]
    description: str | None
    lora_id: UUID | None
    consent: bool
    status: Status
    profile: Profile | None
    reference_images: list[ReferenceImage]
    generatedReferenceImages: list[ReferenceImage]
    """The same; so called by some frontends."""
    reference_image_workflow_ids: dict[str, str]
    referenceImageWorkflowIds: dict[str, str]
    selected_image_id: UUID | None
    job_id: UUID | None
    project_id: UUID | None
    library_db_id: str | None
    library_character_id: str | None
    error: CharacterError | None
    poll_after_ms: int
    created_at: datetime.datetime
    updated_at: datetime.datetime


class CharacterList(BaseModel):
    object: Literal["list"] = "list"
    data: list[Character]
    has_more: bool
    first_id: UUID | None
    last_id: UUID | None


class Media(BaseModel):
    url: str
    thumbnail_url: str
    width: int
    height: int
    content_type: str
    bytes: int
    sha256: str
    seed: int


class CharacterImage(BaseModel):
    """A picture of a character; ``media`` is null where drawing failed, or the file is gone."""

    object: Literal["character_image"] = "character_image"
    id: UUID
    character_id: UUID
    kind: Kind
    view: View | None
    angle: int | None
    prompt: str
    provider: str
    status: Literal["succeeded", "failed"]
    error: str | None
    metrics: dict[str, Any]
    source_url: str | None
    external_id: str | None
    job_id: UUID | None
    is_selected: bool
    created_by: UUID | None
    created_at: datetime.datetime
    updated_at: datetime.datetime
    replaced_at: datetime.datetime | None
    media: Media | None


class CharacterImageList(BaseModel):
    object: Literal["list"] = "list"
    data: list[CharacterImage]
    has_more: bool
    first_id: UUID | None
    last_id: UUID | None


class Drawn(BaseModel):
    """What a request has drawn; of a set, also what it has not."""

    success: bool
    job_id: UUID
    images: list[CharacterImage]


class Suggestion(BaseModel):
    success: bool
    prompt: str


class DeletedItem(BaseModel):
    target: Literal["metadata", "file", "remote"]
    ok: bool
    error: str | None = None


class DeletedImage(BaseModel):
    """What became of each part; a file that could not be removed now is removed by the worker later."""

    object: Literal["character_image.deleted"] = "character_image.deleted"
    id: UUID
    deleted: list[DeletedItem]


class Removed(BaseModel):
    photo: bool
    images: int
    profile: bool
    jobs_canceled: int


class DeletedCharacter(BaseModel):
    """What this request has removed; nothing, where an earlier one has."""

    object: Literal["character.deleted"] = "character.deleted"
    id: UUID
    deleted: Literal[True] = True
    removed: Removed
