"""What is done with LoRAs that users register. Other slices call this, not the rows."""

import asyncio
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import psycopg
from psycopg.rows import DictRow

from gateway.auth import Principal
from gateway.config import Settings
from gateway.errors import (
    ApiError,
    BadRequest,
    Conflict,
    Malformed,
    NotFound,
    PayloadTooLarge,
    UnsupportedMedia,
)
from gateway.jobs.loras import Lora
from gateway.loras.fetching import CONTENT_TYPE, Fetcher, sent_key
from gateway.loras.places import Places, is_reference
from gateway.loras.repository import LoraRows
from gateway.loras.schemas import LoraChange, LoraCreate, LoraSource, LoraUploadCreate
from gateway.outside import OutsideError
from gateway.storage import LORAS, Buckets, SignedUpload

REGISTER_SECONDS = 15.0
"""How long a registration waits for its file; from there it goes on in the background."""
JOB_SECONDS = 45.0
"""The same of a job that names a LoRA by where it is."""
SEND_SECONDS = 3600
"""How long an address takes the file."""


class LoraRefused(BadRequest):
    """No LoRA that a model could take; ``reason`` is stable and for machines."""

    code = "invalid_lora"

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(
            f"The file was refused: {message}.",
            param="source",
            errors=[{"pointer": "/source", "reason": reason, "detail": message}],
        )
        self.reason = reason


@dataclass(frozen=True)
class Registered:
    row: DictRow
    replayed: bool = False


