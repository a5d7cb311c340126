"""LoRAs: what is refused leaves nothing behind, what is registered draws, and nothing of it leaks."""

import asyncio
import datetime
import hashlib
import io
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import numpy as np
import pytest
import pytest_asyncio
from PIL import Image

from gateway.config import Settings
from gateway.loras.places import Places
from gateway.outside import OutsideError
from gateway.services import keepers
from gateway.storage.deletions import Deletions
from gateway.storage.sweep import Sweep
from tests.support.lora_server import CIVITAI_TOKEN, FLUX, FRAME, HF_TOKEN, SEPIA, LoraServer
from tests.support.stack import Stack, User, free_port, gateway_process, serve, stack

RED = "a red round creature with a blue hat, front view, on a beach"
FRANCHISES = """
version = 1

[[franchise]]
name = "Sepia World"
keywords = ["sepia world"]
loras = {{ tiny = "{url}/sepia.safetensors" }}

[[franchise]]
name = "Lost World"
keywords = ["lost world"]
loras = {{ tiny = "{url}/lost.safetensors", Qwen = "{url}/sepia.safetensors" }}
"""


@dataclass
class World:
    """A gateway, and the sites that LoRAs come from."""

    stack: Stack
    server: LoraServer
    url: str

    def rows(self, user: User) -> list[dict[str, Any]]:
        return self.stack.rows("select * from public.loras where user_id = %s", user.id)

    def objects(self, user: User) -> list[str]:
        return [key for key in self.stack.objects("loras") if key.startswith(f"{user.id}/")]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def world(new_database: Callable[[], str], new_folder: Callable[[], Path]) -> AsyncIterator[World]:
    server, folder = LoraServer(), new_folder()
    models = {"GPU_MODELS": "tiny-qwen,tiny-qwen-edit", "GPU_PRELOAD": "tiny-qwen"}
    async with serve(server.app) as url, serve(server.app) as civitai:
        (folder / "franchises.toml").write_text(FRANCHISES.format(url=url))
        async with stack(
            new_database(),
            folder,
            gpu=models,
            allow_private_urls=True,
            lora_hosts="127.0.0.1,localhost",
            lora_max_bytes=2_000_000,
            hf_endpoint=url,
            hf_token=HF_TOKEN,
            civitai_endpoint=civitai,
            civitai_token=CIVITAI_TOKEN,
            franchises_file=str(folder / "franchises.toml"),
        ) as running:
            yield World(running, server, url)


@pytest.fixture
def user(world: World) -> User:
    return world.stack.new_user()


async def register(user: User, name: str = "a", **body: Any) -> httpx.Response:
    source = {key: body.pop(key) for key in ("url", "upload_id") if key in body}
    return await user.http.post("/v1/loras", json={"name": name, "source": source, **body})


async def registered(user: User, name: str = "a", **body: Any) -> dict[str, Any]:
    answer = await register(user, name, **body)
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


async def send(user: User, content: bytes, filename: str = "a.safetensors") -> str:
    """The id of an upload whose file has arrived."""
    answer = await user.http.post("/v1/loras/uploads", json={"filename": filename, "bytes": len(content)})
    assert answer.status_code == 201, answer.text
    ticket = answer.json()
    async with httpx.AsyncClient() as stranger:  # the address is the only credential
        sent = await stranger.put(ticket["url"], content=content, headers=ticket["headers"])
    assert sent.status_code == 200, sent.text
    return str(ticket["upload_id"])


async def draw(user: User, **body: Any) -> dict[str, Any]:
    job = await user.create(**{"prompt": RED, "seed": 7, "size": "96x96", **body}, wait=60)
    assert job["status"] == "completed", job["error"]
    return job


async def pixels(user: User, job: dict[str, Any]) -> np.ndarray:
    content = await user.http.get(f"/v1/images/{job['images'][0]['id']}/content")
    return np.asarray(Image.open(io.BytesIO(content.content)).convert("RGB"), dtype=int)


