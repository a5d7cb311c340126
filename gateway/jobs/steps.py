"""What the worker does with a claimed job: hand the call over, ask after a late one, settle an ended one.

Every step may be cut off anywhere and done again: dispatch keys, picture ids and object keys are derived
from the row, and the row moves only through the repository's fenced statements.
"""

import hashlib
import io
from collections import defaultdict
from contextlib import suppress
from typing import Any

import structlog
from PIL import Image
from psycopg.rows import DictRow

from gateway.config import Settings
from gateway.gpu import CallUnknown, GpuBusy, GpuClient, GpuError, GpuRefused
from gateway.jobs import lifecycle
from gateway.jobs.lifecycle import ClaimedJob, Fail, Move, Requeue, Settle, Step, Wait
from gateway.jobs.repository import Jobs
from gateway.storage import DESIGNS, Buckets, StorageError
from gateway.usage import usd_micros
from modal_app.contract import ENDED, Call, ImageResult, PictureInfo

log = structlog.get_logger()

_FORMATS = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}

SOURCE_SECONDS = 3600
"""How long the GPU service may take until it fetches a file: a queue, and the start of a GPU."""


SOURCES = ("references", "mask")
"""Fields of a request that name files, each as ``bucket/key``."""


class BadPicture(Exception):
    """The bytes are not what the manifest says."""


class SourceGone(Exception):
    """A file that the job draws from is no longer in its bucket."""