class Loras:
    """Rows first, objects second: whatever is cut off is found again by the fetcher and its sweep."""

    def __init__(
        self, rows: LoraRows, buckets: Buckets, places: Places, fetcher: Fetcher, settings: Settings
    ) -> None:
        self._rows = rows
        self._bucket = buckets[LORAS]
        self._places = places
        self._fetcher = fetcher
        self._max_bytes = settings.lora_max_bytes
        self._lease = settings.lease_seconds

    # What users ask for

    async def announce(self, caller: Principal, body: LoraUploadCreate) -> tuple[UUID, SignedUpload]:
        """A place for one file: its id, and the address that takes it.  It is swept after a day unused."""
        if not body.filename.lower().endswith(".safetensors"):
            raise UnsupportedMedia("A LoRA must be a .safetensors file.", param="filename")
        if body.bytes > self._max_bytes:
            raise PayloadTooLarge(
                f"A LoRA has at most {self._max_bytes} bytes.", code="lora_too_large", param="bytes"
            )
        upload_id = uuid4()
        key = sent_key(caller.user_id, upload_id)
        return upload_id, await self._bucket.sign_put(key, CONTENT_TYPE, body.bytes, SEND_SECONDS)

    async def register(
        self, caller: Principal, body: LoraCreate, idempotency_key: str | None = None
    ) -> Registered:
        """The LoRA, ready or, where its file takes long, pending.

        LoraRefused or OutsideError leave nothing behind; Conflict when the name is taken.
        """
        asked = body.model_dump(mode="json")
        described = {**asked, **self._source(body.source)}
        described |= {"idempotency_key": idempotency_key, "request_sha256": _sha256(asked)}
        row = await self._created(caller, described)
        if row is None:
            return Registered(await self._again(caller, idempotency_key or "", _sha256(asked)), replayed=True)
        return Registered(await self._settled(row["id"], REGISTER_SECONDS))

    async def get(self, caller: Principal, lora_id: UUID) -> DictRow:
        return _found(await self._rows.get(caller, lora_id), lora_id)

    async def page(self, caller: Principal, after: UUID | None, limit: int) -> list[DictRow]:
        return await self._rows.page(caller, after, limit)

    async def change(self, caller: Principal, lora_id: UUID, body: LoraChange) -> DictRow:
        try:
            row = await self._rows.change(caller, lora_id, body.model_dump())
        except psycopg.errors.UniqueViolation:
            raise _name_taken() from None
        return _found(row, lora_id)

    async def delete(self, caller: Principal, lora_id: UUID) -> None:
        """Gone at once, for jobs that have not begun too; finished pictures keep its name and hash."""
        row = _found(await self._rows.delete(caller, lora_id), lora_id)
        sent = row["source"] == "upload" and sent_key(row["user_id"], UUID(row["source_ref"]))
        await self._fetcher.remove([key for key in {row["key"], sent} if key])

    # What other slices ask for

    async def lora(self, caller: Principal, reference: str, seconds: float = JOB_SECONDS) -> Lora:
        """One that is ready, by id, name, ``hf:…``, ``civitai:…`` or address; see ``jobs.loras.Registry``."""
        row = await self._rows.find(caller, reference)
        if is_reference(reference) and (row is None or row["status"] == "failed"):
            row = await self._registered(caller, reference, row)
        if row is None:
            raise NotFound(f"There is no LoRA `{reference[:100]}`.", param="loras")
        row = await self._settled(row["id"], seconds, discard=is_reference(reference))
        if row["status"] == "ready":
            return _lora(row)
        raise Conflict(
            f"The LoRA `{row['name']}` is still being fetched.",
            code="lora_not_ready",
            param="loras",
            headers={"Retry-After": "10"},
        )

    async def ready(self, caller: Principal, references: Sequence[str]) -> list[Lora]:
        """The same of several, each looked for once."""
        names = list(dict.fromkeys(references))
        answers = await asyncio.gather(
            *(self.lora(caller, name, JOB_SECONDS) for name in names), return_exceptions=True
        )
        for answer in answers:
            if isinstance(answer, ApiError):
                answer.param = "loras"
            if isinstance(answer, BaseException):
                raise answer
        found = {name: lora for name, lora in zip(names, answers, strict=True) if isinstance(lora, Lora)}
        return [found[name] for name in references]

    async def known(self, caller: Principal, references: Sequence[str]) -> list[Lora | None]:
        """Those of them that are ready now; None for a reference that is not registered, or not ready."""
        found: list[Lora | None] = []
        for reference in references:
            row = await self._rows.find(caller, reference)
            if row is None and not is_reference(reference):
                raise NotFound(f"There is no LoRA `{reference[:100]}`.", param="loras")
            if row is None:
                self._places.find(reference)
            found.append(_lora(row) if row and row["status"] == "ready" else None)
        return found

    def _source(self, source: LoraSource) -> dict[str, Any]:
        """Columns of where the file is; BadRequest when it is nowhere to go."""
        if source.url is None:
            return {"source": "upload", "source_ref": str(source.upload_id)}
        place = self._places.find(source.url)
        return {"source": place.source, "source_ref": place.reference}

    async def _created(self, caller: Principal, values: dict[str, Any]) -> DictRow | None:
        """A pending LoRA that is being fetched; None when the idempotency key was used before."""
        fixed = {"id": uuid4(), "user_id": caller.user_id, "lease": self._lease}
        try:
            row = await self._rows.create({**values, **fixed})
        except psycopg.errors.UniqueViolation:
            raise _name_taken() from None
        if row is not None:
            self._fetcher.start(row)
        return row

    async def _again(self, caller: Principal, key: str, sha256: str) -> DictRow:
        first = await self._rows.first_request(caller.user_id, key)
        if first is None:
            raise Conflict("This Idempotency-Key has just expired.", code="idempotency_key_expired")
        if first["request_sha256"] != sha256:
            raise Malformed(
                "This Idempotency-Key was used with another body.",
                code="idempotency_key_reused",
                param="Idempotency-Key",
            )
        return await self._settled(first["lora_id"], REGISTER_SECONDS)

    async def _registered(self, caller: Principal, reference: str, failed: DictRow | None) -> DictRow | None:
        """A LoRA of this reference that is being fetched, by this request or by another at the same time."""
        if failed is not None:
            await self._rows.discard(failed["id"])
        place = self._places.find(reference)
        described: dict[str, Any] = {
            **{"name": place.name, "source": place.source, "source_ref": reference},
            **{"trigger_words": [], "license": None, "idempotency_key": None, "request_sha256": ""},
        }
        try:
            return await self._created(caller, described)
        except Conflict:
            return await self._rows.find(caller, reference)

    async def _settled(self, lora_id: UUID, seconds: float, *, discard: bool = True) -> DictRow:
        """The row, no longer pending if that takes no longer than ``seconds``.

        A refusal is raised, and frees the name unless the LoRA was registered before.
        """
        row = await self._fetcher.wait(lora_id, seconds)
        if row["status"] == "failed":
            if discard:
                await self._rows.discard(lora_id)
            raise _refusal(row)
        if row["deleted_at"] is not None:
            raise NotFound(f"There is no LoRA {lora_id}.")
        return row


def _lora(row: DictRow) -> Lora:
    return Lora(
        **{name: row[name] for name in ("id", "name", "sha256", "bucket", "key")},
        group=row["base_model_group"],
        trigger_words=tuple(row["trigger_words"]),
    )


def _found(row: DictRow | None, lora_id: UUID) -> DictRow:
    if row is None:
        raise NotFound(f"There is no LoRA {lora_id}.")
    return row


def _refusal(row: DictRow) -> ApiError:
    """What the row says of why it failed."""
    code, message = row["error_code"], row["error_message"]
    if code == "upload_missing":
        return NotFound(f"No file has been sent as upload {row['source_ref']}.", param="source")
    if code == "upload_used":
        return Conflict("This upload is registered already.", code=code, param="source")
    return OutsideError(code, message) if code.startswith("url_") else LoraRefused(code, message)


def _name_taken() -> Conflict:
    return Conflict("There is a LoRA of this name already.", code="name_taken", param="name")


def _sha256(asked: dict[str, Any]) -> str:
    canonical = json.dumps(["POST /v1/loras", asked], sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()
