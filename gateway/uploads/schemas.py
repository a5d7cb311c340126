"""What goes in and out of ``/v1/uploads``."""

import datetime
import hashlib
import json
from typing import Annotated, Literal
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


def _storable(text: str) -> str:
    """Postgres keeps neither NUL nor half a surrogate pair, both of which JSON can spell."""
    if "\x00" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("must not contain NUL characters or lone surrogates")
    return text


class UploadCreate(BaseModel):
    """A PNG, JPEG or WebP file that is about to be sent."""

    model_config = ConfigDict(extra="forbid")

    filename: Annotated[str, Field(min_length=1, max_length=255), AfterValidator(_storable)]
    content_type: str = Field(max_length=100, description="`image/png`, `image/jpeg` or `image/webp`.")
    bytes: int = Field(ge=1, le=2**53, description="Size of the file; at most 50 MiB.")

    def sha256(self, operation: str) -> str:
        """Equal for requests that ask for the same."""
        canonical = json.dumps([operation, self.model_dump(mode="json")], sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()


class UploadTicket(BaseModel):
    """Where to send the file: `PUT` its bytes with these headers, then complete the upload."""

    upload_id: UUID
    url: str
    method: Literal["PUT"] = "PUT"
    headers: dict[str, str]
    expires_at: datetime.datetime


class UploadError(BaseModel):
    code: str
    message: str


class Upload(BaseModel):
    """A picture that was brought. Once it is ready, its facts are those of the picture as it was drawn anew.

    `url` works for a while.
    """

    object: Literal["upload"] = "upload"
    id: UUID
    status: Literal["pending", "ready", "failed"]
    source: Literal["upload", "url"]
    filename: str
    content_type: str
    bytes: int
    width: int | None
    height: int | None
    sha256: str | None
    url: str | None
    error: UploadError | None
    created_at: datetime.datetime
    expires_at: datetime.datetime | None
