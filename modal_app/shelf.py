"""Files that a call names, on their way from the CPU that fetches them to the GPU that reads them.

A CPU container fetches into a volume, so that no GPU waits for a store.  A GPU container takes a copy, so
that it never holds the volume's files open: a volume with open files cannot be brought up to date.
"""

import hashlib
import shutil
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

from modal_app.contract import Source
from modal_app.sources import SourceError, Sources

COPIES_LIMIT_BYTES = 8 * 1024**3


class Fetching:
    """The CPU's side."""

    def __init__(self, sources: Sources, publish: Callable[[], Awaitable[None]]) -> None:
        """``publish`` makes what was fetched visible to other containers."""
        self._sources = sources
        self._publish = publish

    async def fetch(self, sources: Sequence[Source]) -> None:
        """Put the files on the shelf; SourceError."""
        if sources:
            await self._sources.fetch(sources)
            await self._publish()


class Shelf:
    """The GPU's side.  One thread at a time."""

    def __init__(self, volume: Path, copies: Path, refresh: Callable[[], None]) -> None:
        """``refresh`` makes visible in ``volume`` what other containers wrote."""
        self._volume = volume
        self._copies = copies
        self._refresh = refresh

    def take(self, sources: Sequence[Source], sent: Mapping[str, bytes]) -> dict[str, Path]:
        """Every file by its sha256, checked against it; ``sent`` came with the call.  SourceError."""
        if not sources:
            return {}
        self._copies.mkdir(parents=True, exist_ok=True)
        self._make_room({source.sha256 for source in sources})
        return {source.sha256: self._one(source.sha256, sent.get(source.sha256)) for source in sources}

    def _one(self, sha256: str, content: bytes | None) -> Path:
        copy = self._copies / sha256
        if copy.exists():
            copy.touch()
            return copy
        part = copy.with_suffix(".part")
        if content is not None:
            part.write_bytes(content)
        else:
            shutil.copyfile(self._found(sha256), part)
        with part.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                raise SourceError("source_mismatch", "A file is not the one that was named.", retryable=False)
        return part.replace(copy)

    def _found(self, sha256: str) -> Path:
        path = self._volume / sha256
        if not path.exists():
            self._refresh()
        if not path.exists():
            raise SourceError("source_unavailable", "A file is no longer at hand.", retryable=True)
        return path

    def _make_room(self, needed: set[str]) -> None:
        """The copies used longest ago go first."""
        files = sorted((path.stat().st_mtime, path) for path in self._copies.iterdir())
        total = sum(path.stat().st_size for _, path in files)
        for _, path in files:
            if total <= COPIES_LIMIT_BYTES:
                break
            if path.name not in needed:
                total -= path.stat().st_size
                path.unlink(missing_ok=True)
