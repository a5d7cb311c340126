"""``/files``: the signed addresses of a local bucket.  The signature is the only credential."""

from typing import Annotated, cast

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from gateway.errors import Conflict, NotFound, PayloadTooLarge, UnsupportedMedia
from gateway.storage import Buckets, ObjectExists, ObjectMissing, ObjectTooLarge
from gateway.storage.local import LocalBucket
from gateway.storage.serving import ANYWHERE, NEVER, Served, from_bucket, serve

router = APIRouter(tags=["files"])


class Stored(BaseModel):
    """As Supabase Storage answers."""

    Key: str


Signature = Annotated[str, Query(max_length=128)]


@router.head("/files/{bucket}/{key:path}", include_in_schema=False)
@router.get("/files/{bucket}/{key:path}", response_class=Response, responses={200: {"content": {"*/*": {}}}})
async def signed_download(
    bucket: str, key: str, request: Request, expires: int, signature: Signature
) -> Response:
    """An object, at an address that its bucket signed."""
    local = _local(request, bucket)
    if not local.accepts("GET", key, expires, signature):
        raise _not_valid()
    try:
        info = await local.stat(key)
    except ObjectMissing:
        raise _not_valid() from None
    tag = f"{info.bytes:x}-{info.created_at.timestamp():.6f}"
    served = Served(info.bytes, info.content_type, tag, NEVER, open=True)
    return await serve(request, served, from_bucket(local, key))


@router.put("/files/{bucket}/{key:path}", response_model=Stored)
async def signed_upload(
    bucket: str,
    key: str,
    request: Request,
    expires: int,
    content_type: str,
    max_bytes: int,
    signature: Signature,
    declared_type: Annotated[str, Header(alias="content-type")] = "",
) -> JSONResponse:
    """Take one object, once, of the type and size that its bucket signed."""
    local = _local(request, bucket)
    conditions = {"content_type": content_type, "max_bytes": str(max_bytes)}
    if not local.accepts("PUT", key, expires, signature, **conditions):
        raise _not_valid()
    if declared_type != content_type:
        raise UnsupportedMedia(f"This address takes {content_type}.")
    try:
        await local.put_stream(key, request.stream(), max_bytes)
    except ObjectExists:
        raise Conflict("This address has been used.", code="already_uploaded") from None
    except ObjectTooLarge:
        raise PayloadTooLarge(f"This address takes {max_bytes} bytes at most.") from None
    return JSONResponse({"Key": f"{bucket}/{key}"}, headers=ANYWHERE)


@router.options("/files/{bucket}/{key:path}", include_in_schema=False)
async def allow_uploads_from_pages() -> Response:
    """What a browser asks before a page of another origin uploads; the signature is what protects."""
    allowed = {"Access-Control-Allow-Methods": "GET, HEAD, PUT", "Access-Control-Allow-Headers": "*"}
    return Response(status_code=204, headers={**ANYWHERE, **allowed, "Access-Control-Max-Age": "86400"})


def _local(request: Request, bucket: str) -> LocalBucket:
    local = cast(Buckets, request.app.state.buckets).get(bucket)
    if not isinstance(local, LocalBucket):
        raise _not_valid()
    return local


def _not_valid() -> NotFound:
    return NotFound("This address is not valid, or no longer.")
