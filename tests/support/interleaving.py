"""Workers that stop before each await on the outside until the test lets them go on.

A hand is one step of one worker.  It runs up to the next question to database, bucket or GPU service and
waits there.  The test lets it ask (or fail instead, or lose the answer), or lets it die, so that any order
of any number of hands can be had, one question at a time, without a thread or a second of waiting.
"""

import asyncio
import datetime
import hashlib
import io
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

import psycopg
from PIL import Image

from gateway.config import Settings
from gateway.db import Connection, Database
from gateway.gpu import CallUnknown, GpuBusy, GpuUnreachable
from gateway.jobs.callbacks import Callbacks
from gateway.jobs.ingestion import Ingestion
from gateway.jobs.lifecycle import ClaimedJob
from gateway.jobs.repository import Jobs
from gateway.jobs.steps import Steps
from gateway.outside import Outside
from gateway.services import keepers
from gateway.storage import DESIGNS, ObjectExists, ObjectInfo, ObjectMissing, StorageError
from gateway.storage.deletions import Deletions
from gateway.worker import UNREACHABLE, Worker
from modal_app.contract import (
    ENDED,
    Call,
    CallError,
    CallEvent,
    EnhanceResult,
    ImageResult,
    JudgeResult,
    PictureInfo,
    Timing,
)

Outcome = Literal["done", "refused", "unheard", "garbled"]
"""Of a question: answered; not asked; asked, and the answer lost; answered with other bytes, or by "busy"."""

_HAND: ContextVar["Hand | None"] = ContextVar("hand", default=None)
_FAILURES: dict[str, Callable[[], Exception]] = {
    "database": lambda: psycopg.OperationalError("the connection is gone"),
    "bucket": lambda: StorageError("no answer"),
    "gpu": lambda: GpuUnreachable("no answer"),
}


class Hand:
    """One step of a worker, as far as it has come."""

    def __init__(self, step: Coroutine[Any, Any, Any]) -> None:
        self._go: asyncio.Future[Outcome] | None = None
        self._stopped = asyncio.Event()
        self._task = asyncio.create_task(self._run(step))

    @property
    def over(self) -> bool:
        return self._task.done()

    async def stopped(self) -> None:
        """It stands before a question, or is over; whatever it died of is raised."""
        await self._stopped.wait()
        if self.over:
            self._task.result()

    async def go_on(self, outcome: Outcome = "done") -> None:
        """Up to its next question."""
        assert self._go is not None
        self._stopped.clear()
        self._go.set_result(outcome)
        await self.stopped()

    async def die(self) -> None:
        """As by kill -9: not one more question."""
        self._task.cancel()
        await asyncio.wait([self._task])

    async def ask(self) -> Outcome:
        self._go = asyncio.get_running_loop().create_future()
        self._stopped.set()
        return await self._go

    async def _run(self, step: Coroutine[Any, Any, Any]) -> None:
        _HAND.set(self)
        try:
            await step
        finally:
            asyncio.get_running_loop().call_soon(self._stopped.set)


async def _asked() -> Outcome:
    """How the question ends that the present hand is about to ask; nobody else is held up."""
    hand = _HAND.get()
    return await hand.ask() if hand else "done"


class Questioned:
    """Another object, each of whose coroutines is a question."""

    def __init__(self, inner: Any, name: str) -> None:
        self._inner = inner
        self._name = name

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if not asyncio.iscoroutinefunction(found):
            return found

        async def call(*args: Any) -> Any:
            outcome = await _asked()
            if outcome == "refused":
                raise _FAILURES[self._name]()
            if outcome == "garbled" and name == "submit":
                raise GpuBusy(2.0)
            answer = await found(*args)
            if outcome == "unheard":
                raise _FAILURES[self._name]()
            return b"other bytes" if outcome == "garbled" and name == "picture" else answer

        return call


class QuestionedDatabase(Database):
    """The same pools.  A statement, or a transaction, is one question: Postgres sees to it that it is."""

    def __init__(self, inner: Database) -> None:
        self._users, self._service = inner._users, inner._service

    @asynccontextmanager
    async def as_service(self) -> AsyncIterator[Connection]:
        outcome = await _asked()
        if outcome == "refused":
            raise _FAILURES["database"]()
        async with super().as_service() as connection:
            yield connection
        if outcome == "unheard":
            raise _FAILURES["database"]()


