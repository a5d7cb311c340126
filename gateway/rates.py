"""How often a caller may ask, counted in this process: with several gateways, each lets that much through.

A token bucket for each credential and kind of request: it holds a minute's worth, and fills evenly.  What
fails to authenticate is counted by the client's address.  Event streams, health checks and signed addresses
of files are not counted.
"""

import ipaddress
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass

from fastapi import Request

from gateway.config import Settings
from gateway.errors import TooManyRequests
from gateway.metrics.process import RATE_LIMITED

READ_METHODS = ("GET", "HEAD")
WINDOW_SECONDS = 60
REMEMBERED = 10_000
"""Buckets; beyond it those that are full again are forgotten, which changes nothing."""
IPV6_NETWORK_BITS = 64
"""What one customer of a provider has at least: counting single addresses would limit nobody."""


@dataclass(frozen=True)
class Standing:
    """What is left to a caller after a request."""

    limit: str
    per_minute: int
    remaining: int
    reset_seconds: int
    """Until the whole minute's worth is there again."""

    @property
    def headers(self) -> Mapping[str, str]:
        """As draft-ietf-httpapi-ratelimit-headers-10 writes them, and as OpenAI's SDKs read them."""
        return {
            "RateLimit-Policy": f'"{self.limit}";q={self.per_minute};w={WINDOW_SECONDS}',
            "RateLimit": f'"{self.limit}";r={self.remaining};t={self.reset_seconds}',
            "x-ratelimit-limit-requests": str(self.per_minute),
            "x-ratelimit-remaining-requests": str(self.remaining),
            "x-ratelimit-reset-requests": f"{self.reset_seconds}s",
        }


class Limit:
    """Buckets of one kind, by whose they are; ``per_minute`` of 0 limits nothing."""

    def __init__(self, name: str, per_minute: int) -> None:
        self._name = name
        self._per_minute = per_minute
        self._per_second = per_minute / WINDOW_SECONDS
        self._buckets: dict[str, tuple[float, float]] = {}

    def take(self, key: str) -> Standing | None:
        """Take one; TooManyRequests when there is none, None when nothing is limited."""
        if not self._per_minute:
            return None
        tokens = self._tokens(key)
        if tokens < 1:
            RATE_LIMITED.labels(self._name).inc()
            raise self._refusal(tokens)
        self._keep(key, tokens - 1)
        return self._standing(tokens - 1)

    def check(self, key: str) -> None:
        """TooManyRequests when there is none to take."""
        if self._per_minute and (tokens := self._tokens(key)) < 1:
            RATE_LIMITED.labels(self._name).inc()
            raise self._refusal(tokens)

    def _tokens(self, key: str) -> float:
        tokens, at = self._buckets.get(key, (float(self._per_minute), 0.0))
        return min(float(self._per_minute), tokens + (time.monotonic() - at) * self._per_second)

    def _keep(self, key: str, tokens: float) -> None:
        if len(self._buckets) >= REMEMBERED:
            self._buckets = {
                name: bucket
                for name, bucket in self._buckets.items()
                if self._tokens(name) < self._per_minute
            }
        self._buckets[key] = (tokens, time.monotonic())

    def _standing(self, tokens: float) -> Standing:
        missing = self._per_minute - tokens
        return Standing(self._name, self._per_minute, int(tokens), math.ceil(missing / self._per_second))

    def _refusal(self, tokens: float) -> TooManyRequests:
        seconds = math.ceil((1 - tokens) / self._per_second)
        return TooManyRequests(
            f"At most {self._per_minute} {self._name} a minute; try again in {seconds} s.",
            headers={"Retry-After": str(seconds), **self._standing(tokens).headers},
        )


class Rates:
    """The limits of one gateway."""

    def __init__(self, settings: Settings) -> None:
        self._reads = Limit("reads", settings.rate_limit_per_minute)
        self._creates = Limit("creates", settings.rate_limit_creates_per_minute)
        self._failures = Limit("failures", settings.rate_limit_failures_per_minute)

    def take(self, credential: str, method: str) -> Standing | None:
        """Count a request of a known caller; TooManyRequests beyond the limit."""
        return (self._reads if method in READ_METHODS else self._creates).take(credential)

    def count_failure(self, request: Request) -> None:
        """A credential was missing or wrong; TooManyRequests beyond the limit.

        One that is right is let through even then: others may share the address.
        """
        self._failures.take(_network(request))

    def refuse_guesser(self, request: Request) -> None:
        """TooManyRequests where this address has failed too often to be let try a password."""
        self._failures.check(_network(request))


def _network(request: Request) -> str:
    """Whom an address belongs to.  Behind a proxy it is the proxy's, unless Uvicorn is told to trust it."""
    host = request.client.host if request.client else ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if address.version == 4:
        return host
    return str(ipaddress.ip_network((address, IPV6_NETWORK_BITS), strict=False))
