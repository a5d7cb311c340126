"""Wire messages between the gateway and the GPU service.

One protocol, two servers (Modal, or ``modal_app.local`` on one machine):

    POST   /calls                  SubmitCall -> 202 CallAccepted
    GET    /calls/{id}             Call
    GET    /calls/{id}/images/{n}  bytes; the ETag is their sha256
    DELETE /files/{sha256}         204; the service keeps no copy of this file
    DELETE /calls/{id}             Call, canceled unless it had already ended
    GET    /models                 ServedModels
    event  -> gateway              CallEvent, signed by Standard Webhooks

The event is a hint and carries no picture; the call is the truth.  Messages carry ``schema`` so
that two versions can run side by side during a rolling deploy; readers ignore unknown fields.
"""

import hashlib
import hmac
import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

SCHEMA = 1
EVENT_LIMIT_BYTES = 20_000
"""An event is refused above this size, unread."""

PREVIEW_LIMIT_BYTES = 12_000
"""Of a look at a picture that is being drawn: with the call around it, it fits into an event."""

KEY_PATTERN = r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}:\d{1,4}:\d{1,4}$"
"""A call key: ``job:seq:attempt``, where the job is a lower-case UUID."""

Key = Annotated[str, StringConstraints(pattern=KEY_PATTERN)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Task = Literal["image", "upscale", "enhance", "parse", "profile", "judge"]
CallStatus = Literal["queued", "running", "succeeded", "failed", "canceled"]
CallStage = Literal["loading", "generating", "encoding"]
OutputFormat = Literal["png", "jpeg", "webp"]
Role = Literal["reference", "style", "init"]
AnsweredBy = Literal["vlm", "fallback"]
"""Who did a language task: the pipeline's own vision-language model, or rules that need none."""

ENDED: frozenset[CallStatus] = frozenset({"succeeded", "failed", "canceled"})
CONTENT_TYPES: dict[OutputFormat, str] = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}

ENHANCED_LIMIT = 1500
"""Characters of an enhanced prompt, cut at the end of a word."""


class Message(BaseModel):
    """Base of everything that crosses the wire."""

    model_config = ConfigDict(extra="ignore")


class Source(Message):
    """A file that the service fetches before the run and checks against its hash.

    The address must be at an origin that the service was told of; it is not part of a recipe, the hash is.
    """

    url: str = Field(max_length=4096)
    sha256: Sha256


class Reference(Source):
    """A picture to draw from: a subject to keep, a look to take over, or the picture to start from."""

    role: Role = "reference"


class LoraUse(Source):
    """A LoRA file in safetensors, and how strongly it acts; 0 is not at all."""

    scale: float = Field(default=1.0, ge=-4.0, le=4.0)


class CallRequest(Message):
    """What every task is told."""

    model: str
    limit_gpu_seconds: float | None = Field(default=None, gt=0)
    """What the caller can pay for: beyond it the call fails before its next step, ``cost_limit_reached``."""

    def sources(self) -> list[Source]:
        """Every file that the run needs."""
        return []


class ImageRequest(CallRequest):
    """Task ``image``: words, and perhaps pictures, to pictures, with diffusers' argument names.

    ``seed`` is always given: the gateway draws it before the first dispatch, so that a repeated
    dispatch draws the same picture.  Picture ``n`` of a request uses ``seed + n``.
    """

    prompt: str
    negative_prompt: str | None = None
    width: int = Field(ge=16, le=4096)
    height: int = Field(ge=16, le=4096)
    num_images: int = Field(default=1, ge=1, le=10)
    seed: int = Field(ge=0, lt=2**63)
    num_inference_steps: int = Field(ge=1, le=200)
    true_cfg_scale: float = Field(default=1.0, ge=0.0, le=30.0)
    guidance_scale: float | None = Field(default=None, ge=0.0, le=30.0)
    sampler: str | None = Field(default=None, max_length=40)
    """A name of ``catalog.SAMPLERS``, for families that have a choice."""
    clip_skip: int | None = Field(default=None, ge=1, le=12)
    """As Civitai counts: 1 is CLIP's last layer."""
    references: list[Reference] = Field(default=[], max_length=10)
    """In order: "picture 1" of a prompt is the first.  At most one has the role ``init``."""
    mask: Source | None = None
    """Where to paint anew: transparent pixels, or white ones in a mask without transparency."""
    strength: float | None = Field(default=None, ge=0.0, le=1.0)
    """How far to leave the ``init`` picture: 0 keeps it, 1 starts from noise."""
    loras: list[LoraUse] = Field(default=[], max_length=8)
    output_format: OutputFormat = "png"
    output_compression: int = Field(default=90, ge=0, le=100)

    def sources(self) -> list[Source]:
        return [*self.references, *([self.mask] if self.mask else []), *self.loras]


