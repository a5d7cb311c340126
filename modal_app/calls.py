"""What the functions on Modal tell each other of a call, and the names under which its parts are kept.

Texts, not objects, cross from one container to another: during a rolling deploy two versions talk.
"""

import time
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid5

from pydantic import Field

from modal_app.contract import (
    ENDED,
    REQUESTS,
    SCHEMA,
    Call,
    CallError,
    ImageRequest,
    Key,
    LanguageRequest,
    Message,
    Task,
)

_CALLS = UUID("0b4a5f0e-3c0d-5c55-8f3e-7a1de1f7c2aa")
"""Namespace of call ids, which are derived from the keys: the same on Modal and on one machine."""


class Order(Message):
    """A call as it was submitted."""

    schema_: int = Field(default=SCHEMA, alias="schema", serialization_alias="schema")
    call_id: str
    key: Key
    task: Task
    request: dict[str, Any]
    submitted_at: float
    """Seconds since the epoch."""

    def wanted(self) -> ImageRequest | LanguageRequest:
        """The request in its own type."""
        return REQUESTS[self.task].model_validate(self.request)

    def queued(self, gpu: str) -> Call:
        """The call before anything was done for it."""
        return Call(
            call_id=self.call_id,
            key=self.key,
            task=self.task,
            status="queued",
            steps=steps_of(self.wanted()),
            gpu=gpu,
        )

    def text(self) -> str:
        return self.model_dump_json(by_alias=True)


def order(key: str, task: Task, request: ImageRequest | LanguageRequest) -> Order:
    """The order of a call that is submitted now."""
    return Order(
        call_id=call_id_of(key), key=key, task=task, request=request.model_dump(), submitted_at=time.time()
    )


@dataclass(frozen=True)
class Outcome:
    """An ended call and the bytes of its pictures."""

    call: Call
    pictures: list[bytes] = field(default_factory=list)

    def parcel(self) -> dict[str, Any]:
        """As a function returns it: a text and bytes, nothing that needs our classes to be unpacked."""
        return {"call": self.call.model_dump_json(by_alias=True), "pictures": self.pictures}

    @classmethod
    def unpacked(cls, parcel: dict[str, Any]) -> "Outcome":
        return cls(Call.model_validate_json(parcel["call"]), list(parcel["pictures"]))


def call_id_of(key: str) -> str:
    """The same for the same key, whoever asks: two requests that race get one call."""
    return str(uuid5(_CALLS, key))


def steps_of(request: ImageRequest | LanguageRequest) -> int:
    """Steps over all pictures of a request; a language task has none to count."""
    if not isinstance(request, ImageRequest):
        return 0
    return request.num_inference_steps * request.num_images


def over_limit(request: ImageRequest | LanguageRequest) -> CallError:
    """How a call ends that was stopped at its ``limit_gpu_seconds``."""
    seconds = request.limit_gpu_seconds
    return CallError(
        code="cost_limit_reached", message=f"The call was stopped after the {seconds:g} s it could pay for."
    )


def seq_of(call: Call) -> int:
    """The number of the event that tells how a call stands; higher is later, the same news has the same."""
    if call.status in ENDED:
        return call.steps + 4
    return {None: 0, "loading": 1, "generating": 2 + call.step, "encoding": call.steps + 3}[call.stage]


# Names in the dict of calls.


def order_key(call_id: str) -> str:
    """The order's text.  Written once, by the first request with the key."""
    return f"order:{call_id}"


def conductor_key(call_id: str) -> str:
    """Id of the function call that conducts.  Written once, by the first conductor to start."""
    return f"conductor:{call_id}"


def spawned_key(call_id: str) -> str:
    """When a conductor was asked for, in seconds since the epoch."""
    return f"spawned:{call_id}"


def run_key(call_id: str) -> str:
    """Id of the function call that draws, whose result holds the pictures."""
    return f"run:{call_id}"


def progress_key(call_id: str) -> str:
    """The running call's text, written by the GPU container about once a second."""
    return f"progress:{call_id}"


def cancel_key(call_id: str) -> str:
    """True once nobody wants the pictures any more."""
    return f"cancel:{call_id}"


def end_key(call_id: str) -> str:
    """The text of ``results.Record``.  Written once; what it says is how the call ended."""
    return f"end:{call_id}"


def announced_key(call_id: str) -> str:
    """True once the gateway took the event of the end."""
    return f"announced:{call_id}"


def dead_letter_key(call_id: str) -> str:
    """The event that the gateway did not take, as JSON."""
    return f"dead-letter:{call_id}"
