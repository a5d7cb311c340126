"""Calls on Modal, seen from its CPU functions: the front door's executor, and the conductor behind it.

    front door   submit -> order, one conductor      call, cancel, picture -> from the dict and the result
    conductor    fetches files, spawns the run on a GPU, awaits it, writes the end, posts the webhook
    GPU          draws; tells its progress to the dict

Every step is written down once under the call's id (``calls``), and whoever comes second finds it there: two
requests with one key, two conductors of one call, a conductor that was killed and comes again.  The end is
written before it is told, so the pictures are there when the webhook arrives.
"""

import asyncio
import contextlib
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

from modal_app.callback import Callback
from modal_app.calls import (
    Order,
    Outcome,
    announced_key,
    cancel_key,
    conductor_key,
    dead_letter_key,
    end_key,
    order,
    order_key,
    progress_key,
    run_key,
    seq_of,
    spawned_key,
)
from modal_app.contract import (
    ENDED,
    REQUESTS,
    Call,
    CallError,
    CallEvent,
    ImageRequest,
    LanguageRequest,
    ServedModels,
    Source,
    Task,
)
from modal_app.results import RESULT_TTL_SECONDS, Record
from modal_app.service import QueueFull
from modal_app.sources import SourceError

log = logging.getLogger(__name__)

RETRY_AFTER_SECONDS = 5
PICTURE_WAIT_SECONDS = 20.0
"""For a result that exists but has to be brought from the blob store."""
OUTCOMES_KEPT = 8
"""Results that a front door keeps, so that four pictures of a call are not four downloads of all of them."""

_UNROUTED = CallError(code="model_unavailable", message="No GPU class draws this model any more.")


class RunFailed(Exception):
    """A run that ended without an outcome."""

    def __init__(self, code: str, message: str, *, retryable: bool) -> None:
        super().__init__(message)
        self.error = CallError(code=code, message=message, retryable=retryable)


class RunLost(RunFailed):
    """A run, or its result, that is not there (any more)."""

    def __init__(self) -> None:
        super().__init__("result_lost", "The result is not there any more.", retryable=True)


class Backend(Protocol):
    """A dict that all containers share, and functions that run in containers of their own."""

    async def get(self, key: str) -> Any:
        """What is kept, or None."""
        ...

    async def put(self, key: str, value: Any) -> None: ...

    async def put_if_absent(self, key: str, value: Any) -> bool:
        """False when there was something already; it stays."""
        ...

    async def pop(self, key: str) -> None: ...

    async def spawn_conductor(self, call_id: str) -> str:
        """The function call's id; QueueFull."""
        ...

    async def spawn_run(self, generator: str, order_text: str) -> str:
        """The function call's id, of the GPU class by name; QueueFull."""
        ...

    async def outcome(self, run_id: str, wait_seconds: float) -> Outcome | None:
        """None when the run has not ended after so long; RunFailed, RunLost."""
        ...

    async def cancel(self, run_id: str) -> None:
        """Stop a run or keep it from starting; one that has ended or is not known stays as it is."""
        ...


