"""Structured logs: one JSON object a line, with the request's id, never with a prompt, key or signed URL."""

import logging
import sys
from contextvars import ContextVar

import structlog
from structlog.types import EventDict, WrappedLogger

REQUEST_ID: ContextVar[str] = ContextVar("request_id")
"""Id of the request that is being answered; tasks that it starts carry it on."""


def configure(level: str) -> None:
    """Log to standard error from ``level`` on; Uvicorn's own lines go the same way."""
    number = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[
            _with_request_id,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(
        level=max(number, logging.WARNING), stream=sys.stderr, format="%(levelname)s %(name)s %(message)s"
    )


def _with_request_id(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    request_id = REQUEST_ID.get("")
    return {**event, "request_id": request_id} if request_id else event
