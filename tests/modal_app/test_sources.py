"""Files that a call names: fetched from known origins only, checked, and kept by their hash."""

import asyncio
import hashlib
import io
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from modal_app import sources
from modal_app.contract import Call, Source
from modal_app.sources import SourceError, Sources
from scripts.tiny import creatures, drawing
from tests.judge import judge
from tests.modal_app.conftest import Client, service
from tests.support.stack import serve

RED = creatures.Picture((creatures.Creature("round", "red", "blue"),), scene="beach")


def png(picture: creatures.Picture = RED) -> bytes:
    file = io.BytesIO()
    drawing.draw(picture).save(file, "PNG")
    return file.getvalue()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@dataclass
class Store:
    """A little bucket over HTTP that counts what it is asked for."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    delay: float = 0.0

    async def get(self, request: Request) -> Response:
        name = request.path_params["name"]
        self.asked.append(name)
        await asyncio.sleep(self.delay)
        if name == "moved":
            return RedirectResponse("http://127.0.0.1:1/")
        if name == "broken":
            return Response(status_code=500)
        return Response(self.files[name]) if name in self.files else Response(status_code=404)

    def put(self, name: str, content: bytes) -> dict[str, str]:
        self.files[name] = content
        return {"url": f"{self.url}/{name}", "sha256": sha256(content)}


@pytest.fixture
async def store() -> AsyncIterator[Store]:
    made = Store()
    async with serve(Starlette(routes=[Route("/{name}", made.get)])) as url:
        made.url = url
        yield made


@pytest.fixture
async def shelf(tmp_path: Path, store: Store) -> AsyncIterator[Sources]:
    async with Sources(tmp_path / "shelf", [store.url]) as made:
        yield made


@pytest.fixture
async def gpu(tmp_path: Path, store: Store) -> AsyncIterator[Client]:
    async with service(tmp_path, origins=[store.url]) as client:
        yield client


async def refused(shelf: Sources, source: dict[str, str]) -> SourceError:
    with pytest.raises(SourceError) as error:
        await shelf.fetch([Source(**source)])
    return error.value


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest",
        "http://localhost/",
        "file:///etc/passwd",
        "ftp://127.0.0.1/",
        "http://[::1]/",
        "",
        "//x",
    ],
)
async def test_other_origins_are_never_asked(shelf: Sources, url: str) -> None:
    assert (await refused(shelf, {"url": url, "sha256": "0" * 64})).code == "source_refused"


async def test_a_name_before_the_host_does_not_make_an_origin(shelf: Sources, store: Store) -> None:
    host = store.url.removeprefix("http://")
    error = await refused(shelf, {"url": f"http://{host}@example.com/a", "sha256": "0" * 64})
    assert error.code == "source_refused"


@pytest.mark.parametrize(("name", "retryable"), [("missing", False), ("broken", True), ("moved", False)])
async def test_what_the_store_does_not_give_is_not_had(
    shelf: Sources, store: Store, name: str, retryable: bool
) -> None:
    error = await refused(shelf, {"url": f"{store.url}/{name}", "sha256": "0" * 64})
    assert (error.code, error.retryable) == ("source_unavailable", retryable)


async def test_a_file_that_is_another_is_refused_and_not_kept(shelf: Sources, store: Store) -> None:
    source = {**store.put("a", b"one"), "sha256": sha256(b"two")}
    assert (await refused(shelf, source)).code == "source_mismatch"
    assert not list(shelf._folder.iterdir())


async def test_a_file_that_does_not_end_is_cut_off(
    shelf: Sources, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "FILE_LIMIT_BYTES", 1000)
    assert (await refused(shelf, store.put("a", bytes(2000)))).code == "source_too_large"
    assert not list(shelf._folder.iterdir())


async def test_a_file_is_fetched_once_for_all_who_want_it(shelf: Sources, store: Store) -> None:
    store.delay = 0.1
    source = Source(**store.put("a", b"content"))
    found = await asyncio.gather(*(shelf.fetch([source]) for _ in range(5)))
    assert {files[source.sha256].read_bytes() for files in found} == {b"content"}
    await shelf.fetch([source])
    assert store.asked == ["a"]


async def test_files_unused_for_long_give_way_to_new_ones(
    shelf: Sources, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "CACHE_LIMIT_BYTES", 100)
    (old,) = (await shelf.fetch([Source(**store.put("old", bytes(80)))])).values()
    (young,) = (await shelf.fetch([Source(**store.put("young", bytes(81)))])).values()
    assert old.exists()
    assert young.exists()
    day_ago = time.time() - 86_400
    import os

    os.utime(old, (day_ago, day_ago))
    await shelf.fetch([Source(**store.put("new", bytes(82)))])
    assert not old.exists()
    assert young.exists()


# Through the front door.


async def drawn(gpu: Client, **changes: Any) -> tuple[Call, Image.Image | None]:
    call = await gpu.ended(await gpu.accepted(model="tiny-qwen-edit", num_inference_steps=12, **changes))
    if call.status != "succeeded":
        return call, None
    content = (await gpu.http.get(f"/calls/{call.call_id}/images/0")).content
    return call, Image.open(io.BytesIO(content)).convert("RGB")


async def test_a_call_whose_file_cannot_be_had_fails_with_the_reason(gpu: Client, store: Store) -> None:
    call, _ = await drawn(gpu, references=[{"url": f"{store.url}/missing", "sha256": "0" * 64}])
    assert call.error is not None
    assert (call.status, call.error.code, call.timing.gpu_seconds) == ("failed", "source_unavailable", 0)


async def test_a_reference_that_is_no_picture_fails_the_call(gpu: Client, store: Store) -> None:
    call, _ = await drawn(gpu, references=[store.put("text", b"no picture")])
    assert call.error is not None
    assert (call.error.code, call.error.retryable) == ("invalid_picture", False)


async def test_a_lora_that_is_none_fails_the_call(gpu: Client, store: Store) -> None:
    call, _ = await drawn(gpu, loras=[store.put("lora", b"no lora")])
    assert call.error is not None
    assert call.error.code == "invalid_lora"


async def test_a_call_can_be_canceled_while_its_files_come(gpu: Client, store: Store) -> None:
    store.delay = 5
    call_id = await gpu.accepted(model="tiny-qwen-edit", references=[store.put("slow", png())])
    await gpu.running(call_id)
    await gpu.http.delete(f"/calls/{call_id}")
    assert (await gpu.ended(call_id)).status == "canceled"


async def test_an_edit_changes_what_it_was_told(gpu: Client, store: Store) -> None:
    call, image = await drawn(gpu, prompt="make the creature green", references=[store.put("red", png())])
    assert call.status == "succeeded", call.error
    assert image is not None
    seen = judge(image)
    assert (seen["color"], seen["hat"], seen["scene"]) == ("green", "blue", "beach")


async def test_language_tasks_are_calls_like_any_other(gpu: Client, store: Store) -> None:
    async def answered(task: str, **request: Any) -> Any:
        body = {"model": "tiny-qwen-edit", **request}
        key = f"00000000-0000-4000-8000-{abs(hash(task)) % 10**12:012d}:0:1"
        accepted = await gpu.send({"key": key, "task": task, "request": body})
        assert accepted.status_code == 202, accepted.text
        call = await gpu.ended(accepted.json()["call_id"])
        assert call.status == "succeeded", call.error
        assert (call.steps, call.timing.gpu_seconds >= 0) == (0, True)
        return call.result

    image = store.put("red", png())
    profile = await answered("profile", image=image)
    assert (profile.answered_by, profile.profile["color"], len(profile.color_palette)) == ("vlm", "red", 5)
    judged = await answered("judge", image=image, references=[image])
    assert judged.score == 100
    enhanced = await answered("enhance", prompt="a dragon")
    assert (enhanced.answered_by, enhanced.prompt) == ("fallback", "a dragon")
    parsed = await answered(
        "parse", prompt="a dragon in anime style on a mug", styles={"design/anime": ["anime"]}
    )
    assert (parsed.style, parsed.product) == ("design/anime", "mug")


async def test_a_model_without_a_language_model_answers_by_rules(gpu: Client, store: Store) -> None:
    body = {"model": "instant", "image": store.put("red", png())}
    key = "00000000-0000-4000-8000-000000000000:0:1"
    accepted = await gpu.send({"key": key, "task": "profile", "request": body})
    result = (await gpu.ended(accepted.json()["call_id"])).result
    assert result is not None
    assert result.task == "profile"
    assert (result.answered_by, result.profile) == ("fallback", {})
