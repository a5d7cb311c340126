"""Names of objects, each below its user's own prefix, where the policies of ``storage.objects`` look.

<user>/<job>/<seq>-<attempt>-<n>.<ext>               a picture of a job
<user>/characters/<character>/<image>.<ext>          one of a character's job
<either>.thumbnail.webp                              its thumbnail
<user>/<upload>/sent.<ext>, <user>/<upload>/picture.<ext>
"""

import re
from uuid import UUID

THUMBNAIL = ".thumbnail.webp"

_UUID = "[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_PICTURE = re.compile(
    rf"{_UUID}/(?:(?P<job>{_UUID})/\d+-\d+-\d+|characters/(?P<character>{_UUID})/{_UUID})\.(?:png|jpg|webp)"
)
_UPLOAD = re.compile(rf"{_UUID}/{_UUID}/(?:sent|picture)\.(?:png|jpg|webp)")


def of_job(user: UUID, job: UUID, place: str, extension: str) -> str:
    return f"{user}/{job}/{place}.{extension}"


def of_character(user: UUID, character: str | UUID, image: UUID, extension: str) -> str:
    return f"{user}/characters/{character}/{image}.{extension}"


def owners(key: str) -> tuple[UUID | None, UUID | None] | None:
    """(job, character), one of them, of a picture or a thumbnail; None when the key is of neither."""
    found = _PICTURE.fullmatch(key.removesuffix(THUMBNAIL))
    if found is None:
        return None
    job, character = found["job"], found["character"]
    return (UUID(job) if job else None), (UUID(character) if character else None)


def is_upload(key: str) -> bool:
    return _UPLOAD.fullmatch(key) is not None