class MemoryBucket:
    """A bucket in memory, whose objects are old enough for the sweep."""

    def __init__(self, name: str = DESIGNS) -> None:
        self.name = name
        self.objects: dict[str, bytes] = {}

    async def put(self, key: str, content: bytes, content_type: str) -> None:
        if self.objects.setdefault(key, content) != content:
            raise ObjectExists(key)

    async def get(self, key: str) -> bytes:
        if key not in self.objects:
            raise ObjectMissing(key)
        return self.objects[key]

    async def sign_get(self, keys: Iterable[str], expires_in: int) -> dict[str, str]:
        return {key: f"https://bucket.test/{key}" for key in keys if key in self.objects}

    async def delete(self, keys: Iterable[str]) -> list[str]:
        return [key for key in keys if self.objects.pop(key, None) is not None]

    async def list(self, prefix: str = "") -> AsyncIterator[ObjectInfo]:
        long_ago = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=2)
        for key, content in list(self.objects.items()):
            yield ObjectInfo(key, len(content), "image/png", long_ago)

    async def discard_unfinished(self, before: datetime.datetime) -> int:
        return 0


@dataclass
class Run:
    """A call as the GPU service has it."""

    call: Call
    request: dict[str, Any]
    told: int = 0
    """Events so far."""


@dataclass
class MemoryGpu:
    """A GPU service whose calls go on when the test says so.  ``events`` is all that it has posted."""

    runs: dict[str, Run] = field(default_factory=dict)
    events: list[CallEvent] = field(default_factory=list)
    by_itself: bool = False
    """Calls succeed as soon as somebody asks after them."""
    requests: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What was first asked with a key."""
    made: int = 0

    async def submit(self, key: str, task: Any, request: dict[str, Any]) -> str:
        assert self.requests.setdefault(key, request) == request, "one key, two requests"
        for run in self.runs.values():
            if run.call.key == key:
                return run.call.call_id
        self.made += 1
        call = Call(call_id=f"call-{self.made}", key=key, task=task, status="queued", steps=2, gpu="A10")
        self.runs[call.call_id] = Run(call, request)
        return call.call_id

    async def call(self, call_id: str) -> Call:
        run = self._run(call_id)
        if self.by_itself and run.call.status not in ENDED:
            self.succeed(run, score=90.0)
        return run.call

    async def cancel(self, call_id: str) -> Call:
        run = self._run(call_id)
        if run.call.status not in ENDED:
            self._end(run, status="canceled")
        return run.call

    async def picture(self, call_id: str, n: int) -> bytes:
        return drawn(int(self._run(call_id).request["seed"]))

    def begin(self, run: Run) -> None:
        """Its first step is done."""
        if run.call.status not in ENDED:
            run.call = run.call.model_copy(update={"status": "running", "stage": "generating", "step": 1})
            self._tell(run, "call.progress")

    def succeed(self, run: Run, score: float) -> None:
        if run.call.status not in ENDED:
            self._end(run, status="succeeded", step=2, result=_result(run, score))
            self._tell(run, "call.succeeded")

    def fail(self, run: Run, code: str) -> None:
        if run.call.status not in ENDED:
            self._end(run, status="failed", error=CallError(code=code, message="it broke", retryable=False))
            self._tell(run, "call.failed")

    def forget(self, run: Run) -> None:
        """The service died, or the call's time is over; what it has posted is on its way all the same."""
        del self.runs[run.call.call_id]

    def _end(self, run: Run, **changes: Any) -> None:
        timing = Timing(gpu_seconds=1.0 + run.call.step)
        run.call = run.call.model_copy(update={"stage": None, "timing": timing, **changes})

    def _tell(self, run: Run, kind: Any) -> None:
        run.told += 1
        self.events.append(CallEvent(type=kind, seq=run.told, call=run.call))

    def _run(self, call_id: str) -> Run:
        if call_id not in self.runs:
            raise CallUnknown(call_id)
        return self.runs[call_id]


