"""The buckets: an object goes in, comes out, and goes away."""

from uuid import uuid4

from gateway.doctor.findings import Finding, failed, ok
from gateway.doctor.over_http import readiness
from gateway.doctor.subject import Subject
from gateway.storage import LORAS, Bucket, StorageError, content_type_of
from gateway.storage.buckets import open_buckets

PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c4944415408d763f8cfc00000030101"
    "00c9fe92ef0000000049454e44ae426082"
)
"""The smallest picture that a bucket for pictures takes; any bytes do for the others."""
ADVICE = (
    "Run `tenkaigen migrate`, which makes the buckets; then check DATA, or SUPABASE_URL and its secret key."
)


async def buckets(subject: Subject) -> Finding:
    """Every bucket takes an object, gives it back, and lets it go."""
    if subject.settings is None:
        return await readiness(subject, "bucket", ADVICE)
    async with open_buckets(subject.settings) as found:
        for name, bucket in found.items():
            try:
                await _round_trip(bucket)
            except (StorageError, OSError) as error:
                return failed(f"`{name}`: {error}", ADVICE)
        return ok(f"{', '.join(found)}: written to and read from")


async def _round_trip(bucket: Bucket) -> None:
    ending = "safetensors" if bucket.name == LORAS else "png"
    key = f"doctor/{uuid4()}.{ending}"
    await bucket.put(key, PIXEL, content_type_of(key))
    try:
        if await bucket.get(key) != PIXEL:
            raise StorageError("what was read is not what was written")
    finally:
        await bucket.delete([key])
