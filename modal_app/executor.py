"""Runs calls on this machine: a queue, one worker thread, results on disk.

Files that a call names are fetched while it waits.  Calls that may share a run of their engine do.  What a
kill interrupts is forgotten; the gateway, which finds its call unknown, dispatches it again.
"""

import asyncio
import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from modal_app import catalog, engine
from modal_app.callback import Callback
from modal_app.calls import call_id_of, over_limit, seq_of, steps_of
from modal_app.contract import (
    ENDED,
    REQUESTS,
    Call,
    CallError,
    CallEvent,
    CallStatus,
    ImageRequest,
    LanguageRequest,
    LanguageResult,
    ServedModels,
    Task,
)
from modal_app.previews import Looks
from modal_app.results import Record, Results
from modal_app.service import QueueFull
from modal_app.sources import SourceError, Sources
from modal_app.work import carry_out, encoded, manifest

log = logging.getLogger(__name__)

RETRY_AFTER_SECONDS = 2
PROGRESS_SECONDS = 1.0
SWEEP_SECONDS = 60.0
CANCEL_WAIT_SECONDS = 1.0
"""How long a DELETE waits for a running call to end, so that its answer says what the call had cost."""
STOP_SECONDS = 1.5
"""How long a stopping service waits for the step in progress."""
PICTURES_TOGETHER = 4
"""Pictures of several calls that may share one run."""
FETCH_SLICE_SECONDS = 0.1
"""How long the worker waits for files before it looks again whether the call was canceled."""


class _Run:
    """A call that has not ended.  Only the worker thread changes ``call`` once it is running."""

    def __init__(
        self, call: Call, request: ImageRequest | LanguageRequest, files: Future[dict[str, Path]]
    ) -> None:
        self.call = call
        self.request = request
        self.files = files
        self.submitted = time.monotonic()
        self.cancel = threading.Event()
        self.metered_since: float | None = None
        self.share = 1.0
        """Of the seconds of a run that it shares."""
        self.ended = asyncio.Event()

    @property
    def pictures(self) -> int:
        return self.request.num_images if isinstance(self.request, ImageRequest) else 0

    @property
    def over_limit(self) -> bool:
        """Whether the call has taken more of the GPU than its caller can pay for."""
        limit, since = self.request.limit_gpu_seconds, self.metered_since
        return limit is not None and since is not None and (time.monotonic() - since) * self.share > limit

    def update(self, **changes: Any) -> None:
        self.call = self.call.model_copy(update=changes)

    def spent(self, **seconds: float) -> None:
        rounded = {name: round(value, 6) for name, value in seconds.items()}
        self.update(timing=self.call.timing.model_copy(update=rounded))


class _Stepper:
    """Follows a run's steps, and looks at its pictures now and then."""

    def __init__(self, run: _Run) -> None:
        self._run = run
        self.look = Looks(lambda preview: run.update(preview=preview)).look

    def __call__(self, step: int, steps: int) -> None:
        self._run.update(step=step, steps=steps)


