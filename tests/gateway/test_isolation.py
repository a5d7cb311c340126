"""A row of one user is never seen, counted, or told apart from a missing one by another.

The routes come from the gateway's own OpenAPI document, so one that is added later is included by itself.  It
only has to say, in the tables below, how its ids are made.
"""

import io
import json
import re
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import httpx
import pytest
from PIL import Image

from gateway.app import create_app
from gateway.config import Settings
from tests.support.lora_server import SEPIA
from tests.support.stack import Stack, User

Make = Callable[[User], Awaitable[str]]


async def job(owner: User) -> str:
    return str((await owner.create(prompt="a", visibility="private", size="64x64", wait=30))["id"])


async def image(owner: User) -> str:
    drawn = await owner.create(prompt="a", visibility="private", size="64x64", wait=30)
    return str(drawn["images"][0]["id"])


async def batch(owner: User) -> str:
    body = {"requests": [{"prompt": "a", "visibility": "private", "size": "64x64"}]}
    answer = await owner.http.post("/v1/batches", json=body, headers={"Prefer": "wait=30"})
    return str(answer.json()["id"])


async def upload(owner: User) -> str:
    content = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(content, "PNG")
    return await owner.upload(content.getvalue())


async def api_key(owner: User) -> str:
    answer = await owner.http.post("/v1/api-keys", json={"scopes": ["read"]})
    return str(answer.json()["id"])


async def template(owner: User) -> str:
    answer = await owner.http.post("/v1/prompt-templates", json={"name": "a", "text": "a {{b}}"})
    return str(answer.json()["id"])


async def endpoint(owner: User) -> str:
    answer = await owner.http.post("/v1/webhook-endpoints", json={"url": "https://8.8.8.8/"})
    return str(answer.json()["id"])


async def delivery(owner: User) -> str:
    sent = await owner.http.post(f"/v1/webhook-endpoints/{await endpoint(owner)}/test")
    return str(sent.json()["id"])


async def lora(owner: User) -> str:
    answer = await owner.http.post(
        "/v1/loras", json={"name": f"a {uuid4()} a", "source": await lora_file(owner)}
    )
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


async def lora_file(owner: User) -> dict[str, str]:
    body = {"filename": "a.safetensors", "bytes": len(SEPIA)}
    ticket = (await owner.http.post("/v1/loras/uploads", json=body)).json()
    await owner.http.put(ticket["url"], content=SEPIA, headers=ticket["headers"])
    return {"upload_id": ticket["upload_id"]}


async def character(owner: User) -> str:
    body = {"name": "a", "source": "description", "description": "a fox"}
    answer = await owner.http.post("/v1/characters", json=body)
    return str(answer.json()["id"])


async def comic(owner: User) -> str:
    return str((await owner.http.post("/v1/comics", json={"name": "a"})).json()["id"])


async def chapter(owner: User) -> str:
    answer = await owner.http.post(f"/v1/comics/{await comic(owner)}/chapters", json={})
    return str(answer.json()["id"])


async def panel(owner: User) -> str:
    answer = await owner.http.post(f"/v1/comics/chapters/{await chapter(owner)}/panels", json={"prompt": "a"})
    return str(answer.json()["id"])


async def drawn_comic(owner: User) -> str:
    begun = (await owner.http.post("/v1/comics", json={"name": "a"})).json()
    place, wait = f"/v1/comics/chapters/{begun['chapters'][0]['id']}/panels", {"Prefer": "wait=30"}
    await owner.http.post(place, json={"prompt": "a"}, headers=wait)
    return str(begun["id"])


async def drawn_panel(owner: User) -> str:
    place, wait = f"/v1/comics/chapters/{await chapter(owner)}/panels", {"Prefer": "wait=30"}
    answer = await owner.http.post(place, json={"prompt": "a"}, headers=wait)
    return str(answer.json()["id"])


