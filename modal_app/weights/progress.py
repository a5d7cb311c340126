"""How far reading and fetching have come, in bytes."""

import contextlib
from collections.abc import Iterator

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn


class Bar:
    """Progress in bytes; this one shows nothing."""

    def total(self, size: int) -> None:
        """So many bytes more are going to be read or fetched."""

    def advance(self, size: int) -> None:
        """So many of them were."""


@contextlib.contextmanager
def watched(console: Console) -> Iterator[Bar]:
    """Where somebody watches; a log gets none."""
    if not console.is_terminal:
        yield Bar()
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        yield _RichBar(progress)


def size_text(size: int) -> str:
    for unit, one in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= one:
            return f"{size / one:.1f} {unit}"
    return f"{size} B"


class _RichBar(Bar):
    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task("weights", total=0)
        self._total = 0

    def total(self, size: int) -> None:
        self._total += size
        self._progress.update(self._task, total=self._total)

    def advance(self, size: int) -> None:
        self._progress.advance(self._task, size)