async def refused(user: User, **body: Any) -> dict[str, Any]:
    answer = await user.http.post("/v1/jobs", json={"prompt": RED, **body})
    assert answer.status_code >= 400, answer.text
    return {**answer.json(), "headers": answer.headers}


# ---------------------------------------------------------------- refusals

BROKEN = {
    "a pickle": (b"\x80\x02}q\x00." + bytes(100), "not_safetensors"),
    "a zipped pickle": (b"PK\x03\x04" + bytes(100), "not_safetensors"),
    "a text, renamed": (b"I am a LoRA, really", "not_safetensors"),
    "half a header": (SEPIA[:200], "truncated"),
    "half a file": (SEPIA[:-100], "truncated"),
    "a file with a tail": (SEPIA + b"PK\x03\x04", "trailing_bytes"),
    "a LoRA of nothing known": (b"", "not_safetensors"),
}


@pytest.mark.parametrize("way", ["url", "upload"])
@pytest.mark.parametrize("what", BROKEN)
async def test_what_is_no_lora_is_refused_with_the_reason_and_leaves_nothing(
    world: World, user: User, what: str, way: str
) -> None:
    content, reason = BROKEN[what]
    world.server.files["/broken.safetensors"] = content
    if way == "upload" and not content:
        return  # nothing that could be sent
    source = {"upload_id": await send(user, content)} if way == "upload" else {}
    answer = await register(user, **(source or {"url": f"{world.url}/broken.safetensors"}))
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (400, "invalid_lora")
    assert problem["errors"][0]["reason"] == reason
    assert (await user.http.get("/v1/loras")).json()["data"] == []
    assert world.objects(user) == []
    assert not list((world.stack.folder / "loras-fetching").glob("*"))
    await registered(user, url=f"{world.url}/sepia.safetensors")  # the name is free


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("https://evil.example/a.safetensors", "url_refused"),
        ("https://huggingface.co.evil.example/a.safetensors", "url_refused"),
        ("https://user:secret@127.0.0.1/a.safetensors", "url_refused"),
        ("{url}/away/0.0.0.0", "url_refused"),
        ("{url}/none.safetensors", "url_unreachable"),
        ("hf:owner/../../secret", "invalid_lora_reference"),
        ("hf:owner", "invalid_lora_reference"),
        ("civitai:latest", "invalid_lora_reference"),
        ("file:///etc/passwd", "invalid_lora_reference"),
        ("ftp://127.0.0.1/a", "invalid_lora_reference"),
    ],
)
async def test_an_address_that_is_not_allowed_is_refused(
    world: World, user: User, url: str, code: str
) -> None:
    answer = await register(user, url=url.format(url=world.url))
    assert (answer.status_code, answer.json()["code"]) == (400, code)
    assert not [row for row in world.rows(user) if row["deleted_at"] is None]
    assert not [host for host, *_ in world.server.seen if host == "0.0.0.0"]
    job = await refused(user, loras=[{"lora": url.format(url=world.url)}])
    assert job["code"] == (code if "://" in url and "file" not in url and "ftp" not in url else job["code"])
    assert job["status"] in (400, 404)


async def test_too_large_a_file_is_refused_on_every_way(world: World, user: User) -> None:
    world.server.files["/large.safetensors"] = bytes(2_000_001)
    answer = await register(user, url=f"{world.url}/large.safetensors")
    assert (answer.status_code, answer.json()["code"]) == (400, "url_too_large")
    body = {"filename": "a.safetensors", "bytes": 2_000_001}
    answer = await user.http.post("/v1/loras/uploads", json=body)
    assert (answer.status_code, answer.json()["code"]) == (413, "lora_too_large")
    ticket = (await user.http.post("/v1/loras/uploads", json={**body, "bytes": 100})).json()
    async with httpx.AsyncClient() as http:
        sent = await http.put(ticket["url"], content=bytes(101), headers=ticket["headers"])
    assert sent.status_code == 413
    assert world.objects(user) == []


