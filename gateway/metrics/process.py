"""What this process counts: requests, streams, and what arrives from the GPU service."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

REGISTRY = CollectorRegistry(auto_describe=True)
"""Our own: the library's default one would add the numbers of whatever else is imported."""

HTTP_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)

HTTP_SECONDS = Histogram(
    "tenkaigen_http_request_duration_seconds",
    "Seconds until an answer began, waits that were asked for included. Of this process.",
    ["method", "route", "status"],
    buckets=HTTP_BUCKETS,
    registry=REGISTRY,
)
STREAMS_OPEN = Gauge(
    "tenkaigen_sse_streams_open", "Event streams that are open. Of this process.", registry=REGISTRY
)
STATUS_POLLS = Counter(
    "tenkaigen_status_polls_total", "Questions how a job stands. Of this process.", registry=REGISTRY
)
GPU_WEBHOOKS = Counter(
    "tenkaigen_gpu_webhooks_total",
    "Webhooks of the GPU service by outcome: progress, result, changed_nothing (late, repeated or of an"
    " unknown job), bad_signature, malformed. Of this process.",
    ["outcome"],
    registry=REGISTRY,
)
GPU_REQUESTS = Histogram(
    "tenkaigen_gpu_request_duration_seconds",
    "Seconds of a request to the GPU service; status is 0 without an answer. Of this process.",
    ["method", "route", "status"],
    buckets=HTTP_BUCKETS,
    registry=REGISTRY,
)
RATE_LIMITED = Counter(
    "tenkaigen_rate_limited_total",
    "Requests that were answered 429 by a rate limit: reads, creates, failures. Of this process.",
    ["limit"],
    registry=REGISTRY,
)

for _outcome in ("progress", "result", "changed_nothing", "bad_signature", "malformed"):
    GPU_WEBHOOKS.labels(_outcome)  # a counter that is there from the start shows its first increase
