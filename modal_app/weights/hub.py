"""Where weights come from: the Hub, as a protocol of two methods, and as the real one."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

BLOCK_BYTES = 1024 * 1024


class WeightsError(Exception):
    """Weights that cannot be had or are not right; the code is stable, the message one line for a person."""

    def __init__(self, code: str, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.retryable = retryable


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A file of a repository: its size in bytes and at least one digest."""

    path: str
    size: int
    sha256: str | None
    git_sha1: str | None = None
    """Git's own digest, all that the Hub states of small files."""


@dataclass(frozen=True)
class Listing:
    """The files of a repository at a commit."""

    commit: str
    entries: tuple[Entry, ...]


class Hub(Protocol):
    """Where weights come from.  Both methods raise WeightsError."""

    def listing(self, repository: str, revision: str | None) -> Listing:
        """At a commit, or at the head of the main branch."""
        ...

    def read(self, repository: str, commit: str, path: str, start: int) -> Iterator[bytes]:
        """The bytes of a file from ``start`` on, in blocks."""
        ...


class HubOnline:
    """The Hub, over ``huggingface_hub``: its endpoint, its token (``HF_TOKEN``), its offline switch."""

    def __init__(self, endpoint: str | None = None) -> None:
        """Without an ``endpoint``: the library's own, which ``HF_ENDPOINT`` sets."""
        self._endpoint = endpoint

    def listing(self, repository: str, revision: str | None) -> Listing:
        from huggingface_hub import HfApi  # noqa: PLC0415 - only where something is fetched

        with _hub_errors(repository):
            found = HfApi(self._endpoint).model_info(repository, revision=revision, files_metadata=True)
        entries = tuple(
            Entry(
                path=file.rfilename,
                size=file.size or 0,
                sha256=file.lfs.sha256 if file.lfs else None,
                git_sha1=None if file.lfs else file.blob_id,
            )
            for file in found.siblings or []
        )
        return Listing(str(found.sha), entries)

    def read(self, repository: str, commit: str, path: str, start: int) -> Iterator[bytes]:
        from huggingface_hub import get_session, hf_hub_url, hf_raise_for_status  # noqa: PLC0415
        from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # noqa: PLC0415

        url = hf_hub_url(repository, path, revision=commit, endpoint=self._endpoint)
        # Compressed, a range would be one of other bytes than those that the digest is of.
        headers = {**build_hf_headers(), "Range": f"bytes={start}-", "Accept-Encoding": "identity"}
        with (
            _hub_errors(repository),
            get_session().stream("GET", url, headers=headers, follow_redirects=True) as answer,
        ):
            hf_raise_for_status(answer)
            skip = start if answer.status_code != 206 else 0  # the whole file came, not the range
            for block in answer.iter_bytes(BLOCK_BYTES):
                if len(block) > skip:
                    yield block[skip:]
                skip = max(0, skip - len(block))


@contextlib.contextmanager
def _hub_errors(repository: str) -> Iterator[None]:
    """The library's errors as WeightsError, the special ones first."""
    from huggingface_hub import errors  # noqa: PLC0415 - only where something is fetched

    try:
        yield
    except errors.GatedRepoError as error:
        raise WeightsError(
            "repository_gated",
            f"{repository} is given to accounts only that accepted its terms: "
            "accept them on its page of the Hub, and set HF_TOKEN to a token of that account",
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise WeightsError(
            "repository_missing", f"{repository} is not on the Hub, or private: then set HF_TOKEN"
        ) from error
    except (errors.RevisionNotFoundError, errors.EntryNotFoundError) as error:
        raise WeightsError(
            "file_missing", f"{repository} does not have the commit or file any more"
        ) from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        raise WeightsError(
            "hub_failed",
            f"the Hub answered {status} for {repository}",
            retryable=status >= 500 or status in (408, 429),
        ) from error
    except (errors.HTTPError, ConnectionError) as error:  # type: ignore[attr-defined]
        raise WeightsError(
            "no_network",
            f"the Hub cannot be reached for {repository} ({type(error).__name__})",
            retryable=not isinstance(error, errors.OfflineModeIsEnabled),
        ) from error