@pytest.mark.parametrize(
    "body",
    [
        {"name": "a"},
        {"name": "a", "source": {}},
        {"name": "a", "source": {"url": "hf:a/b/c", "upload_id": str(uuid4())}},
        {"name": "", "source": {"url": "hf:a/b/c"}},
        {"name": "hf:a/b/c", "source": {"url": "hf:a/b/c"}},
        {"name": str(uuid4()), "source": {"url": "hf:a/b/c"}},
        {"name": "a\x00", "source": {"url": "hf:a/b/c"}},
        {"name": "a", "source": {"url": "hf:a/b/c"}, "status": "ready"},
    ],
)
async def test_a_malformed_body_is_refused(world: World, user: User, body: dict[str, Any]) -> None:
    assert (await user.http.post("/v1/loras", json=body)).status_code == 422
    assert not world.rows(user)


async def test_only_a_safetensors_file_may_be_announced(user: User) -> None:
    answer = await user.http.post("/v1/loras/uploads", json={"filename": "a.ckpt", "bytes": 10})
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")


async def test_a_stranger_and_a_reader_register_nothing(world: World) -> None:
    reader = world.stack.new_user(("read",))
    assert (await register(reader, url="hf:a/b/c.safetensors")).json()["code"] == "forbidden"
    reader.http.headers["authorization"] = "Bearer tk_nobody"
    assert (await register(reader, url="hf:a/b/c.safetensors")).json()["code"] == "unauthenticated"


async def test_anothers_upload_and_lora_are_like_ones_that_do_not_exist(world: World, user: User) -> None:
    theirs = await send(user, SEPIA)
    stranger = world.stack.new_user()
    for upload_id in (theirs, str(uuid4())):
        answer = await register(stranger, upload_id=upload_id)
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    lora = await registered(user, "mine", upload_id=theirs)
    for name in (lora["id"], "mine", str(uuid4()), "nobody's"):
        problem = await refused(stranger, loras=[{"lora": name}])
        assert (problem["status"], problem["code"], problem["error"]["param"]) == (404, "not_found", "loras")
    assert not world.objects(stranger)


async def test_a_name_and_an_upload_are_used_once(world: World, user: User) -> None:
    upload_id = await send(user, SEPIA)
    lora = await registered(user, upload_id=upload_id)
    answer = await register(user, url=f"{world.url}/frame.safetensors")
    assert (answer.status_code, answer.json()["code"]) == (409, "name_taken")
    answer = await register(user, "b", upload_id=upload_id)
    assert (answer.status_code, answer.json()["code"]) == (409, "upload_used")
    other = await registered(user, "b", url=f"{world.url}/frame.safetensors")
    answer = await user.http.patch(f"/v1/loras/{other['id']}", json={"name": "a"})
    assert answer.json()["code"] == "name_taken"
    assert (await user.http.get(f"/v1/loras/{lora['id']}")).json() == lora
    assert len(world.objects(user)) == 2


async def test_a_lora_of_another_family_is_refused_by_name(world: World, user: User) -> None:
    assert (await registered(user, "flux", upload_id=await send(user, FLUX)))["base_model_group"] == "Flux1"
    problem = await refused(user, model="tiny-qwen", loras=[{"lora": "flux"}])
    assert (problem["status"], problem["code"], problem["error"]["param"]) == (
        400,
        "lora_incompatible",
        "loras",
    )
    problem = await refused(user, loras=[{"lora": "flux"}])  # its own model, which nobody serves
    assert (problem["status"], problem["code"]) == (400, "model_unavailable")
    assert "flux1-dev" in problem["detail"]
    mixed = [{"lora": f"{world.url}/sepia.safetensors"}, {"lora": "flux"}]
    assert (await refused(user, loras=mixed))["code"] == "lora_incompatible"
    assert not world.stack.rows("select from public.generation_jobs where user_id = %s", user.id)


# ---------------------------------------------------------------- tokens