class UpscaleRequest(ImageRequest):
    """Task ``upscale``: the one reference, an ``init`` picture, at ``width`` x ``height``, with new detail.

    ``strength`` says how much is drawn anew: with too much of it every tile becomes a picture of its own.
    """

    num_images: Literal[1] = 1
    strength: float = Field(default=0.2, gt=0.0, le=1.0)
    mask: None = None

    @model_validator(mode="after")
    def _has_one_picture(self) -> "UpscaleRequest":
        if [use.role for use in self.references] != ["init"]:
            raise ValueError("upscale takes one reference, with the role init")
        return self


class EnhanceRequest(CallRequest):
    """Task ``enhance``: a plain prompt to a detailed one.

    Mode ``lora`` begins with the trained words and describes all that is seen; mode ``reference`` leaves
    looks to the reference pictures and describes pose, expression, action and scene.
    """

    prompt: str = Field(min_length=1, max_length=ENHANCED_LIMIT)
    mode: Literal["lora", "reference"] = "reference"
    trained_words: list[str] = []
    names: list[str] = []
    """Of the characters in the picture."""
    context: list[str] = []
    """Prompts of the pictures before this one, oldest first."""


class EnhanceResult(Message):
    task: Literal["enhance"] = "enhance"
    prompt: str = Field(max_length=ENHANCED_LIMIT)
    answered_by: AnsweredBy


class ParseRequest(CallRequest):
    """Task ``parse``: what a sentence asks for, field by field."""

    prompt: str = Field(min_length=1, max_length=ENHANCED_LIMIT)
    styles: dict[str, list[str]] = {}
    """Words that name a style, by its id."""
    franchises: dict[str, list[str]] = {}
    """Words that name a franchise, by its name."""


class ParseResult(Message):
    task: Literal["parse"] = "parse"
    subject: str
    style: str | None
    """An id of the request's ``styles``."""
    style_confidence: float = Field(ge=0.0, le=1.0)
    franchise: str | None
    product: str | None
    negative: str | None
    answered_by: AnsweredBy


class ProfileRequest(CallRequest):
    """Task ``profile``: what a picture shows of a character."""

    image: Source

    def sources(self) -> list[Source]:
        return [self.image]


class ProfileResult(Message):
    task: Literal["profile"] = "profile"
    profile: dict[str, str]
    """Trait by trait, as far as it can be told; empty when rules answered."""
    color_palette: list[str]
    """``#rrggbb``, the most of the picture first; always measured from its pixels."""
    answered_by: AnsweredBy


class Subject(Message):
    """Somebody who is to be seen in a picture, and to have stayed the same."""

    references: list[Source] = Field(default=[], max_length=10)
    attributes: list[str] = Field(default=[], max_length=20)


class JudgeRequest(CallRequest):
    """Task ``judge``: whether a picture kept what it had to keep of the references.

    With ``subjects`` each of them is looked for and judged apart, and the fields below go unread.
    """

    image: Source
    subjects: list[Subject] = Field(default=[], max_length=10)
    """From left to right, as far as anybody can tell."""
    references: list[Source] = Field(default=[], max_length=10)
    attributes: list[str] = Field(default=[], max_length=20)
    """Traits in words, each of which has to be seen in the picture."""

    def sources(self) -> list[Source]:
        shown = [source for subject in self.subjects for source in subject.references]
        return [self.image, *self.references, *shown]


class Verdict(Message):
    attribute: str
    kept: bool
    score: float = Field(ge=0.0, le=100.0)


class SubjectResult(Message):
    """``likeness`` is that to each reference, 0 to 100; ``score`` joins it with the verdicts."""

    score: float = Field(ge=0.0, le=100.0)
    likeness: list[float]
    verdicts: list[Verdict]


class JudgeResult(Message):
    """With subjects, ``score`` is that of the one who came out worst."""

    task: Literal["judge"] = "judge"
    score: float = Field(ge=0.0, le=100.0)
    verdicts: list[Verdict]
    subjects: list[SubjectResult] = []
    answered_by: AnsweredBy


LanguageRequest = EnhanceRequest | ParseRequest | ProfileRequest | JudgeRequest
LanguageResult = EnhanceResult | ParseResult | ProfileResult | JudgeResult


REQUESTS: dict[Task, type[ImageRequest] | type[LanguageRequest]] = {
    "image": ImageRequest,
    "upscale": UpscaleRequest,
    "enhance": EnhanceRequest,
    "parse": ParseRequest,
    "profile": ProfileRequest,
    "judge": JudgeRequest,
}
"""What a call of each task carries; a task without a line here is not served."""


