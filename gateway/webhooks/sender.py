"""Sends what waits: outbox rows become deliveries, deliveries are tried until they end.

Any number of gateways may send; a delivery is claimed for the length of a lease, and the lease of one that
died runs out.  A receiver may therefore see an event twice, under the same ``webhook-id``.
"""

import asyncio
import datetime
import json
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import httpx
import psycopg
import structlog
from psycopg.rows import DictRow
from psycopg_pool import PoolTimeout
from standardwebhooks.webhooks import Webhook

from gateway import tasks, tracing
from gateway.db import Database
from gateway.outside import Outside, OutsideError
from gateway.webhooks import statements as sql

log = structlog.get_logger()

RETRY_SECONDS = (5.0, 300.0, 1800.0, 7200.0, 18_000.0, 36_000.0, 50_400.0, 72_000.0, 86_400.0)
"""Seconds from a failed try to the next: three days in all."""
JITTER = 0.1
"""Share by which a wait is longer or shorter, so that what failed together is not tried together."""
TIMEOUT_SECONDS = 15.0
LEASE_SECONDS = 60.0
TOGETHER = 20
BODY_KEPT = 500
"""Characters of an answer that the log keeps."""
LOOK_SECONDS = 1.0
PRUNE_SECONDS = 3600.0
GONE = 410

Describe = Callable[[DictRow], Awaitable[Mapping[str, Any]]]
"""What an event says of its subject, made anew for every try."""


@dataclass(frozen=True)
class Answer:
    """How one try went."""

    status: int | None = None
    body: str | None = None
    error: str | None = None

    @property
    def ok(self) -> bool:
        return self.status is not None and 200 <= self.status < 300


class Sender:
    """``async with Sender(...)`` sends in the background."""

    def __init__(
        self,
        db: Database,
        outside: Outside,
        describe: Describe,
        *,
        retry_seconds: Sequence[float] = RETRY_SECONDS,
        look_seconds: float = LOOK_SECONDS,
    ) -> None:
        self._db = db
        self._outside = outside
        self._describe = describe
        self._retry_seconds = retry_seconds
        self._look_seconds = look_seconds
        self._wake = asyncio.Event()

    async def __aenter__(self) -> "Sender":
        self._loop = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *exc: object) -> None:
        await tasks.end([self._loop])

    def wake(self) -> None:
        """Something may wait to be sent."""
        self._wake.set()

    async def _run(self) -> None:
        next_prune = 0.0
        while True:
            self._wake.clear()
            sent = 0
            try:
                await self._db.all(sql.ANNOUNCE, {})
                sent = await self._send_due()
                if time.monotonic() >= next_prune:
                    next_prune = time.monotonic() + PRUNE_SECONDS
                    await self._db.do(sql.PRUNE, {})
            except (psycopg.Error, PoolTimeout) as error:
                log.warning("webhooks_not_sent", error=str(error))
            if sent < TOGETHER:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), self._look_seconds)

    async def _send_due(self) -> int:
        due = await self._db.all(sql.CLAIM, {"batch": TOGETHER, "lease": LEASE_SECONDS})
        await asyncio.gather(*(self._send(delivery) for delivery in due))
        return len(due)

    async def _send(self, delivery: DictRow) -> None:
        began = time.monotonic()
        facts = {"delivery_id": str(delivery["id"]), "event_type": delivery["event_type"]}
        try:
            with tracing.span("webhook", "client", **facts, attempt=delivery["attempts"]):
                answer = await self._post(delivery)
        except Exception:  # whatever it was, the other deliveries go on and this one is tried again
            log.exception("webhook_broke", delivery_id=str(delivery["id"]))
            answer = Answer(error="internal_error")
        await self._record(delivery, answer, round((time.monotonic() - began) * 1000))

    async def _post(self, delivery: DictRow) -> Answer:
        body = json.dumps(await self._event(delivery), separators=(",", ":"), default=str)
        headers = {"Content-Type": "application/json", **signed(delivery, body, _now())}
        try:
            async with (
                asyncio.timeout(TIMEOUT_SECONDS),
                self._outside.client() as http,
                http.stream("POST", delivery["url"], content=body, headers=headers) as answer,
            ):
                return Answer(answer.status_code, await _beginning(answer))
        except OutsideError as error:
            return Answer(error=error.code)
        except (TimeoutError, httpx.TimeoutException):
            return Answer(error="timeout")
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return Answer(error=type(error).__name__)

    async def _event(self, delivery: DictRow) -> dict[str, Any]:
        occurred: datetime.datetime = delivery["occurred_at"]
        return {
            "id": f"evt_{delivery['event_id']}",
            "object": "event",
            "type": delivery["event_type"],
            "created_at": int(occurred.timestamp()),
            "timestamp": occurred.astimezone(datetime.UTC).isoformat(),
            "data": dict(await self._describe(delivery)),
        }

    async def _record(self, delivery: DictRow, answer: Answer, duration_ms: int) -> None:
        tries_left = delivery["attempts"] <= len(self._retry_seconds)
        gone = answer.status == GONE
        status = "delivered" if answer.ok else "pending" if tries_left and not gone else "failed"
        seconds = self._retry_seconds[delivery["attempts"] - 1] if status == "pending" else 0.0
        values = {
            **{"id": delivery["id"], "status": status, "gone": gone, "duration_ms": duration_ms},
            **{"seconds": seconds * random.uniform(1 - JITTER, 1 + JITTER), "error": answer.error},
            **{"response_status": answer.status, "response_body": answer.body},
        }
        await self._db.do(sql.RECORD, values)
        facts = {"delivery_id": str(delivery["id"]), "event_type": delivery["event_type"], "status": status}
        log.info("webhook_sent", **facts, response_status=answer.status, error=answer.error)


def signed(delivery: Mapping[str, Any], body: str, at: datetime.datetime) -> dict[str, str]:
    """The three headers of Standard Webhooks; a secret that was just replaced signs as well."""
    message_id = f"msg_{delivery['event_id']}"
    secrets = [secret for secret in (delivery["secret"], delivery["previous_secret"]) if secret]
    signatures = [Webhook(secret).sign(message_id, at, body) for secret in secrets]
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": " ".join(signatures),
    }


async def _beginning(answer: httpx.Response) -> str:
    """As much of the answer as the log keeps, readable."""
    kept = b""
    async for part in answer.aiter_raw():
        kept += part
        if len(kept) >= BODY_KEPT * 4:
            break
    return kept.decode(errors="replace").replace("\x00", "")[:BODY_KEPT]


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