async def test_a_token_goes_to_its_own_host_and_never_along(world: World, user: User) -> None:
    lora = await registered(user, url="hf:owner/private@v1/folder/sepia.safetensors")
    assert lora["sha256"] == hashlib.sha256(SEPIA).hexdigest()
    assert world.server.requests("/owner/private/resolve/v1/folder/sepia") == [
        ("127.0.0.1", f"Bearer {HF_TOKEN}")
    ]
    assert world.server.requests("/cdn/folder/sepia") == [("localhost", None)]
    await registered(user, "b", url=f"{world.url.replace('127.0.0.1', 'localhost')}/frame.safetensors")
    assert (await register(user, "c", url="hf:owner/private/none.safetensors")).status_code == 400
    answers = [lora, (await user.http.get("/v1/loras")).json()]
    assert HF_TOKEN not in str(answers)


async def test_civitai_tells_trained_words_and_is_not_believed_about_the_layers(
    world: World, user: User
) -> None:
    lora = await registered(user, url="civitai:123456")
    assert (lora["trigger_words"], lora["base_model"]) == (["frm", "a frame"], "tiny")
    assert world.server.requests("/api/download/models/123456") == [("127.0.0.1", f"Bearer {CIVITAI_TOKEN}")]
    assert set(world.server.requests("/b2/frame")) == {("localhost", None)}
    own = await registered(user, "b", url="civitai:123456", trigger_words=["mine"])
    assert own["trigger_words"] == ["mine"]


def test_places_are_those_of_the_documented_sites() -> None:
    places = Places(Settings(_env_file=None, hf_token="t"))  # type: ignore[arg-type]
    assert places.find("hf:a/b/c d.safetensors").url == (
        "https://huggingface.co/a/b/resolve/main/c%20d.safetensors"
    )
    assert places.find("civitai:12").url == "https://civitai.com/api/download/models/12"
    for url in ("https://cdn-lfs-us-1.huggingface.co/a", "https://cas-bridge.xethub.hf.co/a"):
        assert places.gate(httpx.URL(url)) == {}
    assert places.gate(httpx.URL("https://huggingface.co/a")) == {"Authorization": "Bearer t"}
    for url in (
        "http://huggingface.co/a",
        "https://huggingface.co.evil.example/",
        "https://hf.co.evil/",
        "https://xhf.co/",
    ):
        with pytest.raises(OutsideError):
            places.gate(httpx.URL(url))


# ---------------------------------------------------------------- registered


async def test_a_lora_is_registered_shown_named_anew_and_deleted(world: World, user: User) -> None:
    lora = await registered(user, "sepia", url=f"{world.url}/sepia.safetensors", trigger_words=["sepia"])
    assert {name: lora[name] for name in ("status", "family", "base_model_group", "rank", "key_format")} == {
        **{"status": "ready", "family": "tiny", "base_model_group": "Tiny"},
        **{"rank": 8, "key_format": "diffusers"},
    }
    assert (lora["bytes"], lora["sha256"]) == (len(SEPIA), hashlib.sha256(SEPIA).hexdigest())
    assert lora["models"] == ["tiny-qwen", "tiny-qwen-edit"]
    changed = await user.http.patch(f"/v1/loras/{lora['id']}", json={"name": "old", "trigger_words": ["x"]})
    assert (changed.json()["name"], changed.json()["trigger_words"]) == ("old", ["x"])
    second = await registered(user, "frame", upload_id=await send(user, FRAME))
    page = (await user.http.get("/v1/loras", params={"limit": 1})).json()
    assert (page["data"], page["has_more"]) == ([second], True)
    rest = (await user.http.get("/v1/loras", params={"after": second["id"]})).json()
    assert [each["id"] for each in rest["data"]] == [lora["id"]]
    for each in (lora, second):
        assert (await user.http.delete(f"/v1/loras/{each['id']}")).status_code == 204
        assert (await user.http.get(f"/v1/loras/{each['id']}")).status_code == 404
    assert world.objects(user) == []


