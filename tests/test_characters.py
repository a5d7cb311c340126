"""A character stays itself: made from a drawing, judged from the pixels of every picture of it."""

import io
from collections.abc import AsyncIterator, Callable
from itertools import chain
from pathlib import Path
from statistics import mean
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import numpy as np
import pytest
import pytest_asyncio
from PIL import Image

from gateway.auth import Principal
from gateway.characters import pictures
from gateway.jobs import drafts, recipes
from gateway.jobs.service import JobService
from scripts.tiny.creatures import Creature, Picture
from scripts.tiny.drawing import draw
from tests.judge import judge
from tests.support.faults import eventually
from tests.support.lora_server import SEPIA
from tests.support.stack import Stack, User, stack

ANA = Creature("round", "red", "blue")
BEN = Creature("square", "green", "yellow")
SCENES = {"in a forest": "forest", "on a beach": "beach", "at night": "night"}
TRAITS = ("body", "color", "hat")
PATIENCE_SECONDS = 300.0
KEPT_MIN = 0.95
"""Of the traits, over every picture that is drawn of a character."""


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def studio(new_database: Callable[[], str], new_folder: Callable[[], Path]) -> AsyncIterator[Stack]:
    """Every job draws the same seed here: what the model makes of it is the same in every run."""
    models = {"GPU_MODELS": "tiny-qwen,tiny-qwen-edit", "GPU_PRELOAD": "tiny-qwen-edit"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drafts, "random", SimpleNamespace(randrange=lambda limit: 7))
        patch.setattr(pictures, "WAIT_SECONDS", PATIENCE_SECONDS)  # or a busy machine is answered with jobs
        async with stack(new_database(), new_folder(), gpu=models) as running:
            yield running


def photo(creature: Creature) -> bytes:
    content = io.BytesIO()
    draw(Picture((creature,))).save(content, "PNG")
    return content.getvalue()


async def made(user: User, creature: Creature) -> dict[str, Any]:
    upload = await user.upload(photo(creature))
    body: dict[str, Any] = {"name": "Ana", "source": "photo", "upload_id": upload, "consent": True}
    looks = f"a {creature.color} {creature.body} creature with a {creature.hat} hat"
    body["attributes"] = {"do_not_change": [looks]}
    answer = await user.http.post("/v1/characters", json=body)
    assert answer.status_code == 202, answer.text
    return await finished(user, answer.json()["id"])


async def finished(user: User, character_id: str) -> dict[str, Any]:
    found: dict[str, Any] = {}

    async def done() -> bool:
        found.update((await user.http.get(f"/v1/characters/{character_id}")).json())
        return found["status"] in ("ready", "failed")

    await eventually(done, within=PATIENCE_SECONDS)
    assert found["status"] == "ready", found
    return found


async def pixels(user: User, url: str) -> Image.Image:
    content = await user.http.get(url)
    return Image.open(io.BytesIO(content.content)).convert("RGB")


async def post(user: User, character: dict[str, Any], what: str, **body: Any) -> dict[str, Any]:
    path = f"/v1/characters/{character['id']}/{what}"
    answer = await user.http.post(path, json=body, timeout=PATIENCE_SECONDS + 10)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def cast(studio: Stack) -> dict[Creature, dict[str, Any]]:
    """Two characters, made from drawings."""
    return {creature: await made(studio.user, creature) for creature in (ANA, BEN)}


async def looked_at(user: User, urls: list[str]) -> list[dict[str, Any]]:
    return [judge(await pixels(user, url)) for url in urls]


def kept(creature: Creature, seen: list[dict[str, Any]]) -> float:
    """The share of traits, over all pictures, that are as they should be."""
    return mean(facts[trait] == getattr(creature, trait) for facts in seen for trait in TRAITS)


async def test_a_photo_is_looked_at_and_its_colors_are_measured(
    cast: dict[Creature, dict[str, Any]],
) -> None:
    profile = cast[ANA]["profile"]
    assert (profile["source"], profile["color"], profile["hat"]) == ("vlm", "red", "blue")
    assert {"#ffffff", "#e24842", "#2c54c8"} <= set(profile["color_palette"])