IDS: dict[str, Make | None] = {
    "job_id": job,
    "parent_id": job,
    "batch_id": batch,
    "GET /v1/batches after": batch,
    "image_id": image,
    "key_id": api_key,
    "character_id": character,
    "character_image_id": None,  # the character is asked for first
    "GET /v1/characters after": character,
    "GET /v1/characters/{character_id}/images after": None,
    "endpoint_id": endpoint,
    "delivery_id": delivery,
    "GET /v1/webhook-endpoints after": endpoint,
    "GET /v1/webhook-endpoints/{endpoint_id}/deliveries after": None,  # the endpoint is asked for first
    "project_id": comic,
    "chapter_id": chapter,
    "GET /v1/comics after": comic,
    "panel_id": panel,
    "GET /v1/comics/panels/{panel_id}/thumbnail panel_id": drawn_panel,
    "GET /v1/comics/{project_id}/export project_id": drawn_comic,
    "GET /v1/comics/{project_id}/export chapter_id": None,  # the comic is asked for first
    "upload_id": upload,
    "lora_id": lora,
    "GET /v1/loras after": lora,
    "template_id": template,
    "GET /v1/prompt-templates after": template,
    "GET /v1/jobs after": job,
    "GET /v1/images after": image,
    "GET /v1/api-keys after": api_key,
    "user_id": None,  # of admin routes, which are closed to everybody else
    "extension": None,
    "bucket": None,
    "key": None,
    "model_id": None,
    "set": None,
    "name": None,
}
"""By the name of a parameter, or by route and name where a name means several things: how to make an id of a
user's own.  None: the parameter names nothing that belongs to anybody."""

BODIES: dict[str, dict[str, Any]] = {
    "PATCH /v1/characters/{character_id}": {"name": "b"},
    "POST /v1/characters/{character_id}/generate-initial-image": {},
    "POST /v1/characters/{character_id}/generate-360-set": {},
    "POST /v1/characters/{character_id}/generate-scene-image": {"sceneContext": "at night"},
    "PATCH /v1/comics/{project_id}": {"name": "b"},
    "POST /v1/comics/{project_id}/members": {"user_id": str(uuid4())},
    "POST /v1/comics/{project_id}/chapters": {},
    "PUT /v1/comics/{project_id}/chapters/order": {"ids": []},
    "PATCH /v1/comics/chapters/{chapter_id}": {"name": "b"},
    "PUT /v1/comics/chapters/{chapter_id}/panels/order": {"ids": []},
    "PATCH /v1/jobs/{job_id}": {"metadata": {"cart_ref": "1"}},
    "POST /v1/images/{image_id}/variations": {"num_images": 1},
    "POST /v1/images/{image_id}/upscale": {"scale": 2},
    "POST /v1/comics/chapters/{chapter_id}/panels": {"prompt": "a"},
    "PATCH /v1/comics/panels/{panel_id}": {"prompt": "b"},
    "POST /v1/comics/panels/{panel_id}/regenerate": {},
    "PATCH /v1/webhook-endpoints/{endpoint_id}": {"description": "b"},
    "PATCH /v1/loras/{lora_id}": {"trigger_words": ["b"]},
    "PATCH /v1/prompt-templates/{template_id}": {"name": "b"},
    "POST /v1/prompt-templates/{template_id}/render": {"variables": {"b": "c"}},
}
"""By route: the smallest body that is accepted, for routes that need one."""

OTHER_PARAMETERS = {"extension": "png", "character_image_id": str(uuid4()), "user_id": str(uuid4())}


@dataclass(frozen=True)
class Place:
    """One parameter of one route that may name a row."""

    method: str
    path: str
    name: str
    where: str
    needs_body: bool

    @property
    def route(self) -> str:
        return f"{self.method} {self.path}"

    @property
    def known(self) -> bool:
        return str(self) in IDS or self.name in IDS

    @property
    def make(self) -> Make | None:
        return IDS.get(str(self), IDS.get(self.name))

    def address(self, value: str) -> tuple[str, dict[str, str]]:
        path = self.path.replace(f"{{{self.name}}}", value) if self.where == "path" else self.path
        for name, other in OTHER_PARAMETERS.items():
            path = path.replace(f"{{{name}}}", other)
        return path, ({self.name: value} if self.where == "query" else {})

    def __str__(self) -> str:
        return f"{self.route} {self.name}"


