"""Characters over HTTP, drawn by the instant model: flow, refusals, history, deletion."""

import io
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest_asyncio
from PIL import Image

from tests.support.faults import eventually
from tests.support.stack import Stack, User, stack

INSTANT = {"default_model": "instant", "default_edit_model": "instant"}
VIEWS = ["front", "side", "back"]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def studio(new_database: Callable[[], str], new_folder: Callable[[], Path]) -> AsyncIterator[Stack]:
    async with stack(new_database(), new_folder(), gpu={"GPU_MODELS": "instant"}, **INSTANT) as running:
        yield running


def photo() -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (64, 64), (200, 30, 30)).save(content, "PNG")
    return content.getvalue()


async def made(user: User, **body: Any) -> dict[str, Any]:
    asked = {"name": "Mila", "source": "description", "description": "a small red fox", **body}
    answer = await user.http.post("/v1/characters", json=asked)
    assert answer.status_code == 202, answer.text
    return dict(answer.json())


async def from_photo(user: User, **body: Any) -> dict[str, Any]:
    upload = await user.upload(photo())
    return await made(user, source="photo", upload_id=upload, consent=True, description=None, **body)


async def settled(user: User, character: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}

    async def done() -> bool:
        found.update((await user.http.get(f"/v1/characters/{character['id']}")).json())
        return found["status"] in ("ready", "failed")

    await eventually(done, within=20)
    return found


async def test_a_photo_becomes_a_profile_a_portrait_and_three_views(studio: Stack) -> None:
    user = studio.new_user()
    begun = await from_photo(user, attributes={"do_not_change": ["freckles"]})
    assert begun["status"] == "pending"
    ready = await settled(user, begun)
    print(ready)
    assert ready["status"] == "ready", ready
    assert [each["view"] for each in ready["reference_images"]] == VIEWS