class SubmitCall(Message):
    """Ask for one run. The same key always answers the same call and runs once."""

    schema_: int = Field(default=SCHEMA, alias="schema")
    key: Key
    task: Task
    request: dict[str, Any]
    """Validated against the task's own type, see ``REQUESTS``."""


class CallAccepted(Message):
    call_id: str


class PictureInfo(Message):
    """One line of the manifest: enough to check the bytes that are pulled afterwards."""

    n: int
    sha256: Sha256
    bytes: int
    content_type: str
    width: int
    height: int
    seed: int
    pixels_sha256: Sha256 | None = None
    """Of the RGB bytes, row by row, before they were encoded; None from a service that does not tell."""
    publicUrl: str | None = Field(default=None, max_length=4096)
    """Where the picture can be had as well, from a service that keeps it elsewhere; asked for first."""
    imageUrl: str | None = Field(default=None, max_length=4096)
    """The same, asked for where there is no public one."""


PICTURE_ADDRESSES = ("publicUrl", "imageUrl")
"""Of a manifest's line: for whoever takes the picture in, and for nobody else."""


class ImageResult(Message):
    """What ``image`` and ``upscale`` leave behind: pictures to pull from ``/calls/{id}/images/{n}``."""

    task: Literal["image"] = "image"
    images: list[PictureInfo]
    native_width: int
    """Width in pixels at which the model drew, before resampling to the requested size."""
    native_height: int
    resampling: Literal["none", "lanczos"]


class CallError(Message):
    code: str
    message: str
    retryable: bool = False


class Timing(Message):
    """Seconds. ``gpu_seconds`` is what is charged: from the start of the run to its pictures."""

    queue_seconds: float = 0.0
    boot_seconds: float = 0.0
    """Of a container that was started for this call."""
    files_seconds: float = 0.0
    load_seconds: float = 0.0
    gpu_seconds: float = 0.0
    """Of which:"""
    prompt_seconds: float = 0.0
    denoise_seconds: float = 0.0
    decode_seconds: float = 0.0
    encode_seconds: float = 0.0
    """Files made of the pictures; after the GPU's part."""


class Preview(Message):
    """How picture ``n`` looks so far: a small WebP in base64."""

    n: int
    content_type: Literal["image/webp"] = "image/webp"
    b64_json: str = Field(max_length=PREVIEW_LIMIT_BYTES * 4 // 3)


class Call(Message):
    """One run, as the service knows it."""

    schema_: int = Field(default=SCHEMA, alias="schema", serialization_alias="schema")
    call_id: str
    key: Key
    task: Task
    status: CallStatus
    stage: CallStage | None = None
    step: int = 0
    steps: int = 0
    result: Annotated[ImageResult | LanguageResult, Field(discriminator="task")] | None = None
    error: CallError | None = None
    timing: Timing = Timing()
    preview: Preview | None = None
    """The newest look, while the call is running."""
    gpu: str | None = None
    """Name of the price row in ``catalog.PRICES``."""
    fingerprint: dict[str, Any] = {}


class CallEvent(Message):
    """What is posted to the gateway; at most ``EVENT_LIMIT_BYTES`` as JSON.

    ``seq`` grows with every event of a call, so that a late progress event can be told from news.
    """

    schema_: int = Field(default=SCHEMA, alias="schema", serialization_alias="schema")
    type: Literal["call.progress", "call.succeeded", "call.failed"]
    seq: int = Field(ge=0)
    call: Call


class ServedModels(Message):
    models: list[str]
    gpu: str
    tasks: list[Task] = ["image"]
    warm: list[str] | None = None
    """Models that are loaded and need no start; None where that is not known."""


RECIPE_FIELD = "tenkaigen"
"""Under this name a picture file carries its sealed recipe."""


def seal(recipe: dict[str, Any], secret: str) -> str:
    """The recipe and its signature as one line of ASCII JSON, to be carried by a picture file."""
    return _canonical({"recipe": recipe, "signature": _signature(recipe, secret)})


def unseal(sealed: str, secrets: list[str]) -> dict[str, Any]:
    """The recipe, if one of the secrets signed exactly this one; ValueError otherwise."""
    try:
        found = json.loads(sealed)
        recipe, signature = found["recipe"], str(found["signature"])
    except (ValueError, KeyError, TypeError):
        raise ValueError("this is no sealed recipe") from None
    if not any(hmac.compare_digest(_signature(recipe, secret), signature) for secret in secrets):
        raise ValueError("the recipe was altered, or sealed by somebody else")
    assert isinstance(recipe, dict)
    return recipe


def _signature(recipe: Any, secret: str) -> str:
    return hmac.new(secret.encode(), _canonical(recipe).encode(), hashlib.sha256).hexdigest()


def _canonical(value: Any) -> str:
    """Equal values give equal text, whoever wrote them."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
