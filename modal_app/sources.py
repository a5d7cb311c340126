"""Files that a call names, fetched from the origins this service was told of and kept by their hash."""

import asyncio
import hashlib
import os
import time
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from modal_app.contract import Source

FILE_LIMIT_BYTES = 2 * 1024**3
"""A LoRA of a large model has up to some 1.2 GB."""
CACHE_LIMIT_BYTES = 8 * 1024**3
TIMEOUT_SECONDS = 60.0
PARTS_AT_ONCE = 4


class SourceError(Exception):
    """A file cannot be had; ``retryable`` when it may be had later."""

    def __init__(self, code: str, message: str, *, retryable: bool) -> None:
        super().__init__(message)
        self.code = code
        self.retryable = retryable


class Sources:
    """``async with Sources(folder, origins) as sources: files = await sources.fetch(request.sources())``"""

    def __init__(self, folder: Path, origins: Sequence[str]) -> None:
        """``origins`` like ``https://example.com``; OSError when the folder cannot be made."""
        self._folder = folder
        self._origins = {_origin(origin) for origin in origins}
        self._fetching: dict[str, asyncio.Task[Path]] = {}
        self._places = asyncio.Semaphore(PARTS_AT_ONCE)
        folder.mkdir(parents=True, exist_ok=True)

    async def __aenter__(self) -> "Sources":
        self._http = httpx.AsyncClient(timeout=TIMEOUT_SECONDS, follow_redirects=False)
        for left in self._folder.glob("*.part"):
            left.unlink(missing_ok=True)
        return self

    async def __aexit__(self, *exc: object) -> None:
        for task in list(self._fetching.values()):
            task.cancel()
        await self._http.aclose()

    async def fetch(self, sources: Sequence[Source]) -> dict[str, Path]:
        """Every file by its sha256, checked against it; SourceError."""
        found = await asyncio.gather(*(self._one(source) for source in sources))
        return {source.sha256: path for source, path in zip(sources, found, strict=True)}

    def forget(self, sha256: str) -> None:
        """Drop the copy of a file.  A call that is about to read it fails, and may be made again."""
        (self._folder / sha256).unlink(missing_ok=True)

    async def _one(self, source: Source) -> Path:
        """A file that several calls want at the same time is fetched once."""
        path = self._folder / source.sha256
        if path.exists():
            os.utime(path)
            return path
        if source.sha256 not in self._fetching:
            task = asyncio.create_task(self._fetched(source, path))
            self._fetching[source.sha256] = task
            task.add_done_callback(lambda _: self._fetching.pop(source.sha256, None))
        return await asyncio.shield(self._fetching[source.sha256])

    async def _fetched(self, source: Source, path: Path) -> Path:
        if _origin(source.url) not in self._origins:
            raise SourceError(
                "source_refused", "A file lies at an address this service may not ask.", retryable=False
            )
        part = path.with_suffix(".part")
        try:
            async with self._places:
                digest = await self._streamed(source.url, part)
            if digest != source.sha256:
                raise SourceError("source_mismatch", "A file is not the one that was named.", retryable=False)
            part.replace(path)
        except httpx.HTTPError as error:
            raise SourceError(
                "source_unavailable", f"A file could not be fetched: {type(error).__name__}.", retryable=True
            ) from error
        finally:
            part.unlink(missing_ok=True)
        await asyncio.to_thread(self._prune)
        return path

    async def _streamed(self, url: str, part: Path) -> str:
        """The sha256 of what was written."""
        digest, size = hashlib.sha256(), 0
        async with self._http.stream("GET", url) as answer:
            if answer.status_code != 200:
                raise SourceError(
                    "source_unavailable",
                    f"A file could not be fetched: the store answered {answer.status_code}.",
                    retryable=answer.status_code >= 500,
                )
            with part.open("wb") as file:
                async for chunk in answer.aiter_bytes():
                    size += len(chunk)
                    if size > FILE_LIMIT_BYTES:
                        raise SourceError("source_too_large", "A file is too large.", retryable=False)
                    digest.update(chunk)
                    file.write(chunk)
        return digest.hexdigest()

    def _prune(self) -> None:
        """Keep within the limit; what a call asked for in the last minutes may be in use."""
        files = sorted((path.stat().st_mtime, path) for path in self._folder.iterdir() if path.suffix == "")
        total = sum(path.stat().st_size for _, path in files)
        for used, path in files:
            if total <= CACHE_LIMIT_BYTES or used > time.time() - 3600:
                break
            total -= path.stat().st_size
            path.unlink(missing_ok=True)


def _origin(url: str) -> tuple[str, str, int | None]:
    parts = urlsplit(url)
    default = {"https": 443, "http": 80}.get(parts.scheme)
    return parts.scheme, (parts.hostname or "").lower(), parts.port or default
