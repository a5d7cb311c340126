"""A gateway that dies at a named place, each time it comes there while the file of that name exists.

``python -m tests.support.dying_gateway``; DIE_IN is the folder of the files, which die with the process:
one file, one death.
"""

import os
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gateway.jobs.repository import Jobs
from gateway.storage.deletions import Deletions
from gateway.storage.local import LocalBucket

STORED, REMOVED, RECORDED = "stored", "removed", "recorded"
"""After the object is stored and before its job is completed; after objects are removed and before that is
recorded; after it is recorded and before the order is forgotten."""


def die(place: str) -> None:
    order = Path(os.environ["DIE_IN"]) / place
    if order.exists():
        order.unlink()
        os._exit(9)


def before(owner: type, name: str, place: str) -> None:
    original: Callable[..., Any] = getattr(owner, name)

    async def dying(*arguments: Any, **named: Any) -> Any:
        die(place)
        return await original(*arguments, **named)

    setattr(owner, name, dying)


def after(owner: type, name: str, place: str) -> None:
    original: Callable[..., Any] = getattr(owner, name)

    async def dying(*arguments: Any, **named: Any) -> Any:
        answer = await original(*arguments, **named)
        die(place)
        return answer

    setattr(owner, name, dying)


if __name__ == "__main__":
    before(Jobs, "complete", STORED)
    after(LocalBucket, "delete", REMOVED)
    before(Deletions, "_forget", RECORDED)
    runpy.run_module("gateway", run_name="__main__")
