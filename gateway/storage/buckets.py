"""Which implementation holds the buckets, by the settings."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx

from gateway.config import Settings
from gateway.storage import LIMIT_BYTES, Buckets
from gateway.storage.local import LocalBucket


@asynccontextmanager
async def open_buckets(settings: Settings) -> AsyncIterator[Buckets]:
    """Every bucket by its name: of Supabase where a project and its key are set, else of this machine."""
    url, secret = settings.supabase_url, settings.supabase_key.get_secret_value()
    if not (url and secret):
        yield {name: _local(settings, name) for name in LIMIT_BYTES}
        return
    from gateway.storage.supabase import TIMEOUT, SupabaseBucket  # noqa: PLC0415 - as in gateway.services

    async with httpx.AsyncClient(timeout=TIMEOUT) as http:
        yield {name: SupabaseBucket(http, url, secret, name=name) for name in LIMIT_BYTES}


def _local(settings: Settings, name: str) -> LocalBucket:
    return LocalBucket(
        settings.data / "buckets",
        name=name,
        signing_key=settings.url_signing_key.get_secret_value(),
        base_url=settings.public_url,
    )
