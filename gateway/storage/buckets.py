"""Which implementation holds the buckets, by the settings."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from gateway.config import Settings
from gateway.storage import DESIGNS, UPLOADS, Buckets
from gateway.storage.local import LocalBucket


@asynccontextmanager
async def open_buckets(settings: Settings) -> AsyncIterator[Buckets]:
    """Every bucket by its name."""
    yield {name: _local(settings, name) for name in (DESIGNS, UPLOADS)}


def _local(settings: Settings, name: str) -> LocalBucket:
    return LocalBucket(
        settings.data / "buckets",
        name=name,
        signing_key=settings.url_signing_key.get_secret_value(),
        base_url=settings.public_url,
    )
