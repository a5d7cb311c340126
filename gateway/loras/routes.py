"""``/v1/loras``: register a LoRA from a file, an address, Hugging Face or Civitai; name it in jobs."""

from typing import Annotated, cast
from uuid import UUID

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.responses import JSONResponse
from psycopg.rows import DictRow

from gateway.auth import AuthenticatedRoute, Generator, Reader
from gateway.loras import schemas
from gateway.loras.service import Loras
from gateway.uploads.schemas import UploadTicket
from modal_app import catalog

router = APIRouter(route_class=AuthenticatedRoute, tags=["loras"])


async def _loras(request: Request) -> Loras:
    return cast(Loras, request.app.state.loras)


Service = Annotated[Loras, Depends(_loras)]
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        description="The same key and body within 24 hours name the same LoRA.",
    ),
]


@router.post("/v1/loras/uploads", status_code=201)
async def create_lora_upload(
    body: schemas.LoraUploadCreate, caller: Generator, service: Service
) -> UploadTicket:
    """Announce a safetensors file; `PUT` it to the address in the answer, then register it."""
    upload_id, signed = await service.announce(caller, body)
    return UploadTicket(
        upload_id=upload_id, url=signed.url, headers=dict(signed.headers), expires_at=signed.expires_at
    )


@router.post(
    "/v1/loras",
    status_code=201,
    response_model=schemas.Lora,
    responses={202: {"model": schemas.Lora, "description": "The file is still being fetched."}},
)
async def create_lora(
    body: schemas.LoraCreate, caller: Generator, service: Service, idempotency_key: IdempotencyKey = None
) -> Response:
    """Register a LoRA. A file that is none is refused with the reason, and nothing is kept of it.

    A file that takes longer than some seconds is fetched in the background: ask for the LoRA's `status`.
    """
    registered = await service.register(caller, body, idempotency_key)
    row = registered.row
    headers = {"Location": f"/v1/loras/{row['id']}"}
    if registered.replayed:
        headers["Idempotent-Replayed"] = "true"
    if row["status"] == "pending":
        headers["Retry-After"] = "5"
    status = 202 if row["status"] == "pending" else 201
    return JSONResponse(_shown(row).model_dump(mode="json"), status, headers)


@router.get("/v1/loras")
async def list_loras(
    caller: Reader,
    service: Service,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    after: UUID | None = None,
) -> schemas.LoraList:
    """The caller's LoRAs, newest first."""
    rows = await service.page(caller, after, limit + 1)
    data = [_shown(row) for row in rows[:limit]]
    return schemas.LoraList(
        data=data,
        has_more=len(rows) > limit,
        first_id=data[0].id if data else None,
        last_id=data[-1].id if data else None,
    )


@router.get("/v1/loras/{lora_id}")
async def get_lora(lora_id: UUID, caller: Reader, service: Service) -> schemas.Lora:
    """One LoRA."""
    return _shown(await service.get(caller, lora_id))


@router.patch("/v1/loras/{lora_id}")
async def change_lora(
    lora_id: UUID, body: schemas.LoraChange, caller: Generator, service: Service
) -> schemas.Lora:
    """Another name, or other trigger words."""
    return _shown(await service.change(caller, lora_id, body))


@router.delete("/v1/loras/{lora_id}", status_code=204)
async def delete_lora(lora_id: UUID, caller: Generator, service: Service) -> None:
    """Delete the LoRA and its file at once; a job that has not yet begun to draw with it will fail."""
    await service.delete(caller, lora_id)


def _shown(row: DictRow) -> schemas.Lora:
    upload = row["source"] == "upload"
    source = {"upload_id": row["source_ref"]} if upload else {"url": row["source_ref"]}
    failed = row["status"] == "failed"
    error = schemas.LoraError(code=row["error_code"], message=row["error_message"]) if failed else None
    named = {name: row[name] for name in schemas.Lora.model_fields if name in row and name != "source"}
    return schemas.Lora(
        **named, source=schemas.LoraSource(**source), models=_models(row["base_model_group"]), error=error
    )


def _models(group: str | None) -> list[str]:
    if group is None:
        return []
    default = catalog.default_model(group)
    takes = [
        row.id
        for row in catalog.CATALOG
        if "loras" in row.supports and catalog.lora_fits(group, row) == "yes"
    ]
    return sorted(takes, key=lambda name: default is None or name != default.id)
