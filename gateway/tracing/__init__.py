"""Spans for OpenTelemetry, where ``OTEL_EXPORTER_OTLP_ENDPOINT`` says where to; elsewhere nothing at all.

A request continues the trace of its ``traceparent``.  A job is a trace of its own, whose id is the job's in
32 digits: whichever gateway takes a step, its span belongs there without anything being handed on, and logs
carry the same ``trace_id``.  A request that made a job links to it.  Spans hold ids, never what a user has
written.
"""

from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from datetime import datetime
from typing import TYPE_CHECKING, Literal
from uuid import UUID

from gateway.config import Settings

if TYPE_CHECKING:
    from gateway.tracing.exporter import Exporter

Kind = Literal["internal", "server", "client"]
Value = str | int | float | bool

_exporter: "Exporter | None" = None


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[None]:
    """Spans go out while this is open, if the settings say where to."""
    global _exporter  # noqa: PLW0603 - one destination a process, as OpenTelemetry itself has it
    if not settings.otel_exporter_otlp_endpoint:
        yield
        return
    from gateway.tracing.exporter import Exporter  # noqa: PLC0415 - a second of imports that most never need

    exporter = Exporter(settings)
    _exporter = exporter
    try:
        yield
    finally:
        _exporter = None
        await exporter.close()


def span(name: str, kind: Kind = "internal", **attributes: Value) -> AbstractContextManager[None]:
    """Part of whatever is going on."""
    return _exporter.span(name, kind, attributes) if _exporter else nullcontext()


def request_span(traceparent: str | None, method: str) -> AbstractContextManager[None]:
    """A request that came in, under its client's trace."""
    return _exporter.request_span(traceparent, method) if _exporter else nullcontext()


def job_span(job_id: UUID, name: str, **attributes: Value) -> AbstractContextManager[None]:
    """A step of a job, in the job's own trace."""
    return _exporter.job_span(job_id, name, attributes) if _exporter else nullcontext()


def end_request(method: str, route: str, status: int) -> None:
    """What a request turned out to be."""
    if _exporter:
        _exporter.end_request(method, route, status)


def end_job(job_id: UUID, began: datetime, **attributes: Value) -> None:
    """The span that holds all steps of a job, known once it has ended."""
    if _exporter:
        _exporter.end_job(job_id, began, attributes)


def link_job(job_id: UUID) -> None:
    """What is going on has made this job."""
    if _exporter:
        _exporter.link_job(job_id)


def headers() -> dict[str, str]:
    """What a request to another service carries to continue here."""
    return _exporter.headers() if _exporter else {}
