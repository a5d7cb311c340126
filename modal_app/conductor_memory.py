"""``conductor.Backend`` inside one process, with the faults of the real one at hand.

Containers are ``Generator`` objects, inputs run in threads, values are pickled on their way as they would
be on Modal.  A container can be killed in the middle of an input, which is then delivered again to a fresh
one; a run can be interrupted, after which its container takes the next; spawns can come twice; the dict can
be slow; results can expire.
"""

import asyncio
import ctypes
import pickle
import threading
from collections.abc import Callable, Mapping
from typing import Any
from uuid import uuid4

from modal_app.calls import Outcome, conductor_key, end_key, run_key
from modal_app.conductor import RETRY_AFTER_SECONDS, Conductor, RunFailed, RunLost
from modal_app.generator import Generator, GpuBroken
from modal_app.service import QueueFull


class Interruption(BaseException):
    """Raised in the thread of a run, wherever it is; like Modal's, no ``Exception``."""


class MemoryBackend:
    """``async with MemoryBackend({"Class": make_generator}) as backend: ...``

    ``conductor`` has to be set before the first call.
    """

    conductor: Conductor

    def __init__(
        self,
        generators: Mapping[str, Callable[["MemoryBackend"], Generator]],
        *,
        queue_limit: int = 1000,
        delay_seconds: float = 0.0,
        retries: int = 1,
    ) -> None:
        """A container for each of ``generators``; ``delay_seconds`` is how slow the dict is."""
        self.spawns_twice = False
        self._make = generators
        self._containers: dict[str, Generator] = {}
        self._pools = {name: asyncio.Lock() for name in generators}
        self._queue_limit = queue_limit
        self._delay_seconds = delay_seconds
        self._retries = retries
        self._kept: dict[str, bytes] = {}
        self._runs: dict[str, _Run] = {}
        self._asked: set[str] = set()
        self._conducting: dict[str, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> "MemoryBackend":
        return self

    async def __aexit__(self, *exc: object) -> None:
        for run in self._runs.values():
            run.interrupt()
        unfinished = list(self._tasks)
        for task in unfinished:
            task.cancel()
        await asyncio.gather(*unfinished, return_exceptions=True)

    # The dict, as containers with an event loop see it, and as threads do.

    async def get(self, key: str) -> Any:
        await asyncio.sleep(self._delay_seconds)
        return self.read(key)

    async def put(self, key: str, value: Any) -> None:
        await asyncio.sleep(self._delay_seconds)
        self.write(key, value)

    async def put_if_absent(self, key: str, value: Any) -> bool:
        await asyncio.sleep(self._delay_seconds)
        made = pickle.dumps(value)
        return self._kept.setdefault(key, made) is made

    async def pop(self, key: str) -> None:
        await asyncio.sleep(self._delay_seconds)
        self._kept.pop(key, None)

    def read(self, key: str) -> Any:
        kept = self._kept.get(key)
        return None if kept is None else pickle.loads(kept)  # noqa: S301 - our own bytes

    def write(self, key: str, value: Any) -> None:
        self._kept[key] = pickle.dumps(value)

    # Functions in containers of their own.

    async def spawn_conductor(self, call_id: str) -> str:
        if len(self._waiting()) >= self._queue_limit:
            raise QueueFull(RETRY_AFTER_SECONDS)
        self._asked.add(call_id)
        ids = [f"fc-{uuid4().hex}" for _ in range(2 if self.spawns_twice else 1)]
        for own_id in ids:
            self._conduct(call_id, own_id)
        return ids[0]

    async def spawn_run(self, generator: str, order_text: str) -> str:
        run_id = f"fc-{uuid4().hex}"
        self._runs[run_id] = run = _Run(order_text)
        self._start(self._carried_out(generator, run))
        return run_id

    async def outcome(self, run_id: str, wait_seconds: float) -> Outcome | None:
        run = self._runs.get(run_id)
        if run is None:
            raise RunLost
        await asyncio.wait([run.result], timeout=wait_seconds)
        if not run.result.done():
            return None
        parcel = run.result.result()
        if isinstance(parcel, RunFailed):
            raise parcel
        return Outcome.unpacked(pickle.loads(pickle.dumps(parcel)))  # noqa: S301 - our own bytes

    async def cancel(self, run_id: str) -> None:
        if run := self._runs.get(run_id):
            run.canceled = True
            run.interrupt()

    # Faults.

    def kill_container(self, call_id: str) -> None:
        """As a preemption ends the call's container in the middle of its work."""
        run = self._runs[self.read(run_key(call_id))]
        run.killed = True
        run.interrupt()

    def kill_conductor(self, call_id: str) -> None:
        """End the call's conductor wherever it is; its input is delivered again."""
        own_id = self.read(conductor_key(call_id))
        self._conducting[own_id].cancel()
        self._conduct(call_id, own_id)

    def expire(self, call_id: str) -> None:
        """Forget the result of the call's run."""
        del self._runs[self.read(run_key(call_id))]

    def runs_of(self, call_id: str) -> int:
        """How often the call was given to a container."""
        return sum(run.deliveries for run in self._runs.values() if call_id in run.order_text)

    def _waiting(self) -> list[str]:
        """Calls that no container has begun and that have not ended otherwise."""
        return [each for each in self._asked if not self.runs_of(each) and not self.read(end_key(each))]

    def _conduct(self, call_id: str, own_id: str) -> None:
        self._conducting[own_id] = self._start(self.conductor.conduct(call_id, own_id))

    def _start(self, work: Any) -> "asyncio.Task[Any]":
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _carried_out(self, name: str, run: "_Run") -> None:
        """Deliver the input until it has ended, each time to a container that lives."""
        failures = 0
        async with self._pools[name]:
            while not run.result.done():
                if run.canceled:
                    run.result.set_result(_interrupted())
                    return
                ended = await run.delivered(self._container(name))
                if run.killed or isinstance(ended, GpuBroken):
                    del self._containers[name]
                    failures += not run.killed
                    run.killed = False
                    if failures > self._retries:
                        run.result.set_result(RunFailed("gpu_failed", "The GPU failed.", retryable=True))
                elif isinstance(ended, dict):
                    run.result.set_result(ended)
                elif not run.canceled:
                    run.result.set_result(_raised(ended))

    def _container(self, name: str) -> Generator:
        """The pool's one container, started if need be."""
        if name not in self._containers:
            self._containers[name] = self._make[name](self)
            self._containers[name].start()
        return self._containers[name]


class _Run:
    """An input of a GPU class and what became of it."""

    def __init__(self, order_text: str) -> None:
        self.order_text = order_text
        self.result: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.canceled = self.killed = False
        self.deliveries = 0
        self._guard = threading.Lock()
        self._thread: int | None = None

    def interrupt(self) -> None:
        """Raise ``Interruption`` in the thread, if there is one, at its next bytecode."""
        with self._guard:
            if self._thread is not None:
                ident, kind = ctypes.c_ulong(self._thread), ctypes.py_object(Interruption)
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ident, kind)

    async def delivered(self, generator: Generator) -> Any:
        """The parcel, or what was raised instead of it."""
        self.deliveries += 1
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[Any] = loop.create_future()

        def tell(what: Any) -> None:
            if not ended.done():
                ended.set_result(what)

        def work() -> None:
            what = self._worked(generator)
            if not loop.is_closed():
                loop.call_soon_threadsafe(tell, what)

        threading.Thread(target=work, name="container", daemon=True).start()
        return await ended

    def _worked(self, generator: Generator) -> Any:
        try:
            with self._guard:
                self._thread = threading.get_ident()
            try:
                parcel = generator.generate(self.order_text)
            finally:
                with self._guard:
                    self._thread = None
            for _ in range(100):  # an interruption that was already raised arrives here, not later
                pass
        except BaseException as error:
            return error
        return parcel


def _raised(error: BaseException) -> RunFailed:
    return RunFailed("engine_failed", f"The engine failed: {type(error).__name__}.", retryable=False)


def _interrupted() -> RunFailed:
    return RunFailed("run_interrupted", "The run was interrupted.", retryable=True)
