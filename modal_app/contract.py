"""Wire messages between the gateway and the GPU service.

One protocol, two servers (Modal, or ``modal_app.local`` on one machine):

    POST   /calls                  SubmitCall -> 202 CallAccepted
    GET    /calls/{id}             Call
    GET    /calls/{id}/images/{n}  bytes; the ETag is their sha256
    DELETE /calls/{id}             Call, canceled unless it had already ended
    GET    /models                 ServedModels
    event  -> gateway              CallEvent, signed by Standard Webhooks

The event is a hint and carries no picture; the call is the truth.  Messages carry ``schema`` so
that two versions can run side by side during a rolling deploy; readers ignore unknown fields.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

SCHEMA = 1
EVENT_LIMIT_BYTES = 20_000
"""An event is refused above this size, unread."""

KEY_PATTERN = r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}:\d{1,4}:\d{1,4}$"
"""A call key: ``job:seq:attempt``, where the job is a lower-case UUID."""

Key = Annotated[str, StringConstraints(pattern=KEY_PATTERN)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Task = Literal["image", "upscale", "enhance", "parse", "profile", "judge"]
CallStatus = Literal["queued", "running", "succeeded", "failed", "canceled"]
CallStage = Literal["loading", "generating", "encoding"]
OutputFormat = Literal["png", "jpeg", "webp"]

ENDED: frozenset[CallStatus] = frozenset({"succeeded", "failed", "canceled"})
CONTENT_TYPES: dict[OutputFormat, str] = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}


class Message(BaseModel):
    """Base of everything that crosses the wire."""

    model_config = ConfigDict(extra="ignore")


class ImageRequest(Message):
    """Task ``image``: text to pictures, with diffusers' argument names.

    ``seed`` is always given: the gateway draws it before the first dispatch, so that a repeated
    dispatch draws the same picture.  Picture ``n`` of a request uses ``seed + n``.
    """

    model: str
    prompt: str
    negative_prompt: str | None = None
    width: int = Field(ge=16, le=4096)
    height: int = Field(ge=16, le=4096)
    num_images: int = Field(default=1, ge=1, le=10)
    seed: int = Field(ge=0, lt=2**63)
    num_inference_steps: int = Field(ge=1, le=200)
    true_cfg_scale: float = Field(default=1.0, ge=0.0, le=30.0)
    guidance_scale: float | None = Field(default=None, ge=0.0, le=30.0)
    output_format: OutputFormat = "png"
    output_compression: int = Field(default=90, ge=0, le=100)


class SubmitCall(Message):
    """Ask for one run. The same key always answers the same call and runs once."""

    schema_: int = Field(default=SCHEMA, alias="schema")
    key: Key
    task: Task
    request: dict[str, Any]
    """Validated against the task's own type (``ImageRequest`` for ``image``)."""


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


class ImageResult(Message):
    """What ``image`` leaves behind: pictures to pull from ``/calls/{id}/images/{n}``."""

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
    load_seconds: float = 0.0
    gpu_seconds: float = 0.0


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
    result: ImageResult | None = None
    error: CallError | None = None
    timing: Timing = Timing()
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