async def test_the_same_key_registers_once(world: World, user: User) -> None:
    user.http.headers["idempotency-key"] = "one"
    body = {"url": f"{world.url}/sepia.safetensors"}
    first, again = await register(user, **body), await register(user, **body)
    assert (first.json(), again.headers["idempotent-replayed"]) == (again.json(), "true")
    other = await register(user, "b", **body)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    assert len(world.rows(user)) == 1


async def test_what_nobody_registers_is_swept(world: World, user: User) -> None:
    await send(user, SEPIA)
    kept = await registered(user, url=f"{world.url}/frame.safetensors")
    assert len(world.objects(user)) == 2
    assert world.stack.app is not None
    db, buckets = world.stack.app.state.db, world.stack.app.state.buckets
    await Sweep(db, buckets, keepers(db)).run()
    await Deletions(db, buckets, keepers(db)).carry_out()
    assert len(world.objects(user)) == 2  # a day has not passed
    await Sweep(db, buckets, keepers(db)).run(age=datetime.timedelta(seconds=-60))
    await Deletions(db, buckets, keepers(db)).carry_out()
    async with asyncio.timeout(30):  # the gateway's own worker may have taken it in hand first
        while len(world.objects(user)) > 1:
            await asyncio.sleep(0.05)
    assert world.objects(user) == [f"{user.id}/{kept['id']}/1.safetensors"]


