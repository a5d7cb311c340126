"""``/v1/uploads``: announce a file, send it to its signed address, complete it."""

from typing import Annotated, cast
from uuid import UUID

from fastapi import APIRouter, Depends, Header, Request, Response
from fastapi.responses import JSONResponse
from psycopg.rows import DictRow

from gateway.auth import AuthenticatedRoute, Generator, Reader
from gateway.storage.serving import BYTES
from gateway.uploads import schemas
from gateway.uploads.service import Uploads, require_ready

SIGNED_SECONDS = 900
"""How long the address of a picture works."""
PRIVATE = "private, max-age=3600"

router = APIRouter(route_class=AuthenticatedRoute, tags=["uploads"])


async def _uploads(request: Request) -> Uploads:
    return cast(Uploads, request.app.state.uploads)


Service = Annotated[Uploads, Depends(_uploads)]
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        description="The same key and body within 24 hours name the same upload.",
    ),
]


@router.post("/v1/uploads", status_code=201, response_model=schemas.UploadTicket)
@router.post("/api/upload", status_code=201, response_model=schemas.UploadTicket, name="compat_create_upload")
async def create_upload(
    body: schemas.UploadCreate,
    request: Request,
    caller: Generator,
    service: Service,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Announce a picture of at most 50 MiB; `PUT` its bytes to the address in the answer, then complete."""
    sha256 = body.sha256(f"{request.method} {request.url.path}")
    upload_id, signed, replayed = await service.create(caller, body, idempotency_key, sha256)
    ticket = schemas.UploadTicket(
        upload_id=upload_id, url=signed.url, headers=dict(signed.headers), expires_at=signed.expires_at
    )
    headers = {"Location": f"/v1/uploads/{upload_id}", "Cache-Control": "no-store"}
    if replayed:
        headers["Idempotent-Replayed"] = "true"
    return JSONResponse(ticket.model_dump(mode="json"), 201, headers)


@router.post("/v1/uploads/{upload_id}/complete")
async def complete_upload(upload_id: UUID, caller: Generator, service: Service) -> schemas.Upload:
    """Check the file that was sent and draw it anew, without its metadata.

    A file that is no PNG, JPEG or WebP picture of at most 40 megapixels is refused and removed.
    """
    return await _shown(service, await service.complete(caller, upload_id))


@router.get("/v1/uploads/{upload_id}")
async def get_upload(upload_id: UUID, caller: Reader, service: Service) -> schemas.Upload:
    """One upload and, once it is ready, an address of its picture."""
    return await _shown(service, await service.get(caller, upload_id))


@router.get("/v1/uploads/{upload_id}/content", response_class=Response, responses=BYTES)
async def upload_content(upload_id: UUID, request: Request, caller: Reader, service: Service) -> Response:
    """The bytes of the picture as it was drawn anew."""
    row = require_ready(await service.get(caller, upload_id))
    headers = {"ETag": f'"{row["sha256"]}"', "Cache-Control": PRIVATE, "X-Content-Type-Options": "nosniff"}
    if request.headers.get("if-none-match") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    return Response(await service.content(row), media_type=row["content_type"], headers=headers)


@router.delete("/v1/uploads/{upload_id}", status_code=204)
async def delete_upload(upload_id: UUID, caller: Generator, service: Service) -> None:
    """Delete the picture at once; a job that has not yet begun to draw from it will fail."""
    await service.delete(caller, upload_id)


async def _shown(service: Uploads, row: DictRow) -> schemas.Upload:
    failed = row["status"] == "failed"
    error = schemas.UploadError(code=row["error_code"], message=row["error_message"]) if failed else None
    return schemas.Upload(
        **{name: row[name] for name in schemas.Upload.model_fields if name in row},
        url=await service.address(row, SIGNED_SECONDS),
        error=error,
    )