class ModalExecutor:
    """The front door's side: ``service.Executor`` over a backend.  No method waits for a picture."""

    def __init__(
        self,
        backend: Backend,
        *,
        models: Sequence[str],
        gpu: str,
        spawn_grace_seconds: float = 60.0,
        cancel_wait_seconds: float = 1.0,
        drop_file: Callable[[str], Awaitable[None]] | None = None,
    ) -> None:
        """``gpu`` is the price row of calls until their own GPU is known.

        An order whose conductor nobody asked for within ``spawn_grace_seconds`` counts as lost: whoever took
        it was killed in between.
        """
        self._backend = backend
        self._served = ServedModels(models=list(models), gpu=gpu, tasks=list(REQUESTS))
        self._spawn_grace_seconds = spawn_grace_seconds
        self._cancel_wait_seconds = cancel_wait_seconds
        self._drop_file = drop_file
        self._outcomes: OrderedDict[str, Outcome] = OrderedDict()

    async def submit(self, key: str, task: Task, request: ImageRequest | LanguageRequest) -> str:
        """The call's id.  Whoever writes the order first asks for the conductor."""
        new = order(key, task, request)
        if await self._backend.put_if_absent(order_key(new.call_id), new.text()):
            await self._spawn(new)
        else:
            await self._spawn_if_forgotten(new.call_id)
        return new.call_id

    async def call(self, call_id: str) -> Call | None:
        end, progress, text, spawned = await asyncio.gather(
            *map(self._backend.get, _state_keys(call_id)),
        )
        if end:
            record = Record.model_validate_json(end["record"])
            return record.call if time.time() - end["at"] < RESULT_TTL_SECONDS else None
        if text is None:
            return None
        submitted = Order.model_validate_json(text)
        if spawned is None and time.time() - submitted.submitted_at > self._spawn_grace_seconds:
            return None
        return Call.model_validate_json(progress) if progress else submitted.queued(self._served.gpu)

    async def cancel(self, call_id: str) -> Call | None:
        call = await self.call(call_id)
        if call is None or call.status in ENDED:
            return call
        await self._backend.put(cancel_key(call_id), True)
        if call.status == "queued":
            await self._withdraw(call)
        else:
            await self._wait_for_end(call_id)
        return await self.call(call_id)

    async def picture(self, call_id: str, n: int) -> bytes | None:
        if call_id not in self._outcomes:
            run_id = await self._backend.get(run_key(call_id))
            found = await self._outcome(run_id) if run_id else None
            if found is None:
                return None
            self._keep(call_id, found)
        pictures = self._outcomes[call_id].pictures
        return pictures[n] if 0 <= n < len(pictures) else None

    async def forget(self, sha256: str) -> None:
        """From the shared Volume; the copies of a container go with it, minutes after its last call."""
        if self._drop_file:
            await self._drop_file(sha256)

    async def served(self) -> ServedModels:
        return self._served

    async def _spawn(self, new: Order) -> None:
        """An order without a conductor must not stay: the next request with its key would wait for ever."""
        try:
            await self._backend.spawn_conductor(new.call_id)
        except BaseException:
            await self._backend.pop(order_key(new.call_id))
            raise
        await self._backend.put(spawned_key(new.call_id), time.time())

    async def _spawn_if_forgotten(self, call_id: str) -> None:
        """A second conductor does no harm: it finds that it is the second."""
        text, spawned = await asyncio.gather(
            self._backend.get(order_key(call_id)), self._backend.get(spawned_key(call_id))
        )
        if text is None or spawned is not None:
            return
        kept = Order.model_validate_json(text)
        if time.time() - kept.submitted_at > self._spawn_grace_seconds:
            await self._spawn(kept)

    async def _withdraw(self, call: Call) -> None:
        """End a call that no GPU has begun; its conductor finds it ended and tells the gateway."""
        run_id = await self._backend.get(run_key(call.call_id))
        if run_id:
            await self._backend.cancel(run_id)
        await _end(self._backend, call.model_copy(update={"status": "canceled", "stage": None}))

    async def _wait_for_end(self, call_id: str) -> None:
        """A little, so that the answer says what a canceled run had cost."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._cancel_wait_seconds):
                while await self._backend.get(end_key(call_id)) is None:  # noqa: ASYNC110 - elsewhere
                    await asyncio.sleep(0.1)

    async def _outcome(self, run_id: str) -> Outcome | None:
        try:
            return await self._backend.outcome(run_id, PICTURE_WAIT_SECONDS)
        except RunFailed:
            return None

    def _keep(self, call_id: str, outcome: Outcome) -> None:
        self._outcomes[call_id] = outcome
        if len(self._outcomes) > OUTCOMES_KEPT:
            self._outcomes.popitem(last=False)


class Fetcher(Protocol):
    """Brings files to where GPU containers find them."""

    async def fetch(self, sources: Sequence[Source]) -> None:
        """SourceError."""
        ...


class Conductor:
    """Leads one call after the other, many at a time, from its order to the webhook."""

    def __init__(
        self,
        backend: Backend,
        *,
        routes: Mapping[str, str],
        gpus: Mapping[str, str],
        fetcher: Fetcher,
        callback: Callback | None,
        patience_seconds: float,
        webhook_rounds: int = 1,
        webhook_pause_seconds: float = 0.0,
        progress_seconds: float = 2.0,
        cancel_grace_seconds: float = 10.0,
    ) -> None:
        """``routes``: the GPU class of a model; ``gpus``: the price row of a GPU class.

        A canceled run that goes on for ``cancel_grace_seconds`` is interrupted.
        """
        self._backend = backend
        self._routes = routes
        self._gpus = gpus
        self._fetcher = fetcher
        self._callback = callback
        self._patience_seconds = patience_seconds
        self._webhook_rounds = webhook_rounds
        self._webhook_pause_seconds = webhook_pause_seconds
        self._progress_seconds = progress_seconds
        self._cancel_grace_seconds = cancel_grace_seconds

    async def conduct(self, call_id: str, own_id: str) -> None:
        """Lead the call to its end and tell of it.  ``own_id`` stays the same when this is run again."""
        if not await self._is_mine(call_id, own_id):
            return
        text = await self._backend.get(order_key(call_id))
        if text is None:  # its submitter took it back
            return
        if await self._backend.get(end_key(call_id)) is None:
            await _end(self._backend, await self._ended(Order.model_validate_json(text)))
        await self.announce(call_id)

    async def announce(self, call_id: str) -> bool:
        """Tell the gateway how the call ended; whether it knows.  What it does not take is kept."""
        end = await self._backend.get(end_key(call_id))
        if end is None or self._callback is None:
            return False
        if await self._backend.get(announced_key(call_id)):
            return True
        event = Record.model_validate_json(end["record"]).event
        if not await self._delivered(event):
            await self._backend.put(dead_letter_key(call_id), event.model_dump_json(by_alias=True))
            log.error("the gateway was not told of call %s; the event is kept", call_id)
            return False
        await self._backend.put(announced_key(call_id), True)
        await self._backend.pop(dead_letter_key(call_id))
        return True

    async def _is_mine(self, call_id: str, own_id: str) -> bool:
        """One function call conducts, however often it was spawned or delivered."""
        if await self._backend.put_if_absent(conductor_key(call_id), own_id):
            return True
        return bool(await self._backend.get(conductor_key(call_id)) == own_id)

    async def _ended(self, submitted: Order) -> Call:
        """The call as it ended, one way or another."""
        generator = self._routes.get(submitted.wanted().model)
        if generator is None:  # a deployment took the route away after the front door let the call in
            return _failed(submitted.queued("cpu"), _UNROUTED)
        queued = submitted.queued(self._gpus[generator])
        try:
            run_id = await self._run(submitted)
            return (await self._awaited(submitted, run_id)).call if run_id else _canceled(queued)
        except RunFailed as failed:
            call = await self._last_seen(queued)
            if await self._is_canceled(queued.call_id):
                return _canceled(call)
            return _failed(call, failed.error)
        except SourceError as error:
            refusal = CallError(code=error.code, message=str(error)[:500], retryable=error.retryable)
            return _failed(queued, refusal)

    async def _run(self, submitted: Order) -> str | None:
        """Id of the run, spawned unless a conductor before this one did; None for a canceled call."""
        call_id, wanted = submitted.call_id, submitted.wanted()
        if run_id := await self._backend.get(run_key(call_id)):
            return str(run_id)
        await self._fetcher.fetch(wanted.sources())
        if await self._is_canceled(call_id):
            return None
        run_id = await self._spawned(self._routes[wanted.model], submitted)
        await self._backend.put(run_key(call_id), run_id)
        if await self._is_canceled(call_id):  # by a front door that did not see the run yet
            await self._backend.cancel(run_id)
        return run_id

    async def _spawned(self, generator: str, submitted: Order) -> str:
        """Modal may ask to come back later; a CPU that waits costs little."""
        while True:
            try:
                return await self._backend.spawn_run(generator, submitted.text())
            except QueueFull as full:
                self._check_patience(submitted)
                await asyncio.sleep(full.retry_after_seconds)

    async def _awaited(self, submitted: Order, run_id: str) -> Outcome:
        """The run's outcome; passes on its progress and the wish to cancel it.  RunFailed."""
        watch = _Watch(submitted.call_id, self._cancel_grace_seconds)
        while (outcome := await self._backend.outcome(run_id, self._progress_seconds)) is None:
            try:
                self._check_patience(submitted)
            except RunFailed:
                await self._backend.cancel(run_id)
                raise
            await self._mention(watch)
            if watch.is_overdue(canceled=await self._is_canceled(submitted.call_id)):
                await self._backend.cancel(run_id)
        return outcome

    def _check_patience(self, submitted: Order) -> None:
        if time.time() - submitted.submitted_at > self._patience_seconds:
            raise RunFailed("gpu_timeout", "No GPU drew it in time.", retryable=True)

    async def _mention(self, watch: "_Watch") -> None:
        """Progress, if there is news; a gateway that misses it misses nothing."""
        text = await self._backend.get(progress_key(watch.call_id))
        if self._callback is None or not text:
            return
        call = Call.model_validate_json(text)
        if watch.is_news(seq_of(call)):
            await self._callback.mention(CallEvent(type="call.progress", seq=seq_of(call), call=call))

    async def _last_seen(self, queued: Call) -> Call:
        """As far as is known of a run that left no outcome: what it has cost is in its last report."""
        text = await self._backend.get(progress_key(queued.call_id))
        return Call.model_validate_json(text) if text else queued

    async def _is_canceled(self, call_id: str) -> bool:
        return bool(await self._backend.get(cancel_key(call_id)))

    async def _delivered(self, event: CallEvent) -> bool:
        assert self._callback is not None
        for n in range(self._webhook_rounds):
            if n:
                await asyncio.sleep(self._webhook_pause_seconds)
            if await self._callback.deliver(event):
                return True
        return False


