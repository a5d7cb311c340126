"""The GPU service's signed webhook.  Anything that comes twice, late or out of order changes nothing."""

import hashlib
from uuid import UUID

import structlog
from pydantic import ValidationError
from standardwebhooks.webhooks import Webhook

from gateway.config import Settings
from gateway.errors import Malformed, Unauthenticated
from gateway.jobs.lifecycle import ClaimedJob
from gateway.jobs.repository import Jobs
from gateway.metrics.process import GPU_WEBHOOKS
from gateway.usage import usd_micros
from modal_app.contract import CallEvent

log = structlog.get_logger()


class Callbacks:
    """Receives events; returns the job that its result has put into our hands, if any."""

    def __init__(self, jobs: Jobs, settings: Settings, worker: str) -> None:
        self._jobs = jobs
        self._settings = settings
        self._worker = worker
        secrets = (settings.webhook_secret, settings.webhook_secret_previous)
        self._verifiers = [Webhook(s.get_secret_value()) for s in secrets if s.get_secret_value()]

    async def receive(self, body: bytes, headers: dict[str, str]) -> ClaimedJob | None:
        """Unauthenticated for a bad signature, Malformed for a signed body that is not an event."""
        if not any(_is_signed(verifier, body, headers) for verifier in self._verifiers):
            GPU_WEBHOOKS.labels("bad_signature").inc()
            log.warning("webhook_refused", reason="signature missing, wrong or too old")
            raise Unauthenticated(
                "The webhook's signature is missing, wrong, or too old.", code="bad_signature"
            )
        try:
            event = CallEvent.model_validate_json(body)
        except ValidationError as error:
            GPU_WEBHOOKS.labels("malformed").inc()
            raise Malformed("The signed body is not an event of a call.") from error
        return await self._take(event, headers["webhook-id"], body)

    async def _take(self, event: CallEvent, webhook_id: str, body: bytes) -> ClaimedJob | None:
        key = _place(event.call.key)
        if event.type == "call.progress":
            patience = self._settings.webhook_patience_seconds
            GPU_WEBHOOKS.labels("progress").inc()
            await self._jobs.record_progress(key, event.call, event.seq, patience)
            return None
        job = await self._jobs.record_result(
            key,
            event.call,
            usd_micros=usd_micros(event.call.gpu, event.call.timing.gpu_seconds),
            worker=self._worker,
            lease=self._settings.lease_seconds,
            webhook_id=webhook_id,
            body_sha256=hashlib.sha256(body).hexdigest(),
        )
        GPU_WEBHOOKS.labels("changed_nothing" if job is None else "result").inc()
        if job is None:
            log.info("webhook_changed_nothing", key=event.call.key, type=event.type)
        return job


def _is_signed(verifier: Webhook, body: bytes, headers: dict[str, str]) -> bool:
    """The library raises its own error for a wrong signature, and others for malformed headers or bodies."""
    try:
        verifier.verify(body, headers, json_parse=False)
    except Exception:
        return False
    return True


def _place(key: str) -> tuple[UUID, int, int]:
    """(job, seq, attempt) of a call key, whose form the contract has checked."""
    job, seq, attempt = key.split(":")
    return UUID(job), int(seq), int(attempt)