async def test_a_character_keeps_body_colour_and_hat_in_views_angles_and_scenes(
    studio: Stack, cast: dict[Creature, dict[str, Any]]
) -> None:
    user, character = studio.user, cast[ANA]
    turned = await post(user, character, "generate-360-set")
    drawn = [await post(user, character, "generate-scene-image", sceneContext=scene) for scene in SCENES]
    angles = [each["media"]["url"] for each in turned["images"]]
    scenes = [each["images"][0]["media"]["url"] for each in drawn]
    views, others = [[each["url"] for each in who["reference_images"]] for who in (character, cast[BEN])]
    seen = [await looked_at(user, urls) for urls in (views, angles, scenes)]
    assert [len(each) for each in seen] == [3, 8, 3]
    assert kept(ANA, [*chain.from_iterable(seen)]) >= KEPT_MIN, seen
    assert [facts["view"] for facts in seen[0]] == ["front", "side", "back"]
    assert [facts["scene"] for facts in seen[2]] == list(SCENES.values())
    strangers = await looked_at(user, others)
    assert kept(BEN, strangers) >= KEPT_MIN, strangers
    assert kept(ANA, strangers) == 0


async def test_what_must_not_change_is_in_the_prompt_and_looked_for_in_every_picture(
    studio: Stack, cast: dict[Creature, dict[str, Any]]
) -> None:
    (looks,) = cast[ANA]["profile"]["do_not_change"]
    path = f"/v1/characters/{cast[ANA]['id']}/images"
    listed = (await studio.user.http.get(path, params={"limit": 100})).json()["data"]
    made = [image for image in listed if image["kind"] in ("reference", "view")]
    assert len(made) == 4
    assert min(image["metrics"]["score"] for image in made) >= 60
    (portrait,) = [image for image in made if image["kind"] == "reference"]
    assert f"keep {looks}" in portrait["prompt"]


async def test_the_judge_tells_a_character_from_another(
    studio: Stack, cast: dict[Creature, dict[str, Any]]
) -> None:
    own = await score(studio, cast[ANA], cast[ANA])
    other = await score(studio, cast[BEN], cast[ANA])
    assert own >= 95
    assert other <= own - 50


async def score(studio: Stack, shown: dict[str, Any], wanted: dict[str, Any]) -> float:
    """What task ``judge`` says of the front view of one beside the portrait of another."""
    jobs: JobService = studio.app.state.jobs  # type: ignore[union-attr]
    caller = Principal(UUID(str(studio.user.id)), "test", frozenset({"generate", "read"}))
    image, reference = file(studio, shown, "view"), file(studio, wanted, "reference")
    request = {"image": image, "references": [reference], "attributes": []}
    job_id = uuid4()
    await jobs.create_task(caller, recipes.task_columns("judge", "tiny-qwen-edit", request), job_id=job_id)
    row = await jobs.wait(caller, job_id, PATIENCE_SECONDS)
    assert row["status"] == "completed", row["error_message"]
    assert row["state"]["result"]["answered_by"] == "vlm"
    return float(row["state"]["result"]["score"])


def file(studio: Stack, character: dict[str, Any], kind: str) -> dict[str, str]:
    (row,) = studio.rows(
        """select a.bucket || '/' || a.key as url, a.sha256 from public.character_images i
           join public.generated_assets a on a.id = i.asset_id
           where i.character_id = %s and i.kind = %s and coalesce(i.view, 'front') = 'front'""",
        character["id"],
        kind,
    )
    return row


# From a LoRA


async def test_a_character_from_a_lora_has_three_views_drawn_with_it(studio: Stack) -> None:
    user = studio.new_user()
    lora = await registered(user, SEPIA)
    comic = (await user.http.post("/v1/comics", json={"name": "Ana's days"})).json()
    looks = {"description": "a red round creature with a blue hat", "style": "flat"}
    begun = await user.http.post(
        "/v1/characters", json=from_lora(lora["name"], project_id=comic["id"], **looks)
    )
    assert begun.status_code == 202, begun.text
    character = await finished(user, begun.json()["id"])
    assert (character["source"], character["lora_id"]) == ("lora", lora["id"])
    assert [each["view"] for each in character["reference_images"]] == ["front", "side", "back"]
    for view, job_id in character["referenceImageWorkflowIds"].items():
        job = await user.job(job_id)
        assert job["model"] == "tiny-qwen"
        assert job["params"]["references"] == []
        assert [use["sha256"] for use in job["params"]["loras"]] == [lora["sha256"]]
        assert job["prompt"]["final"] == (
            f"zkw, {looks['description']}, {view} view, full body, plain white background, "
            "flat illustration, bold shapes, minimal shading"
        )
    seen = [await pixels(user, each["url"]) for each in character["reference_images"]]
    assert blueness(draw(Picture((ANA,)))) > 0.02
    assert max(blueness(each) for each in seen) < 0.002, "sepia has made the hat brown"
    project = (await user.http.get(f"/v1/comics/{comic['id']}")).json()
    assert project["base_model_group"] == lora["base_model_group"] == "Tiny"
    await drawn_from_all_sides_and_somewhere(studio, user, character, lora)
    await drawn_anew(user, character, lora)


