"""Where a character's looks come from: a photo, a LoRA that was trained on it, or words."""

from contextlib import suppress
from dataclasses import dataclass
from uuid import UUID

from psycopg.rows import DictRow

from gateway.auth import Principal
from gateway.characters.drawing import File
from gateway.characters.schemas import CharacterCreate
from gateway.errors import ApiError, BadRequest, Conflict, NotFound
from gateway.jobs.loras import Lora
from gateway.loras.service import Loras
from gateway.uploads.service import Uploads


@dataclass(frozen=True)
class Source:
    """Of a character that is known in words alone, nothing."""

    upload_id: UUID | None = None
    photo: File | None = None
    lora: Lora | None = None


class Sources:
    """The caller's own uploads and LoRAs, as far as a character is made from them."""

    def __init__(self, uploads: Uploads, loras: Loras) -> None:
        self._uploads = uploads
        self._loras = loras

    async def named(self, caller: Principal, body: CharacterCreate) -> Source:
        """What a new character is made from; NotFound for what is not the caller's."""
        if body.source == "photo" and body.upload_id:
            return Source(body.upload_id, photo=await self._photo(caller, body.upload_id))
        if body.source == "lora" and body.lora:
            return Source(lora=await self._new_lora(caller, body.lora))
        return Source()

    async def of(self, caller: Principal, row: DictRow) -> Source:
        """The same of a character that is there: its photo may have gone; BadRequest when its LoRA has."""
        if row["upload_id"] is None:
            return Source(lora=await self._lora(caller, row))
        with suppress(NotFound, Conflict):
            return Source(row["upload_id"], photo=await self._photo(caller, row["upload_id"]))
        return Source()

    async def lora(self, caller: Principal, row: DictRow) -> Lora | None:
        """That of a character which there are pictures of: None when it has none, or has it no more."""
        with suppress(BadRequest):
            return await self._lora(caller, row)
        return None

    async def keep(self, source: Source) -> None:
        """The sweep leaves the photo alone from now on."""
        if source.upload_id is not None:
            await self._uploads.keep([source.upload_id])

    async def delete_photo(self, caller: Principal, upload_id: UUID | None) -> bool:
        """Whether there was one to delete."""
        if upload_id is None:
            return False
        try:
            await self._uploads.delete(caller, upload_id)
        except NotFound:
            return False
        return True

    async def _photo(self, caller: Principal, upload_id: UUID) -> File:
        picture = await self._uploads.picture(caller, upload_id)
        return {name: getattr(picture, name) for name in ("bucket", "key", "sha256")}

    async def _new_lora(self, caller: Principal, reference: str) -> Lora:
        """By id, name or address; fetched if need be."""
        try:
            return await self._loras.lora(caller, reference)
        except ApiError as error:
            error.param = "lora"
            raise

    async def _lora(self, caller: Principal, row: DictRow) -> Lora | None:
        if row["lora_id"] is None:
            return None
        try:
            return await self._loras.lora(caller, str(row["lora_id"]))
        except NotFound:
            raise BadRequest(
                f"The LoRA of {row['name']} was deleted.",
                code="lora_deleted",
                how_to_fix="Register it again and make a new character from it.",
            ) from None


def refuse_incomplete(body: CharacterCreate) -> None:
    """BadRequest when what the source needs is missing."""
    match body.source:
        case "photo" if body.upload_id is None:
            raise _missing("upload_id", "A photo character needs `upload_id`, of POST /v1/uploads.")
        case "photo" if not body.consent:
            raise BadRequest(
                "A photo needs the consent of whoever is in it: send `consent: true`.",
                code="consent_required",
                param="consent",
            )
        case "description" if body.description is None:
            raise _missing("description", "Say in `description` what the character looks like.")
        case "lora" if body.lora is None:
            raise _missing("lora", "Name in `lora` the LoRA that was trained on the character.")


def _missing(param: str, detail: str) -> BadRequest:
    return BadRequest(detail, code="missing_source", param=param)
