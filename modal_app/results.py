"""Ended calls and their pictures on disk, so that a restarted service still answers for them.

``<folder>/<call_id>/`` holds the pictures ``0``, ``1``, … and, written last and renamed into place,
``call.json``.  A folder without it is what a kill left behind, and counts as nothing.
"""

import contextlib
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from modal_app.contract import Call, CallEvent, ImageResult, Message

RESULT_TTL_SECONDS = 7 * 24 * 3600.0
"""How long an ended call waits for somebody to pull its pictures."""
FETCHED_TTL_SECONDS = 3600.0
"""How long it stays once every picture was pulled: long enough for a pull that has to be repeated."""

_CALL_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Record(Message):
    """What ``call.json`` holds."""

    call: Call
    seq: int
    """Number of the event that announces the end."""
    announced: bool = False

    @property
    def event(self) -> CallEvent:
        """``call.failed`` for every end without pictures; the call's status tells a cancel from a failure."""
        succeeded = self.call.status == "succeeded"
        return CallEvent(type="call.succeeded" if succeeded else "call.failed", seq=self.seq, call=self.call)


class Results:
    """The folder of ended calls.  Methods are short and may be called from any thread."""

    def __init__(self, folder: Path) -> None:
        """OSError when the folder cannot be made."""
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def save(self, record: Record, pictures: list[bytes]) -> None:
        """Keep an ended call; OSError when the disk refuses, and then nothing of it counts."""
        folder = self._folder / record.call.call_id
        folder.mkdir(exist_ok=True)
        for n, content in enumerate(pictures):
            (folder / str(n)).write_bytes(content)
        _write(folder / "call.json", record)

    def __contains__(self, call_id: str) -> bool:
        return bool(_CALL_ID.fullmatch(call_id)) and (self._folder / call_id / "call.json").exists()

    def call(self, call_id: str) -> Call | None:
        """The ended call, or None when there is no such call (any more)."""
        record = self._record(call_id)
        return record.call if record else None

    def picture(self, call_id: str, n: int) -> bytes | None:
        """The bytes of the n-th picture, which counts as pulled from now on; None when there is none."""
        if call_id not in self:
            return None
        folder = self._folder / call_id
        try:
            content = (folder / str(n)).read_bytes()
            _fetched(folder, n).touch()
        except FileNotFoundError:
            return None
        return content

    def unannounced(self) -> Iterator[Record]:
        """Calls whose end the gateway may not know of."""
        for folder in self._folder.iterdir():
            record = self._record(folder.name)
            if record is not None and not record.announced:
                yield record

    def mark_announced(self, record: Record) -> None:
        """The gateway knows.  Not being able to write that down only means telling it again."""
        with contextlib.suppress(OSError):
            announced = record.model_copy(update={"announced": True})
            _write(self._folder / record.call.call_id / "call.json", announced)

    def tidy(self) -> None:
        """Remove what a kill left behind.  Only before anything is saved: a save in progress looks alike."""
        for folder in self._folder.iterdir():
            if folder.name not in self:
                shutil.rmtree(folder, ignore_errors=True)

    def prune(self, now: float) -> None:
        """Remove calls that are past their time at ``now``, in seconds since the epoch."""
        for folder in self._folder.iterdir():
            if folder.name in self and self._is_past(folder, now):
                (folder / "call.json").unlink(missing_ok=True)  # first: from here on it counts as nothing
                shutil.rmtree(folder, ignore_errors=True)

    def _is_past(self, folder: Path, now: float) -> bool:
        if now - (folder / "call.json").stat().st_mtime > RESULT_TTL_SECONDS:
            return True
        call = self.call(folder.name)
        if call is None or not isinstance(call.result, ImageResult):
            return False
        marks = [_fetched(folder, picture.n) for picture in call.result.images]
        return all(mark.exists() and now - mark.stat().st_mtime > FETCHED_TTL_SECONDS for mark in marks)

    def _record(self, call_id: str) -> Record | None:
        if not _CALL_ID.fullmatch(call_id):
            return None
        try:
            return Record.model_validate_json((self._folder / call_id / "call.json").read_bytes())
        except (FileNotFoundError, ValidationError):
            return None


def _fetched(folder: Path, n: int) -> Path:
    """An empty file whose time is that of the last pull of picture ``n``."""
    return folder / f"{n}.fetched"


def _write(path: Path, record: Record) -> None:
    part = path.with_suffix(".part")
    part.write_text(record.model_dump_json(by_alias=True))
    part.replace(path)