class _Watch:
    """What a conductor remembers of a run between two looks at it."""

    def __init__(self, call_id: str, grace_seconds: float) -> None:
        self.call_id = call_id
        self._grace_seconds = grace_seconds
        self._told = -1
        self._canceled_at: float | None = None

    def is_news(self, seq: int) -> bool:
        """One report of a step is enough, and one that has fallen back comes from a run that begins again."""
        known, self._told = self._told, max(seq, self._told)
        return seq > known

    def is_overdue(self, *, canceled: bool) -> bool:
        """Whether the run goes on although it was canceled a while ago."""
        if not canceled:
            return False
        if self._canceled_at is None:
            self._canceled_at = time.monotonic()
        return time.monotonic() - self._canceled_at >= self._grace_seconds


def _state_keys(call_id: str) -> tuple[str, ...]:
    return end_key(call_id), progress_key(call_id), order_key(call_id), spawned_key(call_id)


async def _end(backend: Backend, call: Call) -> None:
    """Write down how the call ended, unless it already has: the first end counts."""
    record = Record(call=call, seq=seq_of(call)).model_dump_json(by_alias=True)
    await backend.put_if_absent(end_key(call.call_id), {"record": record, "at": time.time()})


def _canceled(call: Call) -> Call:
    return call.model_copy(update={"status": "canceled", "stage": None})


def _failed(call: Call, error: CallError) -> Call:
    return call.model_copy(update={"status": "failed", "stage": None, "error": error})