class LocalExecutor:
    """Runs calls in order of arrival, one at a time.  ``async with LocalExecutor(...) as executor: ...``

    ``timing.gpu_seconds`` is the duration of ``Engine.run``: text encoding, steps, decoding and
    resampling; calls that share a run share its seconds by their pictures.  Loading is ``load_seconds``;
    encoding the files is not charged.
    """

    def __init__(
        self,
        *,
        models: Sequence[str],
        folder: Path,
        callback: Callback | None = None,
        origins: Sequence[str] = (),
        recipe_secret: str = "",
        gpu: str = "cpu",
        queue_limit: int = 64,
        preload: Sequence[str] = (),
    ) -> None:
        """OSError when ``folder``, where results and fetched files are kept, cannot be written to.

        ``origins`` are where files may be fetched from.  Without a ``recipe_secret`` pictures carry none.
        """
        self._served = ServedModels(models=list(models), gpu=gpu, tasks=list(REQUESTS))
        self._results = Results(folder / "calls")
        self._sources = Sources(folder / "sources", origins)
        self._recipe_secret = recipe_secret
        self._callback = callback
        self._queue_limit = queue_limit
        self._preload = preload
        self._engines: dict[str, engine.Engine] = {}
        self._runs: dict[str, _Run] = {}
        self._waiting: deque[_Run] = deque()
        self._running: list[_Run] = []
        self._changed = threading.Condition()  # guards the queue, and wakes the worker
        self._stopping = False
        self._tasks: set[asyncio.Task[None]] = set()
        # A daemon, because a stop does not wait for a step that takes minutes.
        self._worker = threading.Thread(target=self._work, name="engine", daemon=True)

    async def __aenter__(self) -> "LocalExecutor":
        self._loop = asyncio.get_running_loop()
        await self._sources.__aenter__()
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
        await self._sources.__aexit__(*exc)

    @property
    def stuck(self) -> bool:
        """After the end: the worker sits in native code that nothing can interrupt."""
        return self._worker.is_alive()

    async def submit(self, key: str, task: Task, request: ImageRequest | LanguageRequest) -> str:
        call_id = call_id_of(key)
        with self._changed:
            if call_id in self._runs or call_id in self._results:
                return call_id
            if len(self._waiting) >= self._queue_limit:
                raise QueueFull(RETRY_AFTER_SECONDS)
            call = Call(
                call_id=call_id,
                key=key,
                task=task,
                status="queued",
                steps=steps_of(request),
                gpu=self._served.gpu,
            )
            files = asyncio.run_coroutine_threadsafe(self._sources.fetch(request.sources()), self._loop)
            self._runs[call_id] = run = _Run(call, request, files)
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

    async def forget(self, sha256: str) -> None:
        self._sources.forget(sha256)
        engine.forgettings += 1

    async def served(self) -> ServedModels:
        return self._served.model_copy(update={"warm": sorted(self._engines)})

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
        while runs := self._next():
            self._carry_out(runs)

    def _next(self) -> list[_Run]:
        """The next call and those that share its run, running from now on; empty when the service stops."""
        with self._changed:
            self._running = []
            self._changed.wait_for(lambda: self._waiting or self._stopping)
            if self._stopping:
                return []
            first = self._waiting.popleft()
            runs = [first, *self._companions(first)]
            for run in runs[1:]:
                self._waiting.remove(run)
            for run in runs:
                run.update(status="running")
            self._running = runs
        for run in runs:
            run.spent(queue_seconds=time.monotonic() - run.submitted)
        return runs

    def _companions(self, first: _Run) -> list[_Run]:
        """Waiting calls that would draw the same pictures in one run with the first as alone."""
        loaded = self._engines.get(first.request.model)
        if not isinstance(loaded, engine.BatchEngine) or type(first.request) is not ImageRequest:
            return []
        key, room, found = loaded.batch_key(first.request), PICTURES_TOGETHER - first.pictures, []
        for run in self._waiting if key is not None else ():
            request = run.request
            if type(request) is not ImageRequest or request.model != first.request.model:
                continue
            if run.pictures <= room and loaded.batch_key(request) == key:
                found.append(run)
                room -= run.pictures
        return found

    def _carry_out(self, runs: list[_Run]) -> None:
        """Run, keep.  No error leaves the thread."""
        ready = []
        for run in runs:
            with self._failures(run):
                self._files(run)
                ready.append(run)
        if len(ready) == 1:
            with self._failures(ready[0]):
                self._finish(ready[0], self._run_alone(ready[0]))
        elif ready:
            self._run_together(ready)

    @contextlib.contextmanager
    def _failures(self, run: _Run) -> Iterator[None]:
        """Whatever goes wrong in the block ends the call."""
        try:
            yield
        except engine.Canceled:
            if run.cancel.is_set():
                self._end(run, "canceled", [])
            elif run.over_limit:
                error = over_limit(run.request)
                self._fail(run, error.code, error.message, error.retryable)
            else:  # the service stops: forgotten, as after a kill
                self._forget(run)
        except (engine.EngineError, SourceError) as error:
            self._fail(run, error.code, str(error), error.retryable)
        except Exception as error:
            log.exception("call %s failed", run.call.call_id)
            self._fail(run, "engine_failed", f"The engine failed: {type(error).__name__}.", retryable=False)

    def _files(self, run: _Run) -> dict[str, Path]:
        """What the call names, once it is here; SourceError, Canceled."""
        while not run.files.done():
            if self._unwanted(run):
                raise engine.Canceled("canceled")
            with contextlib.suppress(TimeoutError):
                run.files.result(FETCH_SLICE_SECONDS)
        return run.files.result()

    def _run_alone(self, run: _Run) -> engine.Drawing | LanguageResult:
        loaded = self._loaded(run)
        files = self._files(run)
        with self._metered([run]):
            return carry_out(loaded, run.request, files, self._stepper(run), lambda: self._unwanted(run))

    def _run_together(self, runs: list[_Run]) -> None:
        """Several calls in one run of their engine; each ends for itself."""
        results: list[engine.Drawing | engine.Canceled] | None = None
        try:
            loaded = self._loaded(runs[0])
            assert isinstance(loaded, engine.BatchEngine)
            with self._metered(runs):
                results = loaded.run_batch([self._item(run) for run in runs])
        except Exception as error:
            for run in runs:
                with self._failures(run):
                    raise error
            return
        for run, result in zip(runs, results, strict=True):
            with self._failures(run):
                if isinstance(result, engine.Canceled):
                    raise result
                self._finish(run, result)

    def _item(self, run: _Run) -> engine.Item:
        assert isinstance(run.request, ImageRequest)
        return engine.Item(run.request, run.files.result(), self._stepper(run), lambda: self._unwanted(run))

    def _loaded(self, run: _Run) -> engine.Engine:
        """The call's engine, loaded for it if need be."""
        started = time.monotonic()
        if run.request.model not in self._engines:
            run.update(stage="loading")
        loaded = self._engine(run.request.model)
        run.spent(load_seconds=time.monotonic() - started)
        return loaded

    @contextlib.contextmanager
    def _metered(self, runs: list[_Run]) -> Iterator[None]:
        """The seconds of the block, shared by the calls' pictures."""
        whole = sum(max(1, run.pictures) for run in runs)
        started = time.monotonic()
        for run in runs:
            run.metered_since, run.share = started, max(1, run.pictures) / whole
            run.update(stage="generating")
        try:
            yield
        finally:
            seconds = time.monotonic() - started
            for run in runs:
                run.spent(gpu_seconds=seconds * run.share)

    def _stepper(self, run: _Run) -> engine.OnStep:
        return _Stepper(run)

    def _unwanted(self, run: _Run) -> bool:
        return run.cancel.is_set() or run.over_limit or self._stopping

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

    def _finish(self, run: _Run, outcome: engine.Drawing | LanguageResult) -> None:
        """The outcome, and its files, go into the call."""
        files: list[bytes] = []
        if isinstance(outcome, engine.Drawing):
            files = self._encode(run, outcome)
        else:
            run.update(result=outcome)
        if run.cancel.is_set():
            raise engine.Canceled("canceled")
        self._end(run, "succeeded", files)

    def _encode(self, run: _Run, drawing: engine.Drawing) -> list[bytes]:
        """Picture files; the manifest goes into the call."""
        request = run.request
        assert isinstance(request, ImageRequest)
        run.update(stage="encoding", fingerprint=drawing.fingerprint)
        files = encoded(request, drawing, self._recipe_secret)
        run.update(result=manifest(request, drawing, files))
        return files

    def _fail(self, run: _Run, code: str, message: str, retryable: bool) -> None:
        run.update(error=CallError(code=code, message=message[:500], retryable=retryable))
        self._end(run, "failed", [])

    def _end(self, run: _Run, status: CallStatus, files: list[bytes]) -> None:
        """Keep the call on disk, then let go of it, so that it can be found at every moment."""
        call = run.call.model_copy(update={"status": status, "stage": None, "preview": None})
        record = Record(call=call, seq=seq_of(call))
        try:
            self._results.save(record, files)
        except OSError:
            log.exception("call %s could not be kept and is forgotten", call.call_id)
            self._forget(run)
            return
        run.update(status=status, stage=None, preview=None)
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
        told: set[tuple[str, int]] = set()
        while self._callback is not None:
            await asyncio.sleep(PROGRESS_SECONDS)
            news = {
                (run.call.call_id, seq_of(run.call)): run.call
                for run in self._running
                if run.call.status not in ENDED
            }
            for known, call in news.items():
                if known not in told:
                    await self._callback.mention(CallEvent(type="call.progress", seq=known[1], call=call))
            told = set(news)

    async def _sweep(self) -> None:
        while True:
            try:
                await asyncio.to_thread(self._results.prune, time.time())
            except OSError:
                log.exception("expired results were not removed")
            await asyncio.sleep(SWEEP_SECONDS)
