"""Bytes from the Hub into folders: several files at once, resumable, checked, the manifest last."""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path

from modal_app.weights.folders import MANIFEST, Digest, Manifest, Plan, part_of, read_manifest
from modal_app.weights.hub import BLOCK_BYTES, Entry, Hub, WeightsError
from modal_app.weights.progress import Bar, size_text

FILES_AT_ONCE = 4
"""One connection to the Hub rarely fills a data centre's line."""
TRIES = 5
"""In a row without a single new byte."""
FIRST_DELAY_SECONDS = 1.0
"""Doubled after every try."""
RESERVE_BYTES = 500_000_000
"""Of the disk, left free: a full one breaks more than this download."""


def check_space(cache: Path, needed: int) -> None:
    """WeightsError unless the folder can be made and so many bytes more fit."""
    with _disk_errors(cache):
        cache.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(cache).free
    if needed and free < needed + RESERVE_BYTES:
        raise WeightsError(
            "disk_full",
            f"{cache} has {size_text(free)} free; {size_text(needed)} are to come, and some has to stay",
        )


def carry_out(hub: Hub, plans: Sequence[Plan], bar: Bar) -> None:
    """Fetch what is missing, folder by folder; a folder's manifest last."""
    for each in plans:
        bar.total(each.missing_bytes)
    for each in plans:
        with _disk_errors(each.folder):
            if each.stale or each.missing:
                _withdraw(each)
            _fetch_all(hub, each, bar)
            _write_manifest(each)


def _withdraw(each: Plan) -> None:
    """Nothing vouches for a folder while it changes to another commit."""
    manifest = read_manifest(each.folder)
    if manifest is not None and manifest.commit != each.commit:
        (each.folder / MANIFEST).unlink()
    for path in each.stale:
        (each.folder / path).unlink(missing_ok=True)


def _fetch_all(hub: Hub, each: Plan, bar: Bar) -> None:
    stop = threading.Event()
    with ThreadPoolExecutor(FILES_AT_ONCE, thread_name_prefix="weights") as pool:
        try:
            files = [pool.submit(_fetch_file, hub, each, bar, stop, entry) for entry in each.missing]
            for file in as_completed(files):  # so that the first failure is told, and at once
                file.result()
        except BaseException:  # also Ctrl-C: the other threads end at their next block
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _fetch_file(hub: Hub, each: Plan, bar: Bar, stop: threading.Event, entry: Entry) -> None:
    """To ``<path>.<digest>.part``, then, if the bytes are right, to its name."""
    part = part_of(each.folder, entry)
    part.parent.mkdir(parents=True, exist_ok=True)
    digest = Digest(entry)
    with part.open("ab+") as file:
        file.seek(0)
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
        for block in _received(hub, each, entry, stop, file.tell()):
            file.write(block)
            digest.update(block)
            bar.advance(len(block))
        file.flush()
        os.fsync(file.fileno())
    if not digest.right:
        part.unlink()
        raise WeightsError(
            "checksum_mismatch",
            f"{each.wanted.repository}: {entry.path} arrived with other bytes than the Hub states",
        )
    part.replace(each.folder / entry.path)


def _received(hub: Hub, each: Plan, entry: Entry, stop: threading.Event, at: int) -> Iterator[bytes]:
    """The rest of a file from ``at`` on, over as many connections as it takes."""
    path, tries = each.wanted.below + entry.path, 0
    while at < entry.size:
        began, failure = at, WeightsError("cut_off", f"{entry.path} was cut off", retryable=True)
        try:
            for block in hub.read(each.wanted.repository, each.commit, path, at):
                yield block
                at += len(block)
                if stop.is_set():
                    raise failure
        except WeightsError as error:
            failure = error
        tries = 1 if at > began else tries + 1
        if at < entry.size:
            if stop.is_set() or tries == TRIES or not failure.retryable:
                raise failure
            stop.wait(FIRST_DELAY_SECONDS * 2 ** (tries - 1))


def _write_manifest(each: Plan) -> None:
    """Of what the files are now, when it says anything new."""
    known = read_manifest(each.folder)
    manifest = Manifest(
        repository=each.wanted.repository,
        revision=each.wanted.revision,
        commit=each.commit,
        below=each.wanted.below,
        patterns=each.wanted.patterns,
        files={
            entry.path: {"sha256": entry.sha256 or _sha256(each.folder / entry.path), "size": entry.size}
            for entry in each.entries
        },
    )
    if known == manifest:
        return
    each.folder.mkdir(parents=True, exist_ok=True)
    draft = each.folder / f"{MANIFEST}.part"
    draft.write_text(json.dumps(asdict(manifest), indent=1, sort_keys=True))
    draft.replace(each.folder / MANIFEST)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        code = "disk_full" if full else "disk_failed"
        raise WeightsError(code, f"{folder} cannot be written to: {error.strerror}") from error
