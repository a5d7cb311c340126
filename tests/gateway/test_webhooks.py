"""Users' webhooks: refused addresses, signatures that other libraries verify, retries, redelivery, ends."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import openai
import pytest
import pytest_asyncio
from openai.resources.webhooks import Webhooks as OpenAIWebhooks
from standardwebhooks.webhooks import Webhook, WebhookVerificationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from gateway.webhooks import sender
from tests.support.stack import Stack, User, serve, stack


@dataclass
class Receiver:
    """A user's server. ``answers`` are its next status codes, then 200 for ever."""

    answers: list[int] = field(default_factory=list)
    received: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    url: str = ""

    async def take(self, request: Request) -> Response:
        self.received.append((dict(request.headers), await request.body()))
        status = self.answers.pop(0) if self.answers else 200
        location = {"Location": "http://127.0.0.1:1/"} if status == 302 else None
        return PlainTextResponse(f"said {status}", status, headers=location)

    def events(self, kind: str = "") -> list[dict[str, Any]]:
        found = [json.loads(body) for _, body in self.received]
        return [event for event in found if kind in event["type"]]

    async def until(self, count: int, kind: str = "") -> list[dict[str, Any]]:
        async with asyncio.timeout(20):
            while len(self.events(kind)) < count:
                await asyncio.sleep(0.02)
        return self.events(kind)


@pytest_asyncio.fixture(loop_scope="session")
async def receiver() -> AsyncIterator[Receiver]:
    made = Receiver()
    app = Starlette(routes=[Route("/{path:path}", made.take, methods=["POST"])])
    async with serve(app) as url:
        made.url = f"{url}/hooks"
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def hooked(new_database: Callable[[], str], new_folder: Callable[[], Path]) -> AsyncIterator[Stack]:
    """A gateway that may post to this machine, with a third of a second in place of hours."""
    with pytest.MonkeyPatch.context() as patch:
        quick = {"retry_seconds": (0.3, 0.3), "look_seconds": 0.1}
        patch.setattr(sender.Sender.__init__, "__kwdefaults__", quick)
        async with stack(
            new_database(),
            new_folder(),
            gpu={"GPU_MODELS": "instant"},
            default_model="instant",
            allow_private_urls=True,
        ) as running:
            yield running


async def endpoint(user: User, url: str, **body: Any) -> dict[str, Any]:
    answer = await user.http.post("/v1/webhook-endpoints", json={"url": url, **body})
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


async def deliveries(user: User, endpoint_id: str, status: str = "") -> list[dict[str, Any]]:
    query = {"status": status} if status else {}
    answer = await user.http.get(f"/v1/webhook-endpoints/{endpoint_id}/deliveries", params=query)
    return list(answer.json()["data"])


async def ended(user: User, endpoint_id: str, status: str) -> dict[str, Any]:
    async with asyncio.timeout(20):
        while not (found := await deliveries(user, endpoint_id, status)):
            await asyncio.sleep(0.05)
    return found[0]


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1/", "http://169.254.169.254/latest", "https://10.0.0.1/", "ftp://example.com/", "x"],
)
async def test_an_address_inside_a_network_is_refused(product: Stack, url: str) -> None:
    answer = await product.new_user().http.post("/v1/webhook-endpoints", json={"url": url})
    assert (answer.status_code, answer.json()["code"]) == (400, "url_refused")


@pytest.mark.parametrize(
    "body", [{}, {"url": "https://8.8.8.8/", "events": []}, {"url": "https://8.8.8.8/", "events": ["job.x"]}]
)
async def test_an_endpoint_without_an_address_or_with_strange_events_is_refused(
    product: Stack, body: dict[str, Any]
) -> None:
    answer = await product.new_user().http.post("/v1/webhook-endpoints", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "validation_failed")


async def test_a_user_has_only_so_many_endpoints(product: Stack) -> None:
    user = product.new_user()
    for _ in range(20):
        await endpoint(user, "https://8.8.8.8/")
    answer = await user.http.post("/v1/webhook-endpoints", json={"url": "https://8.8.8.8/"})
    assert (answer.status_code, answer.json()["code"]) == (400, "too_many_endpoints")


async def test_the_secret_is_shown_once(hooked: Stack, receiver: Receiver) -> None:
    user = hooked.new_user()
    made = await endpoint(user, receiver.url)
    assert made["secret"].startswith("whsec_")
    for path in ("/v1/webhook-endpoints", f"/v1/webhook-endpoints/{made['id']}"):
        assert made["secret"] not in (await user.http.get(path)).text


