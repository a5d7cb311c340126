"""How a drawn picture comes in: downloaded, held against its manifest, stored; its row is written after that.

A GPU service that keeps its pictures somewhere else names the place.  Whatever an address leads to, our own
bucket is what anybody is shown.
"""

import hashlib
import io

import structlog
from PIL import Image

from gateway import tracing
from gateway.gpu import PICTURE_LIMIT_BYTES, CallUnknown, GpuClient
from gateway.jobs import lifecycle
from gateway.jobs.lifecycle import ClaimedJob
from gateway.jobs.plans import Picture
from gateway.outside import Outside, OutsideError
from gateway.storage import Bucket
from modal_app.contract import PICTURE_ADDRESSES, Call, ImageResult, PictureInfo

log = structlog.get_logger()

FETCH_SECONDS = 30.0

_FORMATS = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}


class BadPicture(Exception):
    """The bytes are not what the manifest says, or are nowhere to be had."""


class Ingestion:
    """From one GPU service into one bucket."""

    def __init__(self, gpu: GpuClient, outside: Outside, bucket: Bucket) -> None:
        self._gpu = gpu
        self._outside = outside
        self._bucket = bucket

    async def take(self, job: ClaimedJob, call: Call, result: ImageResult) -> list[Picture]:
        """The pictures of a call, stored; GpuError, StorageError or BadPicture where one cannot be."""
        if not result.images:
            raise BadPicture("the call succeeded without a picture")
        with tracing.span("store", job_id=str(job.id), pictures=len(result.images)):
            return [await self._take_one(job, call, picture) for picture in result.images]

    async def _take_one(self, job: ClaimedJob, call: Call, picture: PictureInfo) -> Picture:
        content = await self._downloaded(call.call_id, picture)
        stored = stored_as(job, picture)
        await self._bucket.put(stored["key"], content, picture.content_type)
        return stored

    async def _downloaded(self, call_id: str, picture: PictureInfo) -> bytes:
        """From its public address first, else from its other one, else from the service itself."""
        failed: Exception | None = None
        for address in filter(None, (picture.publicUrl, picture.imageUrl)):
            try:
                content = (await self._outside.fetch(address, PICTURE_LIMIT_BYTES, FETCH_SECONDS)).content
                check_picture(content, picture)
            except (OutsideError, BadPicture) as error:
                log.warning("picture_not_fetched", call_id=call_id, error=str(error))
                failed = error
            else:
                return content
        try:
            content = await self._gpu.picture(call_id, picture.n)
        except CallUnknown:
            if failed is None:
                raise
            raise BadPicture(f"picture {picture.n}: {failed}") from failed
        check_picture(content, picture)  # a hash and a header: less than a hop to a thread costs
        return content


def stored_as(job: ClaimedJob, picture: PictureInfo) -> Picture:
    """What is kept of a picture: its line of the manifest, with its id and its key."""
    key, identity = lifecycle.object_key(job, picture), lifecycle.image_id(job, picture.n)
    facts = picture.model_dump(exclude=set(PICTURE_ADDRESSES))
    return {"id": str(identity), "key": key, "seq": job.seq, **facts}


def check_picture(content: bytes, picture: PictureInfo) -> None:
    """BadPicture unless size, hash, type and dimensions are those of the manifest."""
    if len(content) != picture.bytes or hashlib.sha256(content).hexdigest() != picture.sha256:
        raise BadPicture(f"picture {picture.n}: {len(content)} bytes that do not match its sha256")
    try:
        with Image.open(io.BytesIO(content), formats=tuple(_FORMATS)) as image:
            found = (_FORMATS[image.format or ""], *image.size)
    except (OSError, Image.DecompressionBombError) as error:
        raise BadPicture(f"picture {picture.n}: not a picture") from error
    if found != (picture.content_type, picture.width, picture.height):
        raise BadPicture(f"picture {picture.n}: is {found}")
