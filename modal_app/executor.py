"""Runs calls on this machine: a queue, one worker thread, results on disk.

What a kill interrupts is forgotten; the gateway, which finds its call unknown, dispatches it again.
"""

import asyncio
import contextlib
import hashlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

from modal_app import catalog, engine
from modal_app.callback import Callback
from modal_app.contract import (
    CONTENT_TYPES,
    ENDED,
    Call,
    CallError,
    CallEvent,
    CallStatus,
    ImageRequest,
    ImageResult,
    PictureInfo,
    ServedModels,
    Task,
)
from modal_app.engine import pictures
from modal_app.results import Record, Results
from modal_app.service import QueueFull

log = logging.getLogger(__name__)

RETRY_AFTER_SECONDS = 2
PROGRESS_SECONDS = 1.0
SWEEP_SECONDS = 60.0
CANCEL_WAIT_SECONDS = 1.0
"""How long a DELETE waits for a running call to end, so that its answer says what the call had cost."""
STOP_SECONDS = 1.5
"""How long a stopping service waits for the step in progress."""

_CALLS = UUID("0b4a5f0e-3c0d-5c55-8f3e-7a1de1f7c2aa")
"""Namespace of call ids, which are derived from the keys: a restarted service finds the same call."""


class _Run:
    """A call that has not ended.  Only the worker thread changes ``call`` once it is running."""

    def __init__(self, call: Call, request: ImageRequest) -> None:
        self.call = call
        self.request = request
        self.submitted = time.monotonic()
        self.cancel = threading.Event()
        self.ended = asyncio.Event()

    def update(self, **changes: Any) -> None:
        self.call = self.call.model_copy(update=changes)

    def spent(self, **seconds: float) -> None:
        rounded = {name: round(value, 6) for name, value in seconds.items()}
        self.update(timing=self.call.timing.model_copy(update=rounded))


