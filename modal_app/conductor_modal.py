"""``conductor.Backend`` on Modal: a ``modal.Dict`` and calls of functions.

Every method of Modal is used in its ``.aio`` form: a blocking one would stop all other requests.
"""

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

import modal

from modal_app.calls import Outcome
from modal_app.conductor import RETRY_AFTER_SECONDS, RunFailed, RunLost
from modal_app.generator import GpuBroken
from modal_app.service import QueueFull

log = logging.getLogger(__name__)

_LOST = (modal.exception.OutputExpiredError, modal.exception.NotFoundError)
_PASSING = (
    modal.exception.ConnectionError,
    modal.exception.ServiceError,
    modal.exception.InternalError,
    modal.exception.ResourceExhaustedError,
)
"""Say nothing of the run: Modal's own servers could not be asked."""

_FAILURES: tuple[tuple[type[Exception], str, str], ...] = (
    (modal.exception.FunctionTimeoutError, "gpu_timeout", "The run took longer than its class allows."),
    (modal.exception.InternalFailure, "gpu_lost", "The GPU's container was lost too often."),
    (modal.exception.RemoteError, "run_interrupted", "The run was interrupted."),  # canceled: with no words
    (GpuBroken, "gpu_failed", "The GPU failed."),
)


class ModalBackend:
    """Over the dict of calls, the class that conducts and the GPU classes by name."""

    def __init__(self, calls: Any, conductor: Any, generators: Mapping[str, Any]) -> None:
        self._calls = calls
        self._conductor = conductor
        self._generators = generators

    async def get(self, key: str) -> Any:
        return await self._calls.get.aio(key)

    async def put(self, key: str, value: Any) -> None:
        await self._calls.put.aio(key, value)

    async def put_if_absent(self, key: str, value: Any) -> bool:
        return bool(await self._calls.put.aio(key, value, skip_if_exists=True))

    async def pop(self, key: str) -> None:
        await self._calls.pop.aio(key, None)

    async def spawn_conductor(self, call_id: str) -> str:
        return await _spawned(self._conductor().conduct, call_id)

    async def spawn_run(self, generator: str, order_text: str) -> str:
        return await _spawned(self._generators[generator]().generate, order_text)

    async def outcome(self, run_id: str, wait_seconds: float) -> Outcome | None:
        try:
            parcel = await modal.FunctionCall.from_id(run_id).get.aio(timeout=wait_seconds)
        except Exception as error:
            failed = failure(error)
            if failed is not None:
                raise failed from error
            if isinstance(error, _PASSING):
                log.warning("run %s cannot be asked for: %s", run_id, type(error).__name__)
                await asyncio.sleep(wait_seconds)
            return None
        return Outcome.unpacked(parcel)

    async def cancel(self, run_id: str) -> None:
        try:
            await modal.FunctionCall.from_id(run_id).cancel.aio()
        except modal.exception.Error as error:
            log.warning("run %s was not canceled: %s", run_id, type(error).__name__)


class ModalBoard:
    """``reporter.Board`` over the same dict, for the thread of a GPU container: here blocking is right."""

    def __init__(self, calls: Any) -> None:
        self._calls = calls

    def read(self, key: str) -> Any:
        return self._calls.get(key)

    def write(self, key: str, value: Any) -> None:
        self._calls.put(key, value)


def failure(error: Exception) -> RunFailed | None:
    """What an exception of ``FunctionCall.get`` says of the run; None when the run goes on."""
    if isinstance(error, (TimeoutError, *_PASSING)):  # Python's own: not ended within the time waited
        return None
    if isinstance(error, _LOST):
        return RunLost()
    for kind, code, message in _FAILURES:
        if isinstance(error, kind):
            return RunFailed(code, message, retryable=True)
    return RunFailed("engine_failed", f"The engine failed: {type(error).__name__}.", retryable=False)


async def _spawned(function: Any, argument: str) -> str:
    try:
        spawned = await function.spawn.aio(argument)
    except modal.exception.ResourceExhaustedError:
        raise QueueFull(RETRY_AFTER_SECONDS) from None
    return str(spawned.object_id)