class Steps:
    """The steps of one worker, who signs its leases with ``worker``."""

    def __init__(self, jobs: Jobs, gpu: GpuClient, buckets: Buckets, settings: Settings, worker: str) -> None:
        self._jobs = jobs
        self._gpu = gpu
        self._buckets = buckets
        self._settings = settings
        self._worker = worker

    async def advance(self, job: ClaimedJob) -> bool:
        """Take a claimed job one step on; whether that has ended it."""
        step = lifecycle.next_step(job)
        log.info("job_step", job_id=str(job.id), key=job.key, call_id=job.call_id, step=step.name.lower())
        match step:
            case Step.EXPIRE:
                return await self._jobs.fail(job, lifecycle.EXPIRED)
            case Step.DISPATCH:
                return await self._dispatch(job)
            case Step.ASK:
                return await self._ask(job)
            case Step.SETTLE:
                return await self.settle(job)

    async def settle(self, job: ClaimedJob) -> bool:
        """Store what the ended call left behind, or fail with its reason; whether that has ended the job."""
        assert job.call is not None
        if job.call.status != "succeeded" or not isinstance(job.call.result, ImageResult):
            return await self._move(job, lifecycle.after_failed_call(job, job.call))
        try:
            assets = await self._store(job, job.call, job.call.result)
        except CallUnknown:
            return await self._give_up(job, lifecycle.after_loss(job), job.call.result)
        except (GpuError, StorageError, BadPicture, OSError) as error:
            log.warning("job_not_stored", job_id=str(job.id), error=str(error))
            move = lifecycle.after_failed_store(job, str(error))
            return await self._give_up(job, move, job.call.result)
        return await self._jobs.complete(job, assets, f"/images/{assets[0]['id']}.{_extension(assets[0])}")

    async def stumble(self, job: ClaimedJob) -> None:
        """A step broke in a way nobody foresaw: try again a few times, then fail rather than hang."""
        await self._move(job, lifecycle.after_stumble(job))

    async def close(self, stray: DictRow) -> None:
        """End a call whose job has ended without it, and charge what it had cost."""
        if stray["call_id"] is None:
            if stray["old"]:
                await self._jobs.close_call(stray)
            return
        try:
            call = await self._gpu.cancel(stray["call_id"])
        except CallUnknown:
            await self._jobs.close_call(stray)
        except GpuError as error:
            log.info("stray_call_not_reached", job_id=str(stray["job_id"]), error=str(error))
        else:
            if call.status in ENDED:
                await self._record((stray["job_id"], stray["seq"], stray["attempt"]), call)

    async def _dispatch(self, job: ClaimedJob) -> bool:
        try:
            signed = await self._signed(job.request)
            call_id = await self._gpu.submit(job.key, job.task, signed)
        except SourceGone as gone:
            log.warning("source_gone", job_id=str(job.id), source=str(gone))
            return await self._jobs.fail(job, lifecycle.SOURCE_GONE)
        except GpuBusy as busy:
            await self._jobs.requeue(job, Requeue(busy.retry_after), failed=False)
        except GpuRefused as refused:
            return await self._move(job, lifecycle.after_refusal(str(refused)))
        except (GpuError, StorageError) as error:
            log.warning("not_submitted", job_id=str(job.id), error=str(error))
            return await self._move(job, lifecycle.after_failed_submit(job))
        else:
            patience = self._settings.webhook_patience_seconds
            await self._jobs.record_dispatched(job, call_id, job.request, patience)
        return False

    async def _signed(self, request: dict[str, Any]) -> dict[str, Any]:
        """The request as it is sent: files by an address that works for a while, which no row keeps.

        SourceGone when a file is no longer there.
        """
        addresses = await self._addresses([use["url"] for use in _sources(request)])

        def with_address(use: dict[str, Any]) -> dict[str, Any]:
            return {**use, "url": addresses[use["url"]]}

        signed = dict(request)
        for name in SOURCES:
            uses = request.get(name)
            if isinstance(uses, list):
                signed[name] = [with_address(use) for use in uses]
            elif uses:
                signed[name] = with_address(uses)
        return signed

    async def _addresses(self, places: list[str]) -> dict[str, str]:
        """A signed address for each ``bucket/key``."""
        keys: defaultdict[str, list[str]] = defaultdict(list)
        for place in places:
            bucket, _, key = place.partition("/")
            keys[bucket].append(key)
        addresses: dict[str, str] = {}
        for bucket, wanted in keys.items():
            signed = await self._buckets[bucket].sign_get(wanted, SOURCE_SECONDS)
            addresses |= {f"{bucket}/{key}": address for key, address in signed.items()}
        for place in places:
            if place not in addresses:
                raise SourceGone(place)
        return addresses

    async def _ask(self, job: ClaimedJob) -> bool:
        """The webhook is late: the call is the truth."""
        assert job.call_id is not None
        patience = self._settings.webhook_patience_seconds
        try:
            call = await self._gpu.call(job.call_id)
        except CallUnknown:
            return await self._move(job, lifecycle.after_loss(job))
        except GpuError as error:
            log.warning("gpu_unreachable", job_id=str(job.id), error=str(error))
            return await self._move(job, lifecycle.after_silence(job, patience))
        return await self._move(job, lifecycle.after_answer(job, call, patience), call)

    async def _move(self, job: ClaimedJob, move: Move, call: Call | None = None) -> bool:
        """Carry a move out; whether it has ended the job."""
        match move:
            case Wait(seconds):
                await self._jobs.postpone(job, seconds, call)
            case Requeue():
                await self._jobs.requeue(job, move, failed=not move.lost)
            case Fail():
                return await self._jobs.fail(job, move)
            case Settle(ended):
                leased = await self._record((job.id, job.seq, job.attempt), ended)
                return leased is not None and await self.settle(leased)
        return False

    async def _give_up(self, job: ClaimedJob, move: Move, result: ImageResult) -> bool:
        """What an attempt has stored goes away with it, once the fence has agreed that it is over."""
        match move:
            case Fail():
                over = await self._jobs.fail(job, move)
            case Requeue():
                over = await self._jobs.requeue(job, move, failed=False)
            case _:
                return await self._move(job, move)
        if over:
            with suppress(StorageError, OSError):
                await self._buckets[DESIGNS].delete(
                    lifecycle.object_key(job, picture) for picture in result.images
                )
        return over and isinstance(move, Fail)

    async def _record(self, key: tuple[Any, int, int], call: Call) -> ClaimedJob | None:
        return await self._jobs.record_result(
            key,
            call,
            usd_micros=usd_micros(call.gpu, call.timing.gpu_seconds),
            worker=self._worker,
            lease=self._settings.lease_seconds,
        )

    async def _store(self, job: ClaimedJob, call: Call, result: ImageResult) -> list[dict[str, Any]]:
        if not result.images:
            raise BadPicture("the call succeeded without a picture")
        return [await self._store_one(job, call, picture) for picture in result.images]

    async def _store_one(self, job: ClaimedJob, call: Call, picture: PictureInfo) -> dict[str, Any]:
        content = await self._gpu.picture(call.call_id, picture.n)
        check_picture(content, picture)  # a hash and a header: less than a hop to a thread costs
        key = lifecycle.object_key(job, picture)
        await self._buckets[DESIGNS].put(key, content, picture.content_type)
        return {"id": str(lifecycle.image_id(job, picture.n)), "key": key, **picture.model_dump()}


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


def _sources(request: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for name in SOURCES:
        uses = request.get(name) or []
        found += uses if isinstance(uses, list) else [uses]
    return found


def _extension(asset: dict[str, Any]) -> str:
    return str(asset["key"]).rpartition(".")[2]
