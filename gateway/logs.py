"""Structured logs: one JSON object a line, with the request's id, never with a prompt, key or signed URL.

What others have written comes in by errors: a database tells the row it refuses, a client the address it
could not reach.  Errors are therefore told by their type and the part of their message that is ours or
Postgres' own, and what looks like a secret is struck out of every line.
"""

import logging
import re
import sys
import traceback
from collections.abc import Iterator
from contextvars import ContextVar

import psycopg
import structlog
from pydantic import ValidationError
from structlog.types import EventDict, WrappedLogger

REQUEST_ID: ContextVar[str] = ContextVar("request_id")
"""Id of the request that is being answered; tasks that it starts carry it on."""

_SECRET = re.compile(
    r"""\b(?:tk|sb_secret|sb_publishable)_[\w-]{8,}   # keys
    | \bwhsec_[\w+/=]+
    | \beyJ[\w-]+\.[\w-]+\.[\w-]*                     # tokens
    | (?<=[Bb]earer\ )\S+
    | (?<=://)[^\s/:@'"]+:[^\s/@'"]+(?=@)             # a password in an address
    | (?<=[?])[^\s'"<>]+=[^\s'"<>]*                   # a query: signatures stand there
    | [^\s@'"<>()]+@[^\s@'"<>()]+\.[a-z]{2,}          # an e-mail address
    """,
    re.VERBOSE,
)
# Behind DETAIL Postgres tells values of the row that it refuses.
_FIELDS = ("error", "exception", "reason", "event")
"""Those that may hold others' words; the rest are ids, names and numbers of ours."""


def configure(level: str) -> None:
    """Log to standard error from ``level`` on; what libraries have to say goes the same way."""
    number = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[*_PROCESSORS, structlog.processors.JSONRenderer()],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LINES)
    logging.basicConfig(level=max(number, logging.WARNING), handlers=[handler])


class _JsonLines(logging.Formatter):
    """What Uvicorn, asyncio and others log, in the form of our own lines."""

    def format(self, record: logging.LogRecord) -> str:
        event: EventDict = {"event": record.getMessage(), "logger": record.name, "exc_info": record.exc_info}
        for process in _PROCESSORS:
            event = process(None, record.levelname.lower(), event)  # type: ignore[assignment, arg-type]
        return str(structlog.processors.JSONRenderer()(None, "", event))


def _with_request_id(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    request_id = REQUEST_ID.get("")
    return {**event, "request_id": request_id} if request_id else event


def _with_exception(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """``exc_info`` as text."""
    found = event.pop("exc_info", None)
    if not found:
        return event
    error = found if isinstance(found, BaseException) else found[1] if isinstance(found, tuple) else None
    error = error or sys.exc_info()[1]
    return {**event, "exception": "".join(_lines(error))} if error else event


def _lines(error: BaseException) -> Iterator[str]:
    """A traceback, the first cause first, with messages that hold nobody's words."""
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if before:
        yield from _lines(before)
        yield "\nled to\n\n"
    yield from traceback.format_tb(error.__traceback__)
    yield f"{type(error).__module__}.{type(error).__qualname__}: {_message(error)}\n"


def _message(error: BaseException) -> str:
    if isinstance(error, psycopg.Error):
        return f"{error.sqlstate} {error.diag.message_primary or ''}".strip()
    if isinstance(error, ValidationError):
        return f"{error.error_count()} errors in {error.title}"
    return str(error)


def _redacted(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    for name in _FIELDS:
        if isinstance(text := event.get(name), str):
            event[name] = _SECRET.sub("…", text.partition("\nDETAIL:")[0])
    return event


_PROCESSORS = (
    _with_request_id,
    structlog.processors.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    _with_exception,
    _redacted,
)
LINES = _JsonLines()
"""For a handler of Python's own logging."""