async def drawn_from_all_sides_and_somewhere(
    studio: Stack, user: User, character: dict[str, Any], lora: dict[str, Any]
) -> None:
    """With the LoRA and its trained words, beside the reference; without it from the reference alone."""
    turned = await post(user, character, "generate-360-set", angles=[0, 90])
    placed = await post(user, character, "generate-scene-image", sceneContext="in a forest")
    scene = "zkw, the same character, in a forest"
    assert placed["images"][0]["prompt"] == scene
    for image in (*turned["images"], *placed["images"]):
        request = sent(studio, image["job_id"])
        assert request["model"] == "tiny-qwen-edit"
        assert request["prompt"].startswith("zkw, the same character, ")
        assert [use["sha256"] for use in request["loras"]] == [lora["sha256"]]
        assert len(request["references"]) == 1
        assert blueness(await pixels(user, image["media"]["url"])) < 0.002, "sepia here too"


def sent(studio: Stack, job_id: str) -> dict[str, Any]:
    """What the GPU service was asked for a picture."""
    (call,) = studio.rows(
        "select request from private.generation_calls where job_id = %s and task = 'image'", job_id
    )
    return dict(call["request"])


async def drawn_anew(user: User, character: dict[str, Any], lora: dict[str, Any]) -> None:
    """A master reference has the LoRA and exactly the typed words; without the LoRA there is none."""
    typed = "a red round creature with a blue hat"
    drawn = await post(user, character, "generate-initial-image", prompt=typed)
    job = await user.job(drawn["job_id"])
    assert job["prompt"]["final"] == typed
    assert [use["lora"] for use in job["params"]["loras"]] == [lora["id"]]
    assert (await user.http.delete(f"/v1/loras/{lora['id']}")).status_code == 204
    gone = await user.http.post(f"/v1/characters/{character['id']}/generate-initial-image", json={})
    assert (gone.status_code, gone.json()["code"]) == (400, "lora_deleted")
    assert gone.json()["how_to_fix"]
    alone = await post(user, character, "generate-scene-image", sceneContext="at night")
    assert alone["images"][0]["prompt"] == "the same character, at night"


async def test_the_base_model_that_a_project_has_stays(studio: Stack) -> None:
    user = studio.new_user()
    lora = await registered(user, SEPIA)
    comic = (await user.http.post("/v1/comics", json={"name": "A", "base_model": "Flux.1 D"})).json()
    answer = await user.http.post("/v1/characters", json=from_lora(lora["id"], project_id=comic["id"]))
    assert answer.status_code == 202, answer.text
    project = (await user.http.get(f"/v1/comics/{comic['id']}")).json()
    assert (project["base_model"], project["base_model_group"]) == ("Flux.1 D", "Flux1")
    await user.http.delete(f"/v1/characters/{answer.json()['id']}")


async def test_a_lora_of_somebody_else_is_like_one_that_does_not_exist(studio: Stack) -> None:
    owner, stranger = studio.new_user(), studio.new_user()
    lora = await registered(owner, SEPIA)
    for name in (lora["id"], lora["name"]):
        answer = await stranger.http.post("/v1/characters", json=from_lora(name))
        assert (answer.status_code, answer.json()["code"], answer.json()["error"]["param"]) == (
            404,
            "not_found",
            "lora",
        )


def from_lora(reference: str, **body: Any) -> dict[str, Any]:
    return {"name": "Ana", "source": "lora", "lora": reference, **body}


def blueness(image: Image.Image) -> float:
    """The share of pixels that are clearly more blue than red."""
    channels = np.asarray(image.convert("RGB"), dtype=int)
    return float((channels[..., 2] > channels[..., 0] + 40).mean())


async def registered(user: User, content: bytes) -> dict[str, Any]:
    """A LoRA from a file, with a trained word."""
    asked = {"filename": "look.safetensors", "bytes": len(content)}
    ticket = (await user.http.post("/v1/loras/uploads", json=asked)).json()
    await user.http.put(ticket["url"], content=content, headers=ticket["headers"])
    source = {"upload_id": ticket["upload_id"]}
    body = {"name": "look", "source": source, "trigger_words": ["zkw"]}
    answer = await user.http.post("/v1/loras", json=body)
    assert answer.status_code == 201, answer.text
    return dict(answer.json())
