"""Answers that are streams of events: how they are asked for, sent and documented."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Annotated, Any

from fastapi import Header
from pydantic import BaseModel
from sse_starlette import EventSourceResponse, ServerSentEvent

from gateway.errors import Malformed

HEARTBEAT_SECONDS = 15

LastEventId = Annotated[str | None, Header(alias="Last-Event-ID")]


def documented(title: str) -> dict[int | str, dict[str, Any]]:
    """``responses`` of a route; ``title`` names the example."""
    return {200: {"content": {"text/event-stream": {"schema": {"type": "string", "title": title}}}}}


def event_id(text: str | None) -> int | None:
    """What a client sent as the last id that it saw."""
    if text is None:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise Malformed("Last-Event-ID is not an id of this stream.", code="invalid_last_event_id")
    return int(text)


async def told(
    moves: AsyncIterator[tuple[Any, ...]], show: Callable[..., Awaitable[BaseModel]]
) -> AsyncIterator[ServerSentEvent]:
    """Each of ``moves``, (id, event, what ``show`` is given), as it is sent."""
    async for number, event, *facts in moves:
        shown = await show(*facts)
        yield ServerSentEvent(shown.model_dump_json(), event=event, id=str(number))
        del facts, shown  # not kept while there is nothing to tell


def event_stream(
    events: AsyncIterator[ServerSentEvent], headers: Mapping[str, str] | None = None
) -> EventSourceResponse:
    """``headers`` go beside those that keep every stream out of caches and buffers."""
    always = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return EventSourceResponse(events, ping=HEARTBEAT_SECONDS, headers={**(headers or {}), **always})