async def test_a_finished_job_is_told_signed_and_once(hooked: Stack, receiver: Receiver) -> None:
    user = hooked.new_user()
    made = await endpoint(user, receiver.url, events=["job.completed"])
    job = await user.create(prompt="a", size="64x64", wait=30, metadata={"flow": "7"})
    (event,) = await receiver.until(1)
    assert event["type"] == "job.completed"
    assert event["data"]["id"] == job["id"]
    assert event["data"]["metadata"] == {"flow": "7"}
    assert event["data"]["images"][0]["url"] == job["images"][0]["url"]
    headers, body = receiver.received[0]
    assert Webhook(made["secret"]).verify(body, headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(made["secret"]).verify(body.replace(b"completed", b"forgotten"), headers)
    log = await ended(user, made["id"], "delivered")
    assert (log["attempts"], log["response_status"], log["response_body"]) == (1, 200, "said 200")
    await asyncio.sleep(0.5)
    assert len(receiver.received) == 1


async def test_the_openai_sdk_verifies_what_is_sent(hooked: Stack, receiver: Receiver) -> None:
    user = hooked.new_user()
    made = await endpoint(user, receiver.url)
    await user.http.post(f"/v1/webhook-endpoints/{made['id']}/test")
    await receiver.until(1)
    headers, body = receiver.received[0]
    hooks: OpenAIWebhooks = openai.OpenAI(api_key="x", webhook_secret=made["secret"]).webhooks
    event: Any = hooks.unwrap(body, headers)
    assert event.type == "webhook.test"
    with pytest.raises(openai.InvalidWebhookSignatureError):
        hooks.unwrap(body + b" ", headers)


async def test_only_the_events_that_were_asked_for_are_sent(hooked: Stack, receiver: Receiver) -> None:
    user = hooked.new_user()
    await endpoint(user, receiver.url, events=["job.failed"])
    made = await endpoint(user, receiver.url, events=["job.completed"])
    await user.create(prompt="a", size="64x64", wait=30)
    await ended(user, made["id"], "delivered")
    assert [event["type"] for event in receiver.events()] == ["job.completed"]


async def test_a_receiver_that_was_down_is_tried_again_under_the_same_id(
    hooked: Stack, receiver: Receiver
) -> None:
    user = hooked.new_user()
    receiver.answers = [500, 302]
    made = await endpoint(user, receiver.url, events=["job.completed"])
    await user.create(prompt="a", size="64x64", wait=30)
    await receiver.until(3)
    log = await ended(user, made["id"], "delivered")
    assert log["attempts"] == 3
    assert len({headers["webhook-id"] for headers, _ in receiver.received}) == 1
    assert (await user.http.get(f"/v1/webhook-endpoints/{made['id']}")).json()["failing_since"] is None


async def test_an_endpoint_that_fails_to_the_last_try_is_disabled_and_takes_up_again(
    hooked: Stack, receiver: Receiver
) -> None:
    user = hooked.new_user()
    made = await endpoint(user, receiver.url, events=["job.completed"])
    receiver.answers = [503] * 20
    await user.http.post(f"/v1/webhook-endpoints/{made['id']}/test")
    path = f"/v1/webhook-endpoints/{made['id']}"
    async with asyncio.timeout(20):
        while (await user.http.get(path)).json()["failing_since"] is None:
            await asyncio.sleep(0.02)
    await user.create(prompt="a", size="64x64", wait=30)
    log = await ended(user, made["id"], "failed")
    assert (log["attempts"], log["response_status"]) == (3, 503)
    async with asyncio.timeout(20):
        while (shown := (await user.http.get(path)).json())["enabled"]:
            await asyncio.sleep(0.05)
    assert shown["disabled_reason"] == "failing"
    receiver.answers.clear()
    again = (await user.http.patch(path, json={"enabled": True})).json()
    assert (again["enabled"], again["disabled_reason"]) == (True, None)
    sent = (await user.http.post(f"/v1/webhook-deliveries/{log['id']}/redeliver")).json()
    assert (sent["event_id"], sent["redelivery_of"]) == (log["event_id"], log["id"])
    assert (await ended(user, made["id"], "delivered"))["event_type"] in ("webhook.test", "job.completed")


async def test_an_endpoint_that_is_gone_is_disabled_at_once(hooked: Stack, receiver: Receiver) -> None:
    user = hooked.new_user()
    receiver.answers = [410]
    made = await endpoint(user, receiver.url)
    await user.http.post(f"/v1/webhook-endpoints/{made['id']}/test")
    assert (await ended(user, made["id"], "failed"))["attempts"] == 1
    shown = (await user.http.get(f"/v1/webhook-endpoints/{made['id']}")).json()
    assert (shown["enabled"], shown["disabled_reason"]) == (False, "gone")


async def test_a_secret_that_is_replaced_signs_beside_the_new_one(hooked: Stack, receiver: Receiver) -> None:
    user = hooked.new_user()
    made = await endpoint(user, receiver.url)
    path = f"/v1/webhook-endpoints/{made['id']}"
    rotated = (await user.http.post(f"{path}/rotate-secret")).json()
    assert rotated["secret"] != made["secret"]
    await user.http.post(f"{path}/test")
    await receiver.until(1)
    headers, body = receiver.received[0]
    for secret in (made["secret"], rotated["secret"]):
        assert Webhook(secret).verify(body, headers)


async def test_what_an_endpoint_was_told_goes_with_it(hooked: Stack, receiver: Receiver) -> None:
    user = hooked.new_user()
    made = await endpoint(user, receiver.url)
    await user.http.post(f"/v1/webhook-endpoints/{made['id']}/test")
    await ended(user, made["id"], "delivered")
    assert (await user.http.delete(f"/v1/webhook-endpoints/{made['id']}")).status_code == 204
    assert (await user.http.get(f"/v1/webhook-endpoints/{made['id']}/deliveries")).status_code == 404
    assert hooked.rows("select id from public.webhook_deliveries where user_id = %s", user.id) == []


def test_the_waits_between_tries_are_those_of_the_standard() -> None:
    minutes, hours = 60, 3600
    waits = [5, 5 * minutes, 30 * minutes, *(each * hours for each in (2, 5, 10, 14, 20, 24))]
    assert list(sender.RETRY_SECONDS) == waits
