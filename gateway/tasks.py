"""Work in the background, and its end."""

import asyncio
from collections.abc import Iterable
from typing import Any

AGAIN_SECONDS = 0.1


async def end(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel ``tasks`` and wait until they are over; what they raise is nobody's concern any more.

    They are cancelled until they are: before Python 3.12 ``asyncio.wait_for`` loses a cancellation that
    comes together with its result, and psycopg's pool waits for a connection by it.
    """
    ending = list(tasks)
    while pending := [task for task in ending if not task.done()]:
        for task in pending:
            task.cancel()
        await asyncio.wait(pending, timeout=AGAIN_SECONDS)
    await asyncio.gather(*ending, return_exceptions=True)
