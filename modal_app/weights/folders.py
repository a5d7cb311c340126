"""What lies in a folder of the cache, what should lie there, and what of it is missing."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any

from modal_app.weights.hub import BLOCK_BYTES, Entry, Hub, WeightsError
from modal_app.weights.needs import Wanted
from modal_app.weights.progress import Bar

MANIFEST = "manifest.json"
MANIFEST_SCHEMA = 1
SUFFIXES = frozenset({".json", ".txt", ".model", ".jinja", ".safetensors"})
"""All that is ever fetched: formats that cannot carry code, whatever a pattern says."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What ``manifest.json`` holds: where a folder's files came from and what they are."""

    repository: str
    revision: str | None
    """As the catalogue asked for; None: the head of the main branch, which then was ``commit``."""
    commit: str
    below: str
    patterns: tuple[str, ...]
    files: dict[str, dict[str, Any]]
    """``sha256`` and ``size`` in bytes, by path."""
    schema: int = MANIFEST_SCHEMA

    @property
    def size(self) -> int:
        return sum(int(file["size"]) for file in self.files.values())


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a folder will hold, and what of it is missing."""

    wanted: Wanted
    folder: Path
    commit: str
    entries: tuple[Entry, ...]
    missing: tuple[Entry, ...]
    stale: tuple[str, ...] = ()
    """Files of an earlier commit that this one has no more: loaders might prefer them."""

    @property
    def size(self) -> int:
        return sum(entry.size for entry in self.entries)

    @property
    def missing_bytes(self) -> int:
        return sum(entry.size - _part_bytes(self.folder, entry) for entry in self.missing)


def plan(hub: Hub, parts: Sequence[Wanted], cache: Path, bar: Bar | None = None) -> list[Plan]:
    """What each part takes; files that are there already are read and compared."""
    plans: dict[str, Plan] = {}
    for part in parts:
        if part.unless and _fills(plans, part.unless):
            continue
        plans[part.folder] = _planned(hub, part, cache / part.folder, bar or Bar())
    return list(plans.values())


def verify(folder: Path, bar: Bar | None = None) -> list[str]:
    """What is wrong with a fetched folder by its manifest, a line a file; WeightsError without a manifest."""
    manifest = read_manifest(folder)
    if manifest is None:
        raise WeightsError("no_manifest", f"{folder} has no {MANIFEST}: it was never fetched to its end")
    bar = bar or Bar()
    bar.total(manifest.size)
    return [
        f"{folder / entry.path}: {'missing' if not (folder / entry.path).is_file() else 'other bytes'}"
        for entry in _recorded(manifest)
        if not _right(folder, entry, bar)
    ]


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a folder, or None where there is none that can be read."""
    try:
        facts = json.loads((folder / MANIFEST).read_text())
        if facts["schema"] != MANIFEST_SCHEMA:
            return None
        return Manifest(**{**facts, "patterns": tuple(facts["patterns"])})
    except (OSError, ValueError, KeyError, TypeError):
        return None


class Digest:
    """Of a file as its bytes pass by: what the Hub states of it, and always SHA-256."""

    def __init__(self, entry: Entry) -> None:
        self._entry = entry
        self._sha256 = hashlib.sha256()
        self._git = hashlib.sha1(b"blob %d\0" % entry.size, usedforsecurity=False)

    def update(self, block: bytes) -> None:
        self._sha256.update(block)
        if self._entry.sha256 is None:
            self._git.update(block)

    @property
    def sha256(self) -> str:
        return self._sha256.hexdigest()

    @property
    def right(self) -> bool:
        if self._entry.sha256 is not None:
            return self.sha256 == self._entry.sha256
        return self._git.hexdigest() == self._entry.git_sha1


def part_of(folder: Path, entry: Entry) -> Path:
    """Named by what it will be: the rest of another commit's file does not fit to it."""
    return folder / f"{entry.path}.{(entry.sha256 or entry.git_sha1 or '')[:16]}.part"


def _planned(hub: Hub, part: Wanted, folder: Path, bar: Bar) -> Plan:
    manifest, stale = read_manifest(folder), tuple[str, ...]()
    commit = part.revision or (
        manifest.commit if manifest and manifest.repository == part.repository else None
    )
    if manifest and manifest.commit == commit and set(part.patterns) <= set(manifest.patterns):
        entries = _recorded(manifest)
        part = replace(part, patterns=manifest.patterns)
    else:
        commit, entries, stale = _listed(hub, part, folder, commit, manifest)
        if manifest and manifest.commit == commit:
            part = replace(part, patterns=tuple(dict.fromkeys((*manifest.patterns, *part.patterns))))
    there = [entry for entry in entries if (folder / entry.path).is_file()]
    bar.total(sum(entry.size for entry in there))
    right = {entry.path for entry in there if _right(folder, entry, bar)}
    missing = tuple(entry for entry in entries if entry.path not in right)
    return Plan(wanted=part, folder=folder, commit=commit, entries=entries, missing=missing, stale=stale)


def _recorded(manifest: Manifest) -> tuple[Entry, ...]:
    return tuple(Entry(path=path, **facts) for path, facts in manifest.files.items())


def _listed(
    hub: Hub, part: Wanted, folder: Path, commit: str | None, manifest: Manifest | None
) -> tuple[str, tuple[Entry, ...], tuple[str, ...]]:
    """(commit, files wanted, files that are there but not of the commit), as the Hub has them."""
    listing = hub.listing(part.repository, commit)
    if commit is not None and listing.commit != commit:
        raise WeightsError(
            "file_missing", f"{part.repository} answered with {listing.commit} in place of {commit}"
        )
    found = {entry.path: entry for entry in _inside(listing.entries, part.below)}
    for pattern in part.patterns:
        if pattern.endswith(".safetensors") and not any(_matches(path, pattern) for path in found):
            raise WeightsError("file_missing", f"{part.repository} holds nothing like {pattern}")
    # What another row took of the repository stays, and stays at one commit with the rest.
    entries = tuple(
        entry
        for path, entry in found.items()
        if any(_matches(path, pattern) for pattern in part.patterns) or (folder / path).is_file()
    )
    return (
        listing.commit,
        entries,
        tuple(path for path in (manifest.files if manifest else ()) if path not in found),
    )


def _inside(entries: Sequence[Entry], below: str) -> Iterator[Entry]:
    """Files that may be fetched at all, with paths from ``below`` on."""
    for entry in entries:
        path = PurePosixPath(entry.path.removeprefix(below))
        plain = not path.is_absolute() and ".." not in path.parts and "\\" not in entry.path
        if entry.path.startswith(below) and plain and path.suffix in SUFFIXES and path.name != MANIFEST:
            yield replace(entry, path=path.as_posix())


def _matches(path: str, pattern: str) -> bool:
    names, patterns = path.split("/"), pattern.split("/")
    return len(names) == len(patterns) and all(map(fnmatchcase, names, patterns))


def _fills(plans: dict[str, Plan], folder: str) -> bool:
    """Whether a plan for a folder above puts files into this one."""
    return any(
        f"{above}/{entry.path}".startswith(f"{folder}/")
        for above, each in plans.items()
        for entry in each.entries
    )


def _right(folder: Path, entry: Entry, bar: Bar) -> bool:
    """Whether the file is there with the bytes that it should have."""
    path = folder / entry.path
    if not path.is_file() or path.stat().st_size != entry.size:
        return False
    digest = Digest(entry)
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
            bar.advance(len(block))
    return digest.right


def _part_bytes(folder: Path, entry: Entry) -> int:
    part = part_of(folder, entry)
    return min(part.stat().st_size, entry.size) if part.is_file() else 0