async def test_a_file_that_takes_long_is_fetched_in_the_background(
    world: World, user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.loras.service.REGISTER_SECONDS", 0.3)
    monkeypatch.setattr("gateway.loras.service.JOB_SECONDS", 0.3)
    world.server.gate.clear()
    url = f"{world.url}/slow/sepia.safetensors"
    answer = await register(user, "slow", url=url)
    lora = answer.json()
    assert (answer.status_code, lora["status"], lora["sha256"]) == (202, "pending", None)
    for name in ("slow", url):
        problem = await refused(user, loras=[{"lora": name}])
        assert (problem["status"], problem["code"]) == (409, "lora_not_ready")
        assert int(problem["headers"]["retry-after"]) > 0
    world.server.gate.set()
    async with asyncio.timeout(20):
        while (await user.http.get(f"/v1/loras/{lora['id']}")).json()["status"] == "pending":
            await asyncio.sleep(0.1)
    assert (await draw(user, loras=[{"lora": "slow"}]))["params"]["loras"][0]["name"] == "slow"
    assert len(world.server.requests("/slow/sepia")) == 1


async def test_a_lora_that_is_deleted_while_it_comes_leaves_nothing(
    world: World, user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.loras.service.REGISTER_SECONDS", 0.3)
    world.server.gate.clear()
    lora = (await register(user, url=f"{world.url}/slow/frame.safetensors")).json()
    assert (await user.http.delete(f"/v1/loras/{lora['id']}")).status_code == 204
    world.server.gate.set()
    assert world.stack.app is not None
    tasks = world.stack.app.state.loras._fetcher._tasks
    async with asyncio.timeout(20):
        while tasks:
            await asyncio.sleep(0.05)
    assert world.objects(user) == []


async def test_a_killed_gateway_loses_no_lora(admin_url: str, new_folder: Callable[[], Path]) -> None:
    server, folder, port = LoraServer(), new_folder(), free_port()
    environment = {"ALLOW_PRIVATE_URLS": "true", "LORA_HOSTS": "127.0.0.1", "LEASE_SECONDS": "1"}
    gateway = gateway_process(folder, port, admin_url, "http://127.0.0.1:9", **environment)
    async with serve(server.app) as url:
        await asyncio.to_thread(gateway.start)
        user = User(f"http://127.0.0.1:{port}", admin_url, "a@example.com", ["generate", "read"])
        asked = asyncio.create_task(register(user, url=f"{url}/slow/sepia.safetensors"))
        async with asyncio.timeout(20):
            while not server.requests("/slow"):
                await asyncio.sleep(0.02)
        gateway.kill()
        with pytest.raises(httpx.HTTPError):
            await asked
        server.gate.set()
        await asyncio.to_thread(gateway.start)
        try:
            async with asyncio.timeout(30):
                while (lora := (await user.http.get("/v1/loras")).json()["data"][0])["status"] == "pending":
                    await asyncio.sleep(0.1)
        finally:
            await asyncio.to_thread(gateway.stop)
    assert (lora["status"], lora["sha256"]) == ("ready", hashlib.sha256(SEPIA).hexdigest())
    assert len(server.requests("/slow")) == 2


# ---------------------------------------------------------------- in jobs


async def test_a_lora_changes_the_picture_and_only_the_one_that_asked(world: World, user: User) -> None:
    await registered(user, "sepia", upload_id=await send(user, SEPIA))
    await registered(user, "frame", url=f"{world.url}/frame.safetensors")

    async def drawn(*uses: tuple[str, float]) -> np.ndarray:
        job = await draw(user, loras=[{"lora": name, "scale": scale} for name, scale in uses])
        assert [(use["name"], use["scale"]) for use in job["params"]["loras"]] == list(uses)
        return await pixels(user, job)

    base, sepia, frame = await drawn(), await drawn(("sepia", 1.0)), await drawn(("frame", 1.0))
    assert np.abs(sepia - base).mean() > 5
    warmth = [float((each[..., 0] - each[..., 2]).mean()) for each in (base, sepia)]
    assert warmth[1] > warmth[0] + 5  # browner, whatever was blue before
    assert np.abs(frame - sepia).mean() > 5
    assert np.array_equal(await drawn(("sepia", 1.0)), sepia)
    assert np.array_equal(await drawn(("sepia", 0.0)), base)
    assert np.array_equal(await drawn(), base)
    both = await drawn(("sepia", 1.0), ("frame", 1.0))
    assert np.array_equal(await drawn(("frame", 1.0), ("sepia", 1.0)), both)


async def test_a_reference_registers_itself_once(world: World, user: User) -> None:
    url = f"{world.url}/once/sepia.safetensors"
    for name in (url, url, "hf:owner/model/sepia.safetensors", "civitai:77"):
        (use,) = (await draw(user, loras=[{"lora": name, "scale": 0.5}]))["params"]["loras"]
        assert (use["name"], use["scale"], len(use["sha256"])) == (name, 0.5, 64)
    assert sorted(row["name"] for row in world.rows(user)) == [
        *("civitai:77", "hf:owner/model/sepia.safetensors", url)
    ]
    assert len(world.server.requests("/once")) == 1
    job = await draw(user, loras=[{"lora": url}, {"lora": url}])
    assert len(job["params"]["loras"]) == 2


async def test_a_reference_that_is_no_lora_leaves_nothing(world: World, user: User) -> None:
    world.server.files["/text.safetensors"] = b"I am a LoRA, really"
    for _ in range(2):
        problem = await refused(user, loras=[{"lora": f"{world.url}/text.safetensors"}])
        assert (problem["status"], problem["code"]) == (400, "invalid_lora")
        assert problem["error"]["param"] == "loras"
    assert (await user.http.get("/v1/loras")).json()["data"] == []
    assert world.objects(user) == []


async def test_the_call_names_the_file_and_the_recipe_its_hash(world: World, user: User) -> None:
    await registered(user, "sepia", url=f"{world.url}/sepia.safetensors")
    job = await draw(user, loras=[{"lora": "sepia", "scale": 0.7}])
    (call,) = (await user.http.get(f"/v1/jobs/{job['id']}/calls")).json()["data"]
    (use,) = call["request"]["loras"]
    assert (use["sha256"], use["scale"]) == (hashlib.sha256(SEPIA).hexdigest(), 0.7)
    assert use["url"].startswith("loras/")
    assert "signature" not in str(call["request"])


async def test_with_references_the_families_edit_model_draws(world: World, user: User) -> None:
    first = await draw(user)
    job = await draw(
        user,
        prompt="make the creature green",
        references=[{"image_id": first["images"][0]["id"]}],
        loras=[{"lora": f"{world.url}/sepia.safetensors"}],
    )
    assert (job["model"], len(job["params"]["loras"])) == ("tiny-qwen-edit", 1)


async def test_the_enhancer_is_told_the_trigger_words(world: World, user: User) -> None:
    await registered(user, "sepia", url=f"{world.url}/sepia.safetensors", trigger_words=["sph", "old"])
    job = await draw(user, enhance=True, loras=[{"lora": "sepia"}])
    calls = (await user.http.get(f"/v1/jobs/{job['id']}/calls")).json()["data"]
    (asked,) = [call["request"] for call in calls if call["task"] == "enhance"]
    assert (asked["mode"], asked["trained_words"]) == ("lora", ["sph", "old"])
    assert job["prompt"]["enhance_status"] == "fallback"  # the tiny model cannot
    assert job["prompt"]["final"].startswith("sph, old, ")
    plain = await draw(user, loras=[{"lora": "sepia"}])
    assert plain["prompt"]["final"] == RED


async def test_an_estimate_fetches_nothing(world: World, user: User) -> None:
    url = f"{world.url}/estimated/sepia.safetensors"
    for name, status in ((url, 200), ("nobody's", 404), ("https://evil.example/a", 400)):
        body = {"prompt": RED, "loras": [{"lora": name}]}
        assert (await user.http.post("/v1/jobs/estimate", json=body)).status_code == status
    assert not world.rows(user)
    assert not world.server.requests("/estimated")


async def test_a_repeat_answers_though_the_lora_is_gone(world: World, user: User) -> None:
    lora = await registered(user, "sepia", url=f"{world.url}/sepia.safetensors")
    body = {"prompt": RED, "size": "96x96", "loras": [{"lora": "sepia"}]}
    headers = {"Idempotency-Key": "once", "Prefer": "wait=60"}
    first = (await user.http.post("/v1/jobs", json=body, headers=headers)).json()
    await user.http.delete(f"/v1/loras/{lora['id']}")
    assert (await user.http.post("/v1/jobs", json=body, headers=headers)).json() == first


async def test_a_retry_uses_the_same_lora(world: World, user: User) -> None:
    lora = await registered(user, "frame", url=f"{world.url}/frame.safetensors")
    file = world.stack.folder / "buckets" / "loras" / str(user.id) / lora["id"] / "1.safetensors"
    file.rename(file.with_name("away"))
    first = await user.create(prompt=RED, size="96x96", loras=[{"lora": "frame"}], wait=60)
    assert first["error"]["code"] == "lora_deleted"
    file.with_name("away").rename(file)
    retried = (await user.http.post(f"/v1/jobs/{first['id']}/retry")).json()
    assert retried["params"]["loras"] == first["params"]["loras"]
    assert (await user.ended(retried["id"]))["status"] == "completed"


# ---------------------------------------------------------------- franchises


async def test_a_franchise_brings_its_lora_to_the_prompt_that_names_it_only(world: World, user: User) -> None:
    named = f"{RED}, Sepia World"
    first = await draw(user, prompt=named)
    (use,) = first["params"]["loras"]
    assert (use["franchise"], use["sha256"]) == ("Sepia World", hashlib.sha256(SEPIA).hexdigest())
    before = len(world.server.requests("/sepia"))
    assert (await draw(user, prompt=named))["params"]["loras"] == [use]
    assert len(world.server.requests("/sepia")) == before  # it is cached
    plain = await draw(user)
    assert plain["params"]["loras"] == []
    own = await draw(user, prompt=named, loras=[{"lora": use["name"], "scale": 0.0}])
    assert "franchise" not in own["params"]["loras"][0]
    stranger = world.stack.new_user()
    assert np.array_equal(await pixels(user, plain), await pixels(stranger, await draw(stranger)))


async def test_a_franchise_whose_lora_cannot_be_had_costs_no_picture(world: World, user: User) -> None:
    job = await draw(user, prompt=f"{RED}, lost world")
    assert job["params"]["loras"] == []
    assert (await user.http.get("/v1/loras")).json()["data"] == []
