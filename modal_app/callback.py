"""Tell the gateway: sign an event and post it.  Whatever happens, the caller goes on.

An event is a hint; a gateway that misses it asks for the call itself.  Signatures are those of Standard
Webhooks: every try of an event carries the same id, but a time and a signature of its own, because a
receiver refuses what is older than five minutes.
"""

import asyncio
import logging
import random
from datetime import UTC, datetime
from urllib.parse import urlsplit
from uuid import UUID, uuid5

import aiohttp
import httpx
from standardwebhooks.webhooks import Webhook

from modal_app.contract import EVENT_LIMIT_BYTES, CallEvent

log = logging.getLogger(__name__)

TRIES = 5
FIRST_DELAY_SECONDS = 2.0
"""Doubled after every try: 2 + 4 + 8 + 16 = 30 s, give or take the jitter."""
TIMEOUT = aiohttp.ClientTimeout(sock_connect=5.0, sock_read=5.0)
CONNECTIONS = 16

_EVENTS = UUID("6f1d3a54-7c1b-5f0e-9a6b-0d0c9e7a4b11")
_RETRIED_4XX = (408, 429)


class Callback:
    """The one gateway that this service tells.  ``async with Callback(url, secret) as callback: ...``"""

    def __init__(self, url: str, secret: str, *, first_delay_seconds: float = FIRST_DELAY_SECONDS) -> None:
        """ValueError for an address that is none, or a secret that is not one of Standard Webhooks."""
        self._url = _checked(url)
        self._webhook = webhook(secret)
        self._first_delay_seconds = first_delay_seconds

    async def __aenter__(self) -> "Callback":
        trust = httpx.create_ssl_context() if urlsplit(self._url).scheme == "https" else True
        self._http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=CONNECTIONS, ssl=trust),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=TIMEOUT,
        )
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._http.close()

    async def mention(self, event: CallEvent) -> None:
        """One try, for news that the next event makes old."""
        await self._post(event)

    async def deliver(self, event: CallEvent) -> bool:
        """Up to ``TRIES`` tries; whether the gateway took the event."""
        for n in range(TRIES):
            status = await self._post(event)
            if status is not None and not _is_worth_another_try(status):
                return 200 <= status < 300
            if n + 1 < TRIES:
                await asyncio.sleep(self._first_delay_seconds * 2**n * random.uniform(0.8, 1.2))
        log.warning("gave up announcing call %s", event.call.call_id)
        return False

    async def _post(self, event: CallEvent) -> int | None:
        """The status of the answer, or None without one."""
        body = body_of(event)
        headers = signed_headers(self._webhook, event, body, datetime.now(UTC))
        try:
            async with self._http.post(
                self._url, data=body, headers=headers, allow_redirects=False
            ) as answer:
                status = answer.status
        except (aiohttp.ClientError, TimeoutError) as error:
            log.info("gateway not reached: %s", type(error).__name__)
            return None
        if not 200 <= status < 300:
            log.warning("gateway answered %d to %s", status, event.type)
        return status


def _checked(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("the webhook URL is not an http(s) address")
    return url


def webhook(secret: str) -> Webhook:
    """The signer; ValueError when the secret is empty or not base64."""
    try:
        return Webhook(secret)
    except Exception as error:  # binascii's, or the library's own, which is no ValueError
        raise ValueError("the webhook secret is not `whsec_` followed by base64") from error


def event_id(event: CallEvent) -> str:
    """The same for every try, and for the same news told again after a restart."""
    return f"msg_{uuid5(_EVENTS, f'{event.call.key}:{event.type}:{event.seq}').hex}"


def body_of(event: CallEvent) -> str:
    """JSON below ``EVENT_LIMIT_BYTES``; of a call that is too long, fingerprint and preview stay behind."""
    body = event.model_dump_json(by_alias=True)
    if len(body.encode()) < EVENT_LIMIT_BYTES:
        return body
    call = event.call.model_copy(update={"fingerprint": {}, "preview": None})
    return event.model_copy(update={"call": call}).model_dump_json(by_alias=True)


def signed_headers(signer: Webhook, event: CallEvent, body: str, now: datetime) -> dict[str, str]:
    """``now`` has to be aware: the library takes the clock face of any other for UTC."""
    identity = event_id(event)
    return {
        "content-type": "application/json",
        "webhook-id": identity,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": signer.sign(identity, now, body),
    }


def _is_worth_another_try(status: int) -> bool:
    return status >= 500 or status in _RETRIED_4XX
