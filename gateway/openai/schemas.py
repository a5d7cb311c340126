"""What goes in and out where OpenAI's SDKs ask, in their words."""

import json
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from gateway.errors import Malformed
from gateway.jobs.schemas import Prompt, Text
from modal_app.contract import Role

Quality = Literal["low", "medium", "high", "xhigh", "max", "auto", "standard", "hd"]
SIZES = "`auto`, `WxH`, or one of our names"


class ImageGeneration(BaseModel):
    """OpenAI's fields.  Beside them every field of `POST /v1/jobs` is understood: `seed`, `loras`,
    `negative_prompt`, `num_inference_steps` and so on.  Any other is refused by name.
    """

    model_config = ConfigDict(extra="allow")

    prompt: Prompt
    model: Annotated[
        Text | None, Field(description="An id of `GET /v1/models`; OpenAI's own names mean the default.")
    ] = None
    n: int | None = Field(default=None, ge=1, le=10)
    size: Annotated[Text | None, Field(description=SIZES)] = None
    quality: Quality | None = None
    background: Literal["opaque", "auto", "transparent"] | None = None
    output_format: Literal["png", "jpeg", "webp", "gif", "svg"] | None = None
    output_compression: int | None = Field(default=None, ge=0, le=100)
    response_format: Literal["b64_json", "url"] | None = None
    stream: bool | None = None
    partial_images: int | None = Field(default=None, ge=0, le=3)
    moderation: Literal["low", "auto"] | None = None
    input_fidelity: Literal["high", "low"] | None = None
    style: Annotated[Text | None, Field(description="`vivid`, `natural`, or one of our styles.")] = None
    user: Text | None = None
    safety_identifier: Text | None = None

    @property
    def end_user(self) -> str | None:
        """Whom the caller asks for, in either of OpenAI's fields."""
        return self.safety_identifier or self.user or None


def structured(value: Any, name: str) -> Any:
    """A value that may be JSON in a string; Malformed when it is neither."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise Malformed(f"`{name}` is not valid JSON.", code="invalid_json", param=name) from None


def _listed(roles: Any) -> Any:
    """A form has one text for them: JSON, or words between commas."""
    if not isinstance(roles, str):
        return roles
    if roles.startswith("["):
        return structured(roles, "roles")
    return [role.strip() for role in roles.split(",")]


class ImageEdit(ImageGeneration):
    """The same, with pictures: in a form the files `image` or `image[]`, the addresses `url` or `url[]`, and
    the file `mask`; in JSON `images` and `mask`, each `{"image_url"}` or `{"file_id"}`, an upload's id.
    """

    roles: Annotated[
        list[Role] | None,
        Field(max_length=10, description="What each picture is for, in order."),
        BeforeValidator(_listed),
    ] = None

    @property
    def names_pictures(self) -> bool:
        """Whether the job's own ``references`` came along."""
        named = structured((self.model_extra or {}).get("references"), "references")
        return isinstance(named, list) and bool(named)


class ImageVariation(ImageEdit):
    """Another picture like one: OpenAI's oldest call, which has no prompt."""

    prompt: Prompt = "another picture like this one"


class ImageData(BaseModel):
    """One picture: its bytes, or where they are."""

    b64_json: str | None = None
    url: str | None = None
    revised_prompt: str
    id: UUID
    seed: int


class InputTokens(BaseModel):
    text_tokens: int
    image_tokens: int


class Tokens(BaseModel):
    """Sizes in tokens, for clients that count them.  Nothing is charged by token."""

    input_tokens: int
    input_tokens_details: InputTokens
    output_tokens: int
    output_tokens_details: InputTokens
    total_tokens: int


class Drawn(BaseModel):
    """What answers and events say of the pictures alike."""

    size: str
    quality: str
    background: Literal["opaque"] = "opaque"
    output_format: str
    safety_identifier: str | None = None


class ImagesResponse(Drawn):
    """OpenAI's answer, the job behind it and what it cost."""

    created: int
    data: list[ImageData]
    usage: Tokens
    job_id: UUID
    cost_usd_micros: int
    cached: bool


class PartialImage(Drawn):
    """Event: how a picture looks so far, small."""

    type: str
    created_at: int
    b64_json: str
    partial_image_index: int


class CompletedImage(Drawn):
    """Event: one finished picture."""

    type: str
    created_at: int
    b64_json: str
    url: str | None = None
    revised_prompt: str
    id: UUID
    seed: int
    usage: Tokens
    job_id: UUID
    cost_usd_micros: int
    cached: bool


PriceClass = Literal["economy", "standard", "premium"]


class Limits(BaseModel):
    """What a job of this model may ask for."""

    max_images: int
    max_references: int
    reference_roles: list[str]
    max_inference_steps: int
    steps_by_quality: dict[str, int]
    min_side: int
    max_side: int
    side_multiple: int
    native_sizes: list[str]
    """Trained sizes; others are drawn at the nearest of these and resampled.  Empty: any size is native."""
    parameters: list[str]
    """Optional fields that the model understands."""


class AllowedGpu(BaseModel):
    gpu: str
    usd_micros_per_hour: int
    measured_p50_seconds: float | None
    """Median GPU seconds of a picture here; null before the first one."""


class Model(BaseModel):
    """OpenAI's four fields, then the row of our catalogue."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str
    available: bool
    """Whether the running GPU service draws with it."""
    alias_of: str | None = None
    family: str
    license: str
    commercial_use: bool
    needs_acceptance: bool
    lora_group: str | None
    limits: Limits
    price_class: PriceClass
    estimated_seconds: float
    estimated_usd_micros: int
    """Of one picture at the defaults, on the hardware that the estimate is for."""
    gpus: list[AllowedGpu]


class ModelList(BaseModel):
    """The whole catalogue."""

    object: Literal["list"] = "list"
    data: list[Model]
    has_more: Literal[False] = False
    first_id: str | None
    last_id: str | None
