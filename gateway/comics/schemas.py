"""What goes in and out of ``/v1/comics``."""

import datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from gateway.jobs.schemas import Image, Job, JobCall, JobPrompt, PromptOfAnyLength, Text

PanelStatus = Literal["pending", "generating", "ready", "failed"]
PanelMode = Literal["reference", "lora"]
Role = Literal["viewer", "editor", "owner"]

ATTEMPTS_LIMIT = 5
"""A first picture, and one for each rung of the ladder of repairs."""

_LINE = r"^[^\x00]*$"
Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200, pattern=_LINE)]
Caption = Annotated[str, StringConstraints(strip_whitespace=True, max_length=500, pattern=_LINE)]
BaseModelName = Annotated[Text, Field(min_length=1, max_length=50)]
StyleName = Annotated[Text, Field(max_length=80)]
Seed = Annotated[int, Field(ge=0, lt=2**63 - 10)]


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ComicCreate(Body):
    """``style`` is that of every panel that names none; ``base_model`` is what LoRA panels draw with."""

    name: Name
    base_model: BaseModelName | None = Field(None, description="As Civitai names it, such as `Flux.1 D`.")
    style: StyleName | None = None


class ComicChange(Body):
    name: Name | None = None
    base_model: BaseModelName | None = None
    style: StyleName | None = None


class ChapterCreate(Body):
    name: Name | None = Field(None, description="`Chapter N` where none is given.")


class ChapterChange(Body):
    name: Name


class Order(Body):
    """Every id once, in the order wanted."""

    ids: list[UUID] = Field(max_length=10_000)


class MemberAdd(Body):
    """Somebody who is a member already gets the new role."""

    user_id: UUID
    role: Literal["viewer", "editor"] = "viewer"


class PanelCreate(Body):
    """``character_ids`` in the order in which the picture names them; their references go along so."""

    prompt: PromptOfAnyLength
    character_ids: list[UUID] = Field(default=[], max_length=10)
    enhance: bool = True
    mode: PanelMode = "reference"
    style: StyleName | None = None
    seed: Seed | None = None
    caption: Caption | None = Field(None, description="The lettering of exported pages.")
    max_attempts: int = Field(default=3, ge=1, le=ATTEMPTS_LIMIT)
    max_cost_usd_micros: int | None = Field(
        None, ge=0, lt=2**63, description="Of all calls together: nothing is begun that would go beyond it."
    )

    @model_validator(mode="after")
    def _named_once(self) -> "PanelCreate":
        if len(set(self.character_ids)) != len(self.character_ids):
            raise ValueError("character_ids must name each character once")
        return self


class PanelChange(Body):
    """A new prompt is drawn with ``regenerate``. A panel moves to ``position``, 1 to n, or to the end."""

    prompt: PromptOfAnyLength | None = None
    caption: Caption | None = None
    chapter_id: UUID | None = None
    position: int | None = Field(None, ge=1)


class Regenerate(Body):
    """The prompt and all else are the panel's; the seed is drawn anew, unless one is given."""

    seed: Seed | None = None
    max_attempts: int = Field(default=3, ge=1, le=ATTEMPTS_LIMIT)


class CharacterScore(BaseModel):
    """0 to 100, and which traits were seen."""

    character_id: UUID
    score: float | None
    kept: list[str]
    lost: list[str]


class Consistency(BaseModel):
    """``score`` is that of the character that came out worst; ``judged_by`` rules where no model looked."""

    score: float | None
    per_character: list[CharacterScore]
    attempts: int
    threshold: float
    judged_by: Literal["vlm", "fallback"] | None


class PanelError(BaseModel):
    code: str
    message: str


class Panel(BaseModel):
    object: Literal["panel"] = "panel"
    id: UUID
    chapter_id: UUID
    position: int
    prompt: str
    caption: str | None
    enhanced_prompt: str | None
    mode: PanelMode
    enhance: bool
    style: str | None
    status: PanelStatus
    image: Image | None
    job_id: UUID | None
    character_ids: list[UUID]
    consistency: Consistency | None
    error: PanelError | None
    poll_after_ms: int
    created_at: datetime.datetime
    updated_at: datetime.datetime


class PanelEvent(Panel):
    """A panel, and how far its job is."""

    stage: str | None
    step: int
    steps: int


class Chapter(BaseModel):
    object: Literal["chapter"] = "chapter"
    id: UUID
    project_id: UUID
    name: str
    position: int
    created_at: datetime.datetime
    updated_at: datetime.datetime


class ChapterWithPanels(Chapter):
    panels: list[Panel]


class Comic(BaseModel):
    """``role`` is the caller's; ``panel_count`` goes over all chapters."""

    object: Literal["comic"] = "comic"
    id: UUID
    name: str
    base_model: str | None
    base_model_group: str | None
    style: str | None
    role: Role
    chapter_count: int
    panel_count: int
    created_at: datetime.datetime
    updated_at: datetime.datetime


class ComicWithChapters(Comic):
    chapters: list[ChapterWithPanels]


class ComicList(BaseModel):
    object: Literal["list"] = "list"
    data: list[Comic]
    has_more: bool
    first_id: UUID | None
    last_id: UUID | None


class Member(BaseModel):
    object: Literal["member"] = "member"
    user_id: UUID
    role: Role
    created_at: datetime.datetime


class MemberList(BaseModel):
    object: Literal["list"] = "list"
    data: list[Member]
    has_more: bool = False


class PanelDrift(BaseModel):
    """How like themselves everybody is in one panel; ``judge`` is null where nobody has looked at it."""

    panel_id: UUID
    position: int
    status: PanelStatus
    score: float | None = Field(description="0 to 100, of whoever came out worst.")
    per_character: list[CharacterScore]
    threshold: float | None = Field(description="From which somebody counts as the same, for this judge.")
    judge: Literal["model", "rules"] | None
    attempts: int


class CharacterDrift(BaseModel):
    """A line of the chart. ``name`` is null where the caller does not see the character."""

    character_id: UUID
    name: str | None
    panels: int = Field(description="In how many the character was looked at.")
    mean: float
    lowest: float
    below_threshold: int


class ChapterConsistency(BaseModel):
    """``panels`` in their order, ``characters`` as they enter."""

    object: Literal["chapter.consistency"] = "chapter.consistency"
    chapter_id: UUID
    panels: list[PanelDrift]
    characters: list[CharacterDrift]


class PanelReference(BaseModel):
    """A picture that the panel was drawn from, in the order in which the model got it."""

    character_id: UUID
    view: str | None
    url: str | None
    sha256: str


class PanelAttempt(BaseModel):
    """One picture that was drawn; ``accepted`` is the one that is shown."""

    seq: int
    repair: str | None = Field(description="What was changed after the picture before it.")
    seed: int
    steps: int
    prompt: str
    references: list[str] = Field(description="SHA-256, in order.")
    score: float | None
    per_character: list[CharacterScore]
    judged_by: Literal["vlm", "fallback"] | None
    usd_micros: int = Field(description="With the calls before and after it: its words, its judgement.")
    accepted: bool


class PanelModel(BaseModel):
    """The pinned model; ``revision`` is the commit of its weights."""

    id: str
    revision: str | None


class PanelDebug(BaseModel):
    object: Literal["panel.debug"] = "panel.debug"
    panel: Panel
    prompt: JobPrompt | None
    model: PanelModel | None
    workflow: Job | None
    calls: list[JobCall]
    references: list[PanelReference]
    attempts: list[PanelAttempt]
    max_attempts: int | None
    max_cost_usd_micros: int | None
