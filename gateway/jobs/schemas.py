"""What goes in and out of ``/v1/jobs``."""

import datetime
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from modal_app import catalog
from modal_app.contract import PICTURE_ADDRESSES, OutputFormat, Role

PROMPT_LIMIT = 1500
"""Characters: what a panel's prompt may have, and what the text encoder reads with room for a style."""

JobStatus = Literal["queued", "processing", "completed", "failed", "canceled"]
Priority = Literal["low", "normal", "high"]
Visibility = Literal["public", "private"]
Scalar = str | int | float | bool


def storable(text: str) -> str:
    """Postgres keeps neither NUL nor half a surrogate pair, both of which JSON can spell."""
    if "\x00" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("must not contain NUL characters or lone surrogates")
    return text


def says_something(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be empty")
    return text


def _address(text: str) -> str:
    if not urlsplit(text).scheme:
        raise ValueError("must be an address such as https://example.com/picture.png")
    return text


def _multiple(pixels: int) -> int:
    if pixels % catalog.SIZE_MULTIPLE:
        raise ValueError(f"must be a multiple of {catalog.SIZE_MULTIPLE}")
    return pixels


Text = Annotated[str, AfterValidator(storable)]
Words = Annotated[str, Field(max_length=PROMPT_LIMIT), AfterValidator(storable)]
PromptOfAnyLength = Annotated[
    Text,
    AfterValidator(says_something),
    Field(description="At most 1,500 characters.", json_schema_extra={"pattern": r"\S"}),
]
"""Too long a one is a broken precondition, and told so (``recipes.refuse_long``), not malformed."""
Prompt = Annotated[Words, AfterValidator(says_something), Field(json_schema_extra={"pattern": r"\S"})]
Address = Annotated[
    str,
    Field(max_length=2000, json_schema_extra={"pattern": "^[A-Za-z][A-Za-z0-9+.-]*:"}),
    AfterValidator(storable),
    AfterValidator(_address),
]
Pixels = Annotated[int, Field(ge=catalog.SIZE_MIN, le=catalog.SIZE_MAX), AfterValidator(_multiple)]
METADATA_LIMIT = 50
MetadataKey = Annotated[str, Field(min_length=1, max_length=64), AfterValidator(storable)]
MetadataValue = Annotated[str, Field(max_length=2000), AfterValidator(storable)] | int | float | bool


class LoraUse(BaseModel):
    model_config = ConfigDict(extra="forbid")

    lora: Annotated[Text, Field(min_length=1, max_length=2000)] = Field(
        description="Id or name of a registered LoRA, `hf:<repository>/<file>`, `civitai:<versionId>` or `https://…`."
    )
    scale: float = Field(default=1.0, ge=-4.0, le=4.0)


class JobUpdate(BaseModel):
    """What a frontend keeps with a job. Keys that are not named stay; null takes one away."""

    model_config = ConfigDict(extra="forbid")

    metadata: dict[MetadataKey, MetadataValue | None] = Field(min_length=1, max_length=METADATA_LIMIT)


class PictureUse(BaseModel):
    """A picture: one that was drawn, one that was uploaded, or one that is fetched when the job is made."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"oneOf": [{"required": [name]} for name in ("image_id", "upload_id", "url")]},
    )

    image_id: UUID | None = None
    upload_id: UUID | None = None
    url: Address | None = None

    @model_validator(mode="after")
    def _named_once(self) -> Self:
        if sum(given is not None for given in (self.image_id, self.upload_id, self.url)) != 1:
            raise ValueError("must have exactly one of image_id, upload_id and url")
        return self


class ReferenceUse(PictureUse):
    """A picture to draw from: what it shows (``reference``), its look (``style``), or over it (``init``)."""

    role: Role = "reference"


class JobCreate(BaseModel):
    """Only ``prompt`` is required. A field that the chosen model does not support is refused by name."""

    model_config = ConfigDict(extra="forbid")

    prompt: Prompt
    style: Text | None = None
    model: Text = "auto"
    quality: Literal["low", "medium", "high", "xhigh", "max", "auto"] = "auto"
    negative_prompt: Words | None = None
    enhance: bool = False
    size: Text = "square"
    width: Pixels | None = None
    height: Pixels | None = None
    num_images: int = Field(default=1, ge=1, le=10)
    seed: int | None = Field(default=None, ge=0, lt=2**63 - 10)
    num_inference_steps: int | None = Field(default=None, ge=1, le=200)
    true_cfg_scale: float | None = Field(default=None, ge=0.0, le=30.0)
    guidance_scale: float | None = Field(default=None, ge=0.0, le=30.0)
    loras: list[LoraUse] = Field(default=[], max_length=8)
    references: list[ReferenceUse] = Field(default=[], max_length=10)
    mask: PictureUse | None = None
    strength: float | None = Field(default=None, ge=0.0, le=1.0)
    output_format: OutputFormat = "png"
    output_compression: int = Field(default=90, ge=0, le=100)
    priority: Priority = "normal"
    visibility: Visibility | None = None
    expires_in_seconds: int = Field(default=3600, ge=1, le=86_400)
    cache: bool = Field(
        default=False,
        description="An equal request of yours that was sent with it and still has its pictures is answered "
        "with its job, marked `cached`: nothing is drawn and nothing charged.",
    )
    metadata: dict[MetadataKey, MetadataValue] = Field(default={}, max_length=METADATA_LIMIT)

    @property
    def needs_edit_model(self) -> bool:
        """A picture to draw over is nothing special; one to draw from is."""
        return any(use.role != "init" for use in self.references)

    @property
    def pictures(self) -> list[PictureUse]:
        """Every picture that the body names, the mask last."""
        return [*self.references, *([self.mask] if self.mask else [])]


class EstimateWarning(BaseModel):
    code: Literal[
        "model_unavailable",
        "no_price",
        "not_measured",
        "resampled",
        "prompt_enhanced",
        "budget_exceeded",
        "quota_exceeded",
    ]
    message: str


class JobEstimate(BaseModel):
    """Micro-dollars: the median of jobs like it, and what one in ten costs less or more than."""

    object: Literal["estimate"] = "estimate"
    estimated_usd_micros: int
    low: int
    high: int
    eta_seconds: float | None
    model: str
    gpu: str
    basis: Literal["measured", "scaled", "catalogue"]
    final_prompt: str
    warnings: list[EstimateWarning]


class Image(BaseModel):
    object: Literal["image"] = "image"
    id: UUID
    job_id: UUID
    url: str
    thumbnail_url: str
    width: int
    height: int
    content_type: str
    bytes: int
    sha256: str
    seed: int
    kind: str
    created_at: datetime.datetime


class JobPrompt(BaseModel):
    input: str
    enhanced: str | None
    final: str
    negative: str | None
    enhance_status: Literal["off", "done", "fallback"]


class JobError(BaseModel):
    code: str
    message: str
    retryable: bool
    stage: str | None


class JobCost(BaseModel):
    estimated_usd_micros: int
    usd_micros: int
    gpu_seconds: float


class JobTiming(BaseModel):
    queue_ms: int | None
    gpu_ms: int
    total_ms: int | None


class FingerprintDifference(BaseModel):
    """Something that pixels depend on and that is not what it was."""

    field: str
    then: Any
    now: Any


class Replayed(BaseModel):
    """How a picture that was drawn again compares with the first time; nulls until the job has ended."""

    checked: Literal["pixels", "file", "recipe", "rows"]
    """What vouches for the picture that was brought: its own pixels; its bytes, which are those of a
    file of the caller's; its signed recipe alone, as a lossy file shows no pixel as it was drawn; or rows."""
    equal: bool | None
    pixels_sha256: str | None
    expected_pixels_sha256: str | None
    fingerprint_differences: list[FingerprintDifference]


class Job(BaseModel):
    """A job and all that has come of it."""

    object: Literal["job"] = "job"
    id: UUID
    status: JobStatus
    stage: str | None
    progress: float
    step: int
    steps: int
    eta_seconds: float | None
    queue_position: int | None
    poll_after_ms: int
    task: str
    model: str
    style: str | None
    priority: Priority
    attempt: int
    prompt: JobPrompt
    params: dict[str, Any]
    result: dict[str, Any] | None = Field(description="What a language task has answered.")
    replay: Replayed | None = Field(description="Of a picture that is drawn again.")
    cached: bool = Field(default=False, description="The answer is an earlier job: see `cache`.")
    images: list[Image]
    error: JobError | None
    cost: JobCost
    timing: JobTiming
    parent_id: UUID | None
    batch_id: UUID | None
    retry_of: UUID | None
    metadata: dict[str, Scalar]
    created_at: datetime.datetime
    started_at: datetime.datetime | None
    finished_at: datetime.datetime | None


class Preview(BaseModel):
    """How one of the pictures looks so far, small."""

    n: int
    content_type: str
    b64_json: str


class JobPreview(Job):
    """What the event `preview` carries."""

    preview: Preview


class JobList(BaseModel):
    object: Literal["list"] = "list"
    data: list[Job]
    has_more: bool
    first_id: UUID | None
    last_id: UUID | None


class JobCall(BaseModel):
    """One GPU call of a job: the debug view."""

    key: str
    seq: int
    attempt: int
    task: str
    model: str
    call_id: str | None
    status: str
    request: dict[str, Any] | None
    result: dict[str, Any] | None
    error: dict[str, Any] | None
    timing: dict[str, Any] | None
    fingerprint: dict[str, Any] | None
    gpu: str | None
    gpu_seconds: float
    usd_micros: int
    created_at: datetime.datetime
    dispatched_at: datetime.datetime | None
    finished_at: datetime.datetime | None
    webhook_at: datetime.datetime | None
    """When the GPU service told of its end; null: the gateway asked by itself."""

    @field_validator("result")
    @classmethod
    def _without_addresses(cls, result: dict[str, Any] | None) -> dict[str, Any] | None:
        """Where the GPU service keeps a picture is not for users: they are shown our own copy."""
        if not result or "images" not in result:
            return result
        shown = [
            {name: value for name, value in image.items() if name not in PICTURE_ADDRESSES}
            for image in result["images"]
        ]
        return {**result, "images": shown}


class CallList(BaseModel):
    object: Literal["list"] = "list"
    data: list[JobCall]
    has_more: bool = False


class CompatJobCreated(BaseModel):
    jobId: UUID
    status: JobStatus


class CompatJobStatus(BaseModel):
    jobId: UUID
    status: JobStatus
    result_url: str | None
    error_message: str | None
    processing_time_ms: int | None