@cache
def drawn(seed: int) -> bytes:
    """A small picture, another for every seed."""
    kept = io.BytesIO()
    Image.new("RGB", (16, 16), (seed % 251, seed // 251 % 251, 7)).save(kept, "PNG")
    return kept.getvalue()


def _result(run: Run, score: float) -> Any:
    if run.call.task == "enhance":
        return EnhanceResult(prompt=f"a detailed {run.request['prompt']}", answered_by="vlm")
    if run.call.task == "judge":
        return JudgeResult(score=score, verdicts=[], answered_by="vlm")
    seed = int(run.request["seed"])
    content = drawn(seed)
    facts = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content), "seed": seed}
    picture = PictureInfo(n=0, content_type="image/png", width=16, height=16, **facts)
    return ImageResult(images=[picture], native_width=16, native_height=16, resampling="none")


class _Hub:
    def hint(self) -> None:
        """Nobody listens."""


class Workplace:
    """A gateway's worker and webhook handler.  ``die`` and what it had in its hands is gone."""

    def __init__(
        self, name: str, db: Database, gpu: MemoryGpu, bucket: MemoryBucket, settings: Settings, plans: Any
    ) -> None:
        self.hands: list[Hand] = []
        self._name = name
        self._settings = settings
        self._jobs = Jobs(db, plans)
        asked = Jobs(QuestionedDatabase(db), plans)
        buckets: Any = {bucket.name: Questioned(bucket, "bucket")}
        gpu_client: Any = Questioned(gpu, "gpu")
        ingestion = Ingestion(gpu_client, Outside(), buckets[bucket.name])
        self._steps = Steps(asked, gpu_client, buckets, ingestion, settings, name, plans)
        hub: Any = _Hub()
        self._worker = Worker(name, asked, self._steps, hub, settings)
        self._callbacks = Callbacks(self._jobs, settings, name)
        self._deletions = Deletions(QuestionedDatabase(db), buckets, keepers(db))

    async def claim(self) -> int:
        """A round of the loop, with hands for what it has claimed."""
        lease, limits = self._settings.lease_seconds, {"per_user": 3, "in_flight": 9, "batch": 9}
        jobs = [
            *await self._jobs.claim_queued(self._name, lease=lease, **limits),
            *await self._jobs.claim_due(self._name, lease=lease, batch=9),
        ]
        for job in jobs:
            await self._start(self._worker._carry_out(self._steps.advance, job))
        return len(jobs)

    async def receive(self, event: CallEvent, sign: Callable[[bytes, str], dict[str, str]]) -> bool:
        """A webhook; whether it has put a job into these hands."""
        body = event.model_dump_json(by_alias=True).encode()
        job: ClaimedJob | None = await self._callbacks.receive(
            body, sign(body, f"{event.call.call_id}-{event.seq}")
        )
        if job is not None:
            await self._start(self._worker._carry_out(self._steps.settle, job))
        return job is not None

    async def sweep(self, expired: Any) -> None:
        await self._jobs.expire_queued(expired)
        await self._jobs.cancel_orphans()
        await self._jobs.discard_leftovers()
        for stray in await self._jobs.stray_calls():
            await self._start(_spared(self._steps.close(stray)))

    async def delete(self) -> None:
        """What is to be removed from the bucket."""
        await self._start(_spared(self._deletions.carry_out()))

    async def die(self) -> None:
        for hand in self.hands:
            await hand.die()
        self.hands.clear()

    async def go_on(self, hand: Hand, outcome: Outcome = "done") -> None:
        await hand.go_on(outcome)
        self._forget_idle()

    async def finish(self) -> None:
        """Every hand to its end, undisturbed."""
        while self.hands:
            await self.go_on(self.hands[0])

    async def _start(self, step: Coroutine[Any, Any, Any]) -> None:
        self.hands.append(hand := Hand(step))
        await hand.stopped()
        self._forget_idle()

    def _forget_idle(self) -> None:
        self.hands = [hand for hand in self.hands if not hand.over]


async def _spared(chore: Coroutine[Any, Any, Any]) -> None:
    """As the worker's loops have it: what cannot be reached is left for the next round."""
    try:
        await chore
    except (*UNREACHABLE, StorageError):
        return