class LocalExecutor:
    """Runs calls in order of arrival, one at a time.  ``async with LocalExecutor(...) as executor: ...``

    ``timing.gpu_seconds`` is the duration of ``Engine.run``: text encoding, steps, decoding and
    resampling.  Loading is ``load_seconds``; encoding the files is not charged.
    """

    def __init__(
        self,
        *,
        models: Sequence[str],
        folder: Path,
        callback: Callback | None = None,
        gpu: str = "cpu",
        queue_limit: int = 64,
        preload: Sequence[str] = (),
    ) -> None:
        """OSError when ``folder``, where results are kept, cannot be written to."""
        self._served = ServedModels(models=list(models), gpu=gpu)
        self._results = Results(folder)
        self._callback = callback
        self._queue_limit = queue_limit
        self._preload = preload
        self._engines: dict[str, engine.Engine] = {}
        self._runs: dict[str, _Run] = {}
        self._waiting: deque[_Run] = deque()
        self._running: _Run | None = None
        self._changed = threading.Condition()  # guards the queue, and wakes the worker
        self._stopping = False
        self._tasks: set[asyncio.Task[None]] = set()
        # A daemon, because a stop does not wait for a step that takes minutes.
        self._worker = threading.Thread(target=self._work, name="engine", daemon=True)

    async def __aenter__(self) -> "LocalExecutor":
        self._loop = asyncio.get_running_loop()
        self._results.tidy()
        for record in self._results.unannounced():
            self._start(self._announce(record))
        self._start(self._mention_progress())
        self._start(self._sweep())
        self._worker.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        await asyncio.to_thread(self._worker.join, STOP_SECONDS)
        unfinished = list(self._tasks)
        for task in unfinished:
            task.cancel()
        await asyncio.gather(*unfinished, return_exceptions=True)

    @property
    def stuck(self) -> bool:
        """After the end: the worker sits in native code that nothing can interrupt."""
        return self._worker.is_alive()

    async def submit(self, key: str, task: Task, request: ImageRequest) -> str:
        call_id = str(uuid5(_CALLS, key))
        with self._changed:
            if call_id in self._runs or call_id in self._results:
                return call_id
            if len(self._waiting) >= self._queue_limit:
                raise QueueFull(RETRY_AFTER_SECONDS)
            steps = request.num_inference_steps * request.num_images
            call = Call(
                call_id=call_id, key=key, task=task, status="queued", steps=steps, gpu=self._served.gpu
            )
            self._runs[call_id] = run = _Run(call, request)
            self._waiting.append(run)
            self._changed.notify()
        return call_id

    async def call(self, call_id: str) -> Call | None:
        run = self._runs.get(call_id)
        return run.call if run else self._results.call(call_id)

    async def cancel(self, call_id: str) -> Call | None:
        run = self._runs.get(call_id)
        if run is not None:
            run.cancel.set()
            if self._withdraw(run):
                self._end(run, "canceled", [])
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(run.ended.wait(), CANCEL_WAIT_SECONDS)
        return await self.call(call_id)

    async def picture(self, call_id: str, n: int) -> bytes | None:
        return self._results.picture(call_id, n)

    async def served(self) -> ServedModels:
        return self._served

    def _withdraw(self, run: _Run) -> bool:
        """Take a call out of the queue; False when it was no longer in it."""
        with self._changed:
            if run not in self._waiting:
                return False
            self._waiting.remove(run)
            return True

    # The worker thread.

    def _work(self) -> None:
        for model_id in self._preload:
            with contextlib.suppress(engine.EngineError):  # told to whoever asks for the model
                self._engine(model_id)
        while (run := self._next()) is not None:
            self._carry_out(run)

    def _next(self) -> _Run | None:
        """The next call, running from now on; None when the service stops."""
        with self._changed:
            self._running = None
            self._changed.wait_for(lambda: self._waiting or self._stopping)
            if self._stopping:
                return None
            self._running = run = self._waiting.popleft()
            run.update(status="running")
        run.spent(queue_seconds=time.monotonic() - run.submitted)
        return run

    def _carry_out(self, run: _Run) -> None:
        """Draw, encode, keep.  No error leaves the thread."""
        try:
            drawing = self._draw(run)
            files = self._encode(run, drawing)
        except engine.Canceled:
            if run.cancel.is_set():
                self._end(run, "canceled", [])
            else:  # the service stops: forgotten, as after a kill
                self._forget(run)
        except engine.EngineError as error:
            self._fail(run, error.code, str(error), error.retryable)
        except Exception as error:
            log.exception("call %s failed", run.call.call_id)
            self._fail(run, "engine_failed", f"The engine failed: {type(error).__name__}.", retryable=False)
        else:
            self._end(run, "succeeded", files)

    def _draw(self, run: _Run) -> engine.Drawing:
        started = time.monotonic()
        if run.request.model not in self._engines:
            run.update(stage="loading")
        loaded = self._engine(run.request.model)
        run.spent(load_seconds=time.monotonic() - started)
        run.update(stage="generating")
        started = time.monotonic()
        try:
            return loaded.run(
                run.request,
                lambda step, steps: run.update(step=step, steps=steps),
                lambda: run.cancel.is_set() or self._stopping,
            )
        finally:
            run.spent(gpu_seconds=time.monotonic() - started)

    def _engine(self, model_id: str) -> engine.Engine:
        """Loaded once and kept."""
        if model_id not in self._engines:
            model = catalog.find(model_id)
            assert model is not None, "the front door lets known models through only"
            started = time.monotonic()
            try:
                self._engines[model_id] = engine.load(model)
            except engine.LoadFailed:
                log.exception("%s does not load", model_id)
                raise
            log.info("loaded %s in %.1f s", model_id, time.monotonic() - started)
        return self._engines[model_id]

    def _encode(self, run: _Run, drawing: engine.Drawing) -> list[bytes]:
        """Picture files; the manifest goes into the call."""
        request = run.request
        run.update(stage="encoding", fingerprint=drawing.fingerprint)
        files = [
            pictures.encode(picture.image, request.output_format, request.output_compression)
            for picture in drawing.pictures
        ]
        if run.cancel.is_set():
            raise engine.Canceled("canceled")
        run.update(result=_result(request, drawing, files))
        return files

    def _fail(self, run: _Run, code: str, message: str, retryable: bool) -> None:
        run.update(error=CallError(code=code, message=message[:500], retryable=retryable))
        self._end(run, "failed", [])

    def _end(self, run: _Run, status: CallStatus, files: list[bytes]) -> None:
        """Keep the call on disk, then let go of it, so that it can be found at every moment."""
        call = run.call.model_copy(update={"status": status, "stage": None})
        record = Record(call=call, seq=_seq(call))
        try:
            self._results.save(record, files)
        except OSError:
            log.exception("call %s could not be kept and is forgotten", call.call_id)
            self._forget(run)
            return
        run.update(status=status, stage=None)
        self._runs.pop(call.call_id, None)
        self._on_loop(lambda: self._ended(run, record))

    def _forget(self, run: _Run) -> None:
        self._runs.pop(run.call.call_id, None)
        self._on_loop(run.ended.set)

    def _on_loop(self, function: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended before a step did
            self._loop.call_soon_threadsafe(function)

    # The event loop.

    def _ended(self, run: _Run, record: Record) -> None:
        run.ended.set()
        if not self._stopping:  # else it is announced at the next start
            self._start(self._announce(record))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _announce(self, record: Record) -> None:
        """Tell the gateway of an end; one that it does not take is told again at the next start."""
        if self._callback is not None and await self._callback.deliver(record.event):
            self._results.mark_announced(record)

    async def _mention_progress(self) -> None:
        """Once a second look where the running call stands: the engine never waits for the network."""
        told = ("", 0)
        while self._callback is not None:
            await asyncio.sleep(PROGRESS_SECONDS)
            run = self._running
            if run is None or run.call.status in ENDED:
                continue
            news = (run.call.call_id, _seq(run.call))
            if news != told:
                told = news
                await self._callback.mention(CallEvent(type="call.progress", seq=news[1], call=run.call))

    async def _sweep(self) -> None:
        while True:
            try:
                await asyncio.to_thread(self._results.prune, time.time())
            except OSError:
                log.exception("expired results were not removed")
            await asyncio.sleep(SWEEP_SECONDS)


def _seq(call: Call) -> int:
    """The number of the event that tells how a call stands, derived from how far it has come.

    Higher is later, and the same news has the same number, also when a restarted service tells it.
    """
    if call.status in ENDED:
        return call.steps + 4
    return {None: 0, "loading": 1, "generating": 2 + call.step, "encoding": call.steps + 3}[call.stage]


def _result(request: ImageRequest, drawing: engine.Drawing, files: list[bytes]) -> ImageResult:
    width, height = drawing.native_size
    return ImageResult(
        images=[
            PictureInfo(
                n=n,
                sha256=hashlib.sha256(content).hexdigest(),
                bytes=len(content),
                content_type=CONTENT_TYPES[request.output_format],
                width=picture.image.width,
                height=picture.image.height,
                seed=picture.seed,
            )
            for n, (picture, content) in enumerate(zip(drawing.pictures, files, strict=True))
        ],
        native_width=width,
        native_height=height,
        resampling=drawing.resampling,
    )
