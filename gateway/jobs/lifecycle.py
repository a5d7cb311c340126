"""The state machine, as pure functions: a claimed row and what the world answered give the next move.

    queued ──claim──▶ processing ──▶ completed
      ▲                  │   └─────▶ failed
      └──requeue─────────┘            canceled (from queued or processing)

Inside ``processing`` the stage says more: ``enhancing`` and ``judging`` (a language model is at work),
``loading`` (claimed or accepted), ``generating`` (denoising, or children are at work), ``storing`` (the
pictures are being fetched and stored).  Which call comes next is the plan's to say, see ``plans``.  Nothing
here reads a clock or touches the outside: the worker carries a move out, and the repository's fence
decides whether it still counts.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any
from uuid import UUID, uuid5

from gateway.storage import keys
from modal_app.contract import ENDED, Call, PictureInfo, Task

TERMINAL = frozenset({"completed", "failed", "canceled"})
"""Final: no job ever leaves one of these."""

SUBMIT_BACKOFF = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 15.0, 15.0)
"""Seconds between tries to hand a call over: about a minute, then ``submit_failed``."""
STORE_BACKOFF = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0, 60.0)
"""Seconds between tries to fetch and store pictures: three minutes, then ``storage_failed``."""
POLL_GROWTH = (1, 2, 3)
"""Multiples of the webhook patience between two questions about a late call; the last one repeats."""
INTERRUPTIONS = frozenset({"gpu_failed", "gpu_lost", "run_interrupted", "source_unavailable"})
"""Codes of calls that ended because of the machine they ran on, or of the one that has their files."""
LOST_LIMIT = 3
"""Attempts at a call that the GPU service loses before its first step; each is free of charge."""
STUMBLE_LIMIT = 3
CALLS_LIMIT = 50
"""Calls of one job: a plan that finds no end must not spend for ever."""
CHILDREN_SECONDS = 30.0
"""How often a parent looks at its children unasked; each that ends wakes it."""
STRANGER_SECONDS = 5.0
"""For how long a job is left to gateways that know its plan."""

_EXTENSIONS = {"image/png": "png", "image/jpeg": "jpg", "image/webp": "webp"}


@dataclass(frozen=True)
class ClaimedJob:
    """What a step needs of a row it has leased."""

    id: UUID
    user_id: UUID
    plan: str
    """Name of the plan that leads it."""
    task: Task
    model: str
    stage: str | None
    version: int
    seq: int
    attempt: int
    tries: int
    step: int
    call_id: str | None
    call: Call | None
    """How the call of ``seq`` and ``attempt`` has ended, until that is settled."""
    waiting: bool
    """For its children."""
    visibility: str
    expired: bool
    row: Mapping[str, Any]
    """All columns, for the plan."""

    @property
    def key(self) -> str:
        """Name of the GPU call: doing it twice says the same name."""
        return f"{self.id}:{self.seq}:{self.attempt}"


class Step(Enum):
    """What to do next with a claimed job."""

    EXPIRE = auto()
    LOOK = auto()
    DISPATCH = auto()
    ASK = auto()
    SETTLE = auto()


@dataclass(frozen=True)
class Wait:
    """Nothing new: look again in ``seconds``."""

    seconds: float


@dataclass(frozen=True)
class Requeue:
    """Back to the queue after ``seconds``; ``lost`` starts a new attempt and frees the old one of charge."""

    seconds: float
    lost: bool = False


@dataclass(frozen=True)
class Settle:
    """The call has ended: lease the job and settle it."""

    call: Call


@dataclass(frozen=True)
class Fail:
    code: str
    message: str
    retryable: bool


Move = Wait | Requeue | Settle | Fail

EXPIRED = Fail("expired", "The job did not finish before its deadline.", retryable=True)
SOURCE_GONE = Fail("reference_deleted", "A picture that the job draws from was deleted.", retryable=False)
LORA_GONE = Fail("lora_deleted", "A LoRA that the job draws with was deleted.", retryable=False)
TOO_MANY_CALLS = Fail("too_many_calls", f"The job needed more than {CALLS_LIMIT} calls.", retryable=False)
TIMED_OUT = Fail("call_timeout", "The call took too long.", retryable=True)
LOST = Fail("call_lost", "The GPU service lost the call after it had started to draw.", retryable=True)


def next_step(job: ClaimedJob) -> Step:
    """Where a job goes on, from its row alone: a crash at any place comes back here."""
    if job.call is not None:
        return Step.SETTLE
    if job.expired:
        return Step.EXPIRE
    if job.waiting:
        return Step.LOOK
    return Step.DISPATCH if job.call_id is None else Step.ASK


def after_refusal(message: str) -> Move:
    """The GPU service will not run this request."""
    return Fail("submit_failed", f"The GPU service refused the call: {message}", retryable=False)


def after_failed_submit(job: ClaimedJob) -> Move:
    """The service did not answer: the same key again later, then give up."""
    if job.tries >= len(SUBMIT_BACKOFF):
        return Fail("submit_failed", "The GPU service could not be reached.", retryable=True)
    return Requeue(SUBMIT_BACKOFF[job.tries])


def after_answer(job: ClaimedJob, call: Call, patience: float, polls: int | None = None) -> Move:
    """The service told how the call stands; one that may be done without has only ``polls`` questions."""
    if call.status in ENDED:
        return Settle(call)
    return TIMED_OUT if polls is not None and job.tries >= polls else Wait(_poll_delay(job, patience))


def after_silence(job: ClaimedJob, patience: float, polls: int | None = None) -> Move:
    """The service did not tell; the deadline ends this, unless ``polls`` does."""
    return TIMED_OUT if polls is not None and job.tries >= polls else Wait(_poll_delay(job, patience))


def after_loss(job: ClaimedJob) -> Move:
    """The service knows no such call.  Only one that had not begun to draw is run again unasked."""
    if job.step > 0 or job.attempt >= LOST_LIMIT:
        return LOST
    return Requeue(0.0, lost=True)


def after_failed_call(job: ClaimedJob, call: Call) -> Move:
    """The call ended without pictures.  Errors of the model are not tried again: that would cost.

    A machine that was taken away before it began to draw is no error of the model.
    """
    if call.error is None:
        return Fail("call_canceled", "The call was canceled on the GPU service.", retryable=True)
    failed = Fail(call.error.code, call.error.message, call.error.retryable)
    if call.error.code not in INTERRUPTIONS or call.step > 0:
        return failed
    again = after_loss(job)
    return again if isinstance(again, Requeue) else failed


def after_failed_store(job: ClaimedJob, reason: str) -> Move:
    """Pictures could not be fetched or stored."""
    if job.tries >= len(STORE_BACKOFF):
        return Fail("storage_failed", f"The pictures could not be stored: {reason}", retryable=True)
    return Wait(STORE_BACKOFF[job.tries])


def after_stumble(job: ClaimedJob) -> Move:
    """A step broke: nothing is known but that it did."""
    if job.tries >= STUMBLE_LIMIT:
        return Fail(
            "internal_error", "The gateway could not process this job; its log says why.", retryable=True
        )
    return Wait(1.0)


def image_id(job: ClaimedJob, n: int) -> UUID:
    """Derived, so that storing twice names one picture; the job's 122 random bits keep it unguessable."""
    return uuid5(job.id, f"{job.seq}-{job.attempt}-{n}")


def object_key(job: ClaimedJob, picture: PictureInfo) -> str:
    """Derived as well, and of this attempt alone.  A character's pictures stand together."""
    extension = _EXTENSIONS[picture.content_type]
    inputs = job.row.get("inputs") or {}
    if inputs.get("character_id") and not inputs.get("panel_id"):
        return keys.of_character(job.user_id, inputs["character_id"], image_id(job, picture.n), extension)
    return keys.of_job(job.user_id, job.id, f"{job.seq}-{job.attempt}-{picture.n}", extension)


def _poll_delay(job: ClaimedJob, patience: float) -> float:
    return patience * POLL_GROWTH[min(job.tries, len(POLL_GROWTH) - 1)]
