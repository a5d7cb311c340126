"""One try of a client to have a job made, and what tells it from a repeat of an earlier try.

A repeat is known by its ``Idempotency-Key``; without one, by ``x-stainless-retry-count``, which OpenAI's
SDKs send with every try (0 at the first), together with the same credential and the same body.
"""

import hashlib
import json
from dataclasses import dataclass, replace
from typing import Annotated, Any

from fastapi import Depends, Header, Request

RETRY_WINDOW_SECONDS = 600.0
"""How far back a repeat without a key looks for a job that has ended; one that runs it always finds."""

OVERTAKING_SECONDS = 0.25
"""How long a repeat that finds nothing waits for a first try that it may have overtaken: a gateway under load
takes a moment between a request and its first statement."""

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        description="The same key and body within 24 hours replay the first answer.",
    ),
]
RetryCount = Annotated[str | None, Header(alias="x-stainless-retry-count", include_in_schema=False)]


@dataclass(frozen=True)
class Submission:
    """What a creating request tells of itself."""

    operation: str
    """Method and path: one key, or one body, at two places is two wishes."""
    request_id: str
    key: str | None = None
    retry: int | None = None
    """0 for a first try; None from a client that does not count."""
    content: Any = None
    """The body, as plain JSON, where it is not the job's own."""

    @property
    def repeats(self) -> bool:
        """The client says that it has asked before."""
        return bool(self.retry)

    def asking(self, content: Any) -> "Submission":
        """The same request with its own body in place of the job's."""
        return replace(self, content=content)

    def keyed(self, key: str) -> "Submission":
        """The same request under a key of its own."""
        return replace(self, key=key)

    def sha256(self, content: Any) -> str:
        """Equal for requests that ask for the same; ``content`` is the job's body as plain JSON."""
        asked = self.content if self.content is not None else content
        canonical = json.dumps([self.operation, asked], sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()


async def _submission(
    request: Request, idempotency_key: IdempotencyKey = None, retry_count: RetryCount = None
) -> Submission:
    return Submission(
        operation=f"{request.method} {request.url.path}",
        request_id=request.state.request_id,
        key=idempotency_key,
        retry=_count(retry_count),
    )


Submitted = Annotated[Submission, Depends(_submission)]


def _count(text: str | None) -> int | None:
    """None for anything that is not a small number: an odd header may be ignored."""
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 5 else None