def document() -> dict[str, Any]:
    """The OpenAPI document, without anything running."""
    needed = {"database_url": "postgresql://x", "modal_generate_endpoint": "http://x"}
    secrets: Any = {"webhook_secret": "whsec_eA==", "url_signing_key": "k"}
    return create_app(Settings(_env_file=None, **needed, **secrets)).openapi()


def places() -> Iterator[Place]:
    """Path parameters of any kind, and query parameters that are ids."""
    for path, operations in document()["paths"].items():
        for method, operation in operations.items():
            for parameter in operation.get("parameters", []):
                name, where = parameter["name"], parameter["in"]
                if where == "path" or (where == "query" and "uuid" in json.dumps(parameter["schema"])):
                    needs_body = operation.get("requestBody", {}).get("required", False)
                    yield Place(method.upper(), path, name, where, needs_body)


OF_EVERYBODY = {"/v1/models", "/v1/usage/forecast"}
"""What a picture takes is measured on whoever's calls there are."""


def lists() -> list[str]:
    """Routes that answer something to whoever asks, without naming it; administrators see everybody's."""
    return [
        path
        for path, operations in document()["paths"].items()
        if "{" not in path
        and "security" in operations.get("get", {})
        and not path.endswith("/events")
        and not path.startswith("/v1/admin/")
        and not path.startswith("/v1/admin/")
    ]


async def ask(caller: User, place: Place, value: str) -> tuple[int, str]:
    """Status and body, without what differs from one request to the next by nature."""
    path, query = place.address(value)
    body = BODIES.get(place.route)
    assert body is not None or not place.needs_body, f"{place.route} needs a body: add one to BODIES."
    sent = {"json": body} if body is not None else {}
    async with caller.http.stream(place.method, path, params=query, **sent) as answer:
        kind = answer.headers.get("content-type", "")
        if answer.status_code == 200 and kind.startswith(("text/event-stream", "image/", "application/pdf")):
            return answer.status_code, kind
        text = (await answer.aread()).decode()
        return answer.status_code, text.replace(value, "ID").replace(answer.headers["x-request-id"], "")


def test_every_parameter_that_may_name_a_row_is_in_the_table() -> None:
    unknown = [str(place) for place in places() if not place.known]
    assert not unknown, f"say in IDS of {__name__} how a user gets such an id, or None if nobody owns it"


@pytest.mark.parametrize("place", [place for place in places() if place.make], ids=str)
async def test_anothers_id_answers_like_one_that_does_not_exist(product: Stack, place: Place) -> None:
    assert place.make is not None
    owner, stranger = product.new_user(), product.new_user()
    theirs = await place.make(owner)
    answer = await ask(stranger, place, theirs)
    assert answer == await ask(stranger, place, str(uuid4()))
    assert answer[0] == (404 if place.where == "path" else 200), answer[1]


def found_by_their_owner() -> list[Place]:
    """``/images`` aside: it is for public pictures, and the one made here is private."""
    named = [place for place in places() if place.make and (place.method, place.where) == ("GET", "path")]
    return [place for place in named if not place.path.startswith("/images/")]


@pytest.mark.parametrize("place", found_by_their_owner(), ids=str)
async def test_ones_own_id_is_found(product: Stack, place: Place) -> None:
    assert place.make is not None
    owner = product.new_user()
    assert (await ask(owner, place, await place.make(owner)))[0] == 200


@pytest.mark.parametrize("path", lists())
async def test_a_list_holds_and_counts_nothing_of_another_user(product: Stack, path: str) -> None:
    owner, stranger = product.new_user(), product.new_user()
    before = await answer_of(stranger, path)
    made = {make for make in IDS.values() if make is not None}
    ids = [await make(owner) for make in made]
    after = await answer_of(stranger, path)
    assert after == before or path in OF_EVERYBODY
    assert not [id_ for id_ in ids if id_ in after]


async def answer_of(caller: User, path: str) -> str:
    """Without times: some answers say from when to when they count."""
    answer: httpx.Response = await caller.http.get(path)
    assert answer.status_code == 200, answer.text
    return re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z", "then", answer.text)
