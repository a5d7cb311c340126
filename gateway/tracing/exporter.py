"""The OpenTelemetry side: imported only where an endpoint is configured."""

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from datetime import datetime
from uuid import UUID

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, StatusCode, TraceFlags
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from gateway.config import Settings

Attributes = Mapping[str, str | int | float | bool]

SPAN_ID_MASK = 2**64 - 1
_KINDS = {"internal": SpanKind.INTERNAL, "server": SpanKind.SERVER, "client": SpanKind.CLIENT}
_job: ContextVar[UUID | None] = ContextVar("job", default=None)
"""Whose span is about to be made, for the generator of ids."""
_propagator = TraceContextTextMapPropagator()


class Exporter:
    """Sends spans in batches, from a thread of its own."""

    def __init__(self, settings: Settings) -> None:
        resource = Resource.create({"service.name": settings.otel_service_name})
        endpoint = f"{settings.otel_exporter_otlp_endpoint.rstrip('/')}/v1/traces"
        headers = _pairs(settings.otel_exporter_otlp_headers.get_secret_value())
        self._provider = TracerProvider(resource=resource, id_generator=_JobIds(), shutdown_on_exit=False)
        self._provider.add_span_processor(
            BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint, headers=headers))
        )
        self._tracer = self._provider.get_tracer("tenkaigen")

    async def close(self) -> None:
        """Send what is left."""
        await asyncio.to_thread(self._provider.shutdown)

    @contextmanager
    def span(
        self,
        name: str,
        kind: str,
        attributes: Attributes,
        context: Context | None = None,
    ) -> Iterator[None]:
        """An error marks the span by its type; its message may hold anything."""
        with self._tracer.start_as_current_span(
            name,
            context=context,
            kind=_KINDS[kind],
            attributes=_named(attributes),
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                yield
            except BaseException as error:
                span.set_status(StatusCode.ERROR)
                span.set_attribute("error.type", type(error).__name__)
                raise

    def request_span(self, traceparent: str | None, method: str) -> AbstractContextManager[None]:
        context = _propagator.extract({"traceparent": traceparent} if traceparent else {}, Context())
        return self.span(method, "server", {"http.request.method": method}, context)

    def job_span(self, job_id: UUID, name: str, attributes: Attributes) -> AbstractContextManager[None]:
        root = trace.set_span_in_context(NonRecordingSpan(_context_of(job_id)), Context())
        return self.span(name, "internal", {"job_id": str(job_id), **attributes}, root)

    def end_request(self, method: str, route: str, status: int) -> None:
        span = trace.get_current_span()
        span.update_name(f"{method} {route}")
        span.set_attributes({"http.route": route, "http.response.status_code": status})
        if status >= 500:
            span.set_status(StatusCode.ERROR)

    def end_job(self, job_id: UUID, began: datetime, attributes: Attributes) -> None:
        mark = _job.set(job_id)
        try:
            named = _named({"job_id": str(job_id), **attributes})
            started = int(began.timestamp() * 1e9)
            self._tracer.start_span("job", context=Context(), attributes=named, start_time=started).end()
        finally:
            _job.reset(mark)

    def link_job(self, job_id: UUID) -> None:
        span = trace.get_current_span()
        span.add_link(_context_of(job_id))
        span.set_attribute("tenkaigen.job_id", str(job_id))

    def headers(self) -> dict[str, str]:
        carrier: dict[str, str] = {}
        _propagator.inject(carrier)
        return carrier


class _JobIds(RandomIdGenerator):
    """Random ids; those of a job where ``_job`` names one."""

    def generate_trace_id(self) -> int:
        job = _job.get()
        return _context_of(job).trace_id if job else super().generate_trace_id()

    def generate_span_id(self) -> int:
        job = _job.get()
        return _context_of(job).span_id if job else super().generate_span_id()


def _context_of(job_id: UUID) -> SpanContext:
    """Where the steps of a job belong; every gateway derives the same."""
    flags = TraceFlags(TraceFlags.SAMPLED)
    return SpanContext(job_id.int, job_id.int & SPAN_ID_MASK, is_remote=True, trace_flags=flags)


def _named(attributes: Attributes) -> dict[str, str | int | float | bool]:
    return {name if "." in name else f"tenkaigen.{name}": value for name, value in attributes.items()}


def _pairs(text: str) -> dict[str, str]:
    """``name=value,name=value``, as OpenTelemetry writes headers."""
    pairs = (pair.partition("=") for pair in text.split(",") if "=" in pair)
    return {name.strip(): value.strip() for name, _, value in pairs}
