"""``/v1/webhook-endpoints`` and their deliveries."""

from typing import Annotated, Literal, cast
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request, Response

from gateway.auth import AuthenticatedRoute, Generator, Reader
from gateway.webhooks.schemas import (
    Delivery,
    DeliveryList,
    Endpoint,
    EndpointChange,
    EndpointCreate,
    EndpointList,
    EndpointWithSecret,
)
from gateway.webhooks.sender import Sender
from gateway.webhooks.service import Webhooks

router = APIRouter(route_class=AuthenticatedRoute, tags=["webhooks"])

Limit = Annotated[int, Query(ge=1, le=100)]


async def _webhooks(request: Request) -> Webhooks:
    return cast(Webhooks, request.app.state.webhooks)


async def _sender(request: Request) -> Sender:
    return cast(Sender, request.app.state.webhook_sender)


Service = Annotated[Webhooks, Depends(_webhooks)]
Sending = Annotated[Sender, Depends(_sender)]


@router.post("/v1/webhook-endpoints", status_code=201)
async def add_endpoint(body: EndpointCreate, caller: Generator, service: Service) -> EndpointWithSecret:
    """Be told of events at an address. The answer carries the secret that signs them, this once."""
    row, secret = await service.add(caller, body)
    return EndpointWithSecret(**row, secret=secret)


@router.get("/v1/webhook-endpoints")
async def list_endpoints(
    caller: Reader, service: Service, limit: Limit = 20, after: UUID | None = None
) -> EndpointList:
    """The caller's endpoints, newest first."""
    rows = await service.page(caller, after, limit + 1)
    data = [Endpoint(**row) for row in rows[:limit]]
    first, last = (data[0].id, data[-1].id) if data else (None, None)
    return EndpointList(data=data, has_more=len(rows) > limit, first_id=first, last_id=last)


@router.get("/v1/webhook-endpoints/{endpoint_id}")
async def get_endpoint(endpoint_id: UUID, caller: Reader, service: Service) -> Endpoint:
    """One endpoint."""
    return Endpoint(**await service.get(caller, endpoint_id))


@router.patch("/v1/webhook-endpoints/{endpoint_id}")
async def change_endpoint(
    endpoint_id: UUID, body: EndpointChange, caller: Generator, service: Service, sender: Sending
) -> Endpoint:
    """Change what is given."""
    row = await service.change(caller, endpoint_id, body)
    sender.wake()
    return Endpoint(**row)


@router.delete("/v1/webhook-endpoints/{endpoint_id}", status_code=204)
async def delete_endpoint(endpoint_id: UUID, caller: Generator, service: Service) -> Response:
    """Forget an endpoint, its log, and what was still to be sent there."""
    await service.delete(caller, endpoint_id)
    return Response(status_code=204)


@router.post("/v1/webhook-endpoints/{endpoint_id}/rotate-secret")
async def rotate_secret(endpoint_id: UUID, caller: Generator, service: Service) -> EndpointWithSecret:
    """A new secret. For a day the old one signs beside it, so that nothing is lost while it is changed."""
    row, secret = await service.rotate(caller, endpoint_id)
    return EndpointWithSecret(**row, secret=secret)


@router.get("/v1/webhook-endpoints/{endpoint_id}/deliveries")
async def list_deliveries(
    endpoint_id: UUID,
    caller: Reader,
    service: Service,
    status: Literal["pending", "delivered", "failed"] | None = None,
    limit: Limit = 20,
    after: UUID | None = None,
) -> DeliveryList:
    """What was sent there and how it went, newest first; kept for 30 days."""
    rows = await service.deliveries(caller, endpoint_id, status, after, limit + 1)
    data = [Delivery(**row) for row in rows[:limit]]
    first, last = (data[0].id, data[-1].id) if data else (None, None)
    return DeliveryList(data=data, has_more=len(rows) > limit, first_id=first, last_id=last)


@router.post("/v1/webhook-endpoints/{endpoint_id}/test", status_code=202)
async def send_test(endpoint_id: UUID, caller: Generator, service: Service, sender: Sending) -> Delivery:
    """Send the event `webhook.test` there."""
    row = await service.test(caller, endpoint_id)
    sender.wake()
    return Delivery(**row)


@router.post("/v1/webhook-deliveries/{delivery_id}/redeliver", status_code=202)
async def redeliver(delivery_id: UUID, caller: Generator, service: Service, sender: Sending) -> Delivery:
    """Send the same event once more, under the same `webhook-id`."""
    row = await service.redeliver(caller, delivery_id)
    sender.wake()
    return Delivery(**row)
