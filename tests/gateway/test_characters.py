"""Characters over HTTP, drawn by the instant model: flow, refusals, history, deletion."""

import asyncio
import hashlib
import io
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import pytest
import pytest_asyncio
import structlog
from PIL import Image

from gateway.characters import pictures
from gateway.characters.drawing import Drawing
from gateway.characters.prompts import ANGLES
from gateway.gpu import GpuRefused, GpuUnreachable
from gateway.jobs.loras import Lora
from gateway.storage import StorageError
from modal_app.catalog import Model
from tests.gateway.conftest import DRAWN_BY, INSTANT
from tests.gateway.test_jobs import held_queue
from tests.gateway.test_pictures import drawn as painted
from tests.gateway.test_pictures import encoded, jpeg_of, with_metadata
from tests.support.faults import eventually
from tests.support.stack import Stack, User, stack

VIEWS = ["front", "side", "back"]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def studio(new_database: Callable[[], str], new_folder: Callable[[], Path]) -> AsyncIterator[Stack]:
    settings = {**DRAWN_BY, "worker_interval_seconds": 0.05}
    async with stack(new_database(), new_folder(), gpu=INSTANT, **settings) as running:
        yield running


def photo(color: tuple[int, int, int] = (200, 30, 30)) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (64, 64), color).save(content, "PNG")
    return content.getvalue()


async def ask(user: User, path: str, **body: Any) -> dict[str, Any]:
    answer = await user.http.post(path, json=body)
    assert answer.status_code in (200, 202), answer.text
    return dict(answer.json())


async def refused(user: User, path: str, **body: Any) -> tuple[int, str]:
    answer = await user.http.post(path, json=body)
    return answer.status_code, answer.json()["code"]


def described(**body: Any) -> dict[str, Any]:
    return {"name": "Mila", "source": "description", "description": "a small red fox", **body}


async def settled(user: User, character: dict[str, Any]) -> dict[str, Any]:
    """The character once it is ready or has failed."""
    found: dict[str, Any] = {}

    async def done() -> bool:
        found.update((await user.http.get(f"/v1/characters/{character['id']}")).json())
        return found["status"] in ("ready", "failed")

    await eventually(done, within=20)
    return found


async def worker_has_removed(studio: Stack, *pictures: str) -> None:
    """Once the worker, too, is through with the pictures' files."""

    async def done() -> bool:
        pending = studio.rows("select key from private.deletions")
        return not any(picture in row["key"] for row in pending for picture in pictures)

    await eventually(done)


async def ready(user: User, **body: Any) -> dict[str, Any]:
    character = await settled(user, await ask(user, "/v1/characters", **described(**body)))
    assert character["status"] == "ready", character["error"]
    return character


async def images(user: User, character: dict[str, Any], **query: str) -> list[dict[str, Any]]:
    answer = await user.http.get(f"/v1/characters/{character['id']}/images", params=query)
    assert answer.status_code == 200, answer.text
    return list(answer.json()["data"])


def at(character: dict[str, Any], rest: str = "") -> str:
    return f"/v1/characters/{character['id']}{rest}"


# Refusals


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"source": "photo"}, 400, "missing_source"),
        ({"source": "photo", "upload_id": str(uuid4())}, 400, "consent_required"),
        ({"source": "photo", "upload_id": str(uuid4()), "consent": True}, 404, "not_found"),
        ({"description": None}, 400, "missing_source"),
        ({"source": "lora"}, 400, "missing_source"),
        ({"source": "lora", "lora": "nobody"}, 404, "not_found"),
        ({"style": "nonsense"}, 400, "unknown_style"),
        ({"library_db_id": "short"}, 400, "invalid_library_id"),
        ({"project_id": str(uuid4())}, 404, "not_found"),
        ({"age": 9, "description": "naked"}, 400, "content_refused"),
        ({"age": "child", "attributes": {"clothing": "lingerie"}}, 400, "content_refused"),
        ({"attributes": {"do_not_change": ["a"] * 21}}, 422, "validation_failed"),
        ({"attributes": {"hair": 7}}, 422, "validation_failed"),
        ({"surprise": 1}, 422, "validation_failed"),
        ({"name": ""}, 422, "validation_failed"),
    ],
    ids=str,
)
async def test_what_cannot_become_a_character_is_refused_and_leaves_nothing(
    studio: Stack, body: dict[str, Any], status: int, code: str
) -> None:
    user = studio.new_user()
    assert await refused(user, "/v1/characters", **described(**body)) == (status, code)
    assert studio.rows("select from public.characters where user_id = %s", user.id) == []
    assert studio.rows("select from public.generation_jobs where user_id = %s", user.id) == []


async def test_a_photo_of_somebody_else_is_like_one_that_does_not_exist(studio: Stack) -> None:
    owner, stranger = studio.new_user(), studio.new_user()
    upload = await owner.upload(photo())
    body = described(source="photo", upload_id=upload, consent=True)
    assert await refused(stranger, "/v1/characters", **body) == (404, "not_found")


@pytest.mark.parametrize("path", ["", "/images", "/initial-image-prompt"])
async def test_a_character_has_no_address_but_our_own_id(studio: Stack, path: str) -> None:
    library = "5f" * 12
    character = await ready(studio.user, library_db_id=library, library_character_id="mila-7")
    shown = (await studio.user.http.get(at(character))).json()
    assert (shown["library_db_id"], shown["library_character_id"]) == (library, "mila-7")
    for other in (library, "mila-7"):
        assert (await studio.user.http.get(f"/v1/characters/{other}{path}")).status_code in (404, 422)


HOSTILE = {
    "a text named .png": (b"I am a picture, really", "not_a_picture"),
    "a JPEG of 100 megapixels": (jpeg_of(10_000, 10_000), "too_many_pixels"),
    "half a PNG": (encoded(Image.effect_noise((64, 64), 99), "PNG")[:2000], "picture_broken"),
}


@pytest.mark.parametrize("what", HOSTILE)
async def test_what_is_no_photo_becomes_no_character_and_leaves_nothing(studio: Stack, what: str) -> None:
    user, (content, code) = studio.new_user(), HOSTILE[what]
    described_file = {"filename": "me.png", "content_type": "image/png", "bytes": len(content)}
    ticket = (await user.http.post("/v1/uploads", json=described_file)).json()
    body = described(source="photo", upload_id=ticket["upload_id"], consent=True)
    await user.http.put(ticket["url"], content=content, headers=ticket["headers"])
    assert await refused(user, "/v1/characters", **body) == (409, "upload_not_ready")
    assert await refused(user, f"/v1/uploads/{ticket['upload_id']}/complete") == (400, code)
    status, _ = await refused(user, "/v1/characters", **body)
    assert status in (400, 409)
    assert left_of(studio, user) == []
    assert studio.rows("select from public.characters where user_id = %s", user.id) == []
    assert studio.rows("select from public.generation_jobs where user_id = %s", user.id) == []


def left_of(studio: Stack, user: User) -> list[str]:
    buckets = ("generated-designs", "uploads")
    return [key for name in buckets for key in studio.objects(name) if key.startswith(f"{user.id}/")]


async def test_nothing_is_drawn_from_a_character_without_a_picture(studio: Stack) -> None:
    user = studio.new_user()
    character = await ready(user)
    for image in await images(user, character):
        await user.http.delete(at(character, f"/images/{image['id']}"))
    for path, body in (("/generate-360-set", {}), ("/generate-scene-image", {"sceneContext": "at night"})):
        answer = await user.http.post(at(character, path), json=body)
        problem = answer.json()
        assert (answer.status_code, problem["code"]) == (400, "no_reference")
        assert "generate-initial-image" in problem["how_to_fix"]


async def test_a_scene_is_refused_by_the_age_of_the_character(studio: Stack) -> None:
    user = studio.new_user()
    character = await ready(user, age=9)
    path, scene = at(character, "/generate-scene-image"), {"sceneContext": "naked on a beach"}
    assert await refused(user, path, **scene) == (400, "content_refused")


# From a source to a character


async def test_a_photo_becomes_a_profile_a_portrait_and_three_views(studio: Stack) -> None:
    user = studio.new_user()
    upload = await user.upload(photo())
    body = described(source="photo", upload_id=upload, consent=True, description=None, style="watercolor")
    traits = {"do_not_change": ["freckles", "red scarf"], "hair": "short curls"}
    async with held_queue(studio):
        begun = await ask(user, "/v1/characters", **body, attributes=traits)
    assert (begun["status"], begun["style"], begun["profile"]) == ("pending", "storybook/watercolor", None)
    character = await settled(user, begun)
    assert character["status"] == "ready"
    assert character["profile"] == {
        "hair": "short curls",
        "do_not_change": ["freckles", "red scarf"],
        "color_palette": ["#c81e1e"],
        "source": "fallback",
    }
    views = character["reference_images"]
    assert [(each["view"], each["width"], each["height"]) for each in views] == [
        (view, 832, 1216) for view in VIEWS
    ]
    assert views == character["generatedReferenceImages"]
    for each in views:
        assert (await user.http.get(each["url"])).status_code == 200
    jobs = {name: await user.job(job) for name, job in character["referenceImageWorkflowIds"].items()}
    assert sorted(jobs) == sorted(VIEWS)
    portrait = (await images(user, character, kind="reference"))[0]
    assert "keep freckles; keep red scarf | " in portrait["prompt"]
    assert portrait["prompt"].startswith("Child portrait, friendly lighting, full body | palette: red | ")
    for job in jobs.values():
        (use,) = job["params"]["references"]
        assert use["image_id"] == str(portrait["id"])
    recipe = (await user.http.get(f"/v1/images/{portrait['id']}/recipe")).json()
    assert recipe["style"] == {"id": "storybook/watercolor", "version": 1}
    drawn_from = (await user.job(portrait["job_id"]))["params"]["references"]
    assert [use["role"] for use in drawn_from] == ["reference"]


async def test_a_character_goes_from_pending_over_processing_to_ready_and_every_step_leaves_its_rows(
    studio: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    user, gpu = studio.new_user(), studio.app.state.gpu  # type: ignore[union-attr]
    go_on, picture = asyncio.Event(), gpu.picture

    async def held_back(*place: Any) -> bytes:
        await go_on.wait()
        return bytes(await picture(*place))

    monkeypatch.setattr(gpu, "picture", held_back)
    upload = await user.upload(photo())
    body = described(source="photo", upload_id=upload, consent=True, description=None)
    async with held_queue(studio):
        begun = await ask(user, "/v1/characters", **body)

    async def processing() -> bool:
        status = (await user.http.get(at(begun))).json()["status"]
        assert status in ("pending", "processing")
        return bool(status == "processing")

    await eventually(processing, within=20)
    assert not studio.rows("select from public.generated_assets where user_id = %s", user.id)
    go_on.set()
    character = await settled(user, begun)
    assert (begun["status"], character["status"]) == ("pending", "ready")
    assert len(studio.rows("select from public.character_profiles where character_id = %s", begun["id"])) == 1
    kept = studio.rows(
        """select i.kind, i.view, a.bucket, a.key, a.sha256, p.final = i.prompt as as_asked
           from public.character_images i join public.generated_assets a on a.id = i.asset_id
           join public.prompt_artifacts p on p.id = a.prompt_artifact_id
           where i.character_id = %s order by i.created_at, i.id""",
        begun["id"],
    )
    assert kept[0]["kind"] == "reference"
    assert {(row["kind"], row["view"]) for row in kept[1:]} == {("view", view) for view in VIEWS}
    assert all(row["as_asked"] for row in kept)
    for row in kept:
        content = (studio.folder / "buckets" / row["bucket"] / row["key"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == row["sha256"]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
async def test_a_photo_loses_its_place_and_its_tail_before_anybody_looks_at_it(
    studio: Stack, kind: str
) -> None:
    user, tail = studio.new_user(), b"PK\x03\x04 an archive, <script>alert(1)</script>"
    sent = with_metadata(painted(48, 32), kind) + tail
    upload = await user.upload(sent, f"image/{kind.lower()}")
    body = described(source="photo", upload_id=upload, consent=True, description=None)
    character = await settled(user, await ask(user, "/v1/characters", **body))
    assert character["status"] == "ready"
    (key,) = [key for key in studio.objects("uploads") if key.startswith(f"{user.id}/")]
    everything = [studio.folder / "buckets" / "uploads" / key]
    everything += [
        studio.folder / "buckets" / "generated-designs" / each
        for each in studio.objects()
        if each.startswith(f"{user.id}/")
    ]
    assert len(everything) == 5
    for secret in (b"SECRET", b"PK\x03\x04", b"script"):
        assert secret in sent
        assert not [path for path in everything if secret in path.read_bytes()]
    (profile, portrait) = [
        (await user.http.get(f"/v1/jobs/{job['id']}/calls")).json()["data"][0]["request"]
        for job in studio.rows(
            """select id::text from public.generation_jobs
               where user_id = %s and slot in ('profile', 'portrait') order by slot desc""",
            user.id,
        )
    ]
    file = profile["image"]["url"], portrait["references"][0]["url"]
    assert all(url.split("?")[0].endswith(key) for url in file), "the file that was sent is never used"


async def test_what_the_preset_asked_for_and_what_became_of_it_is_kept(studio: Stack) -> None:
    character = await ready(studio.user)
    (row,) = studio.rows(
        "select inputs -> 'preset' as preset, params from public.generation_jobs where id = %s",
        UUID(character["reference_image_workflow_ids"]["front"]),
    )
    asked = {
        "sampler": "Euler",
        "num_inference_steps": 25,
        "true_cfg_scale": 7.0,
        "width": 832,
        "height": 1216,
    }
    assert row["preset"]["requested"] == asked
    assert set(row["preset"]["dropped"]) == {"sampler", "true_cfg_scale"}
    assert row["preset"]["applied"]["num_inference_steps"] == row["params"]["num_inference_steps"] == 25


async def test_pictures_of_characters_are_private_and_lie_together(studio: Stack) -> None:
    user = studio.new_user()
    character = await ready(user)
    rows = studio.rows("select id, key, visibility from public.generated_assets where user_id = %s", user.id)
    assert {row["visibility"] for row in rows} == {"private"}
    folder = f"{user.id}/characters/{character['id']}"
    assert {row["key"] for row in rows} == {f"{folder}/{row['id']}.png" for row in rows}
    listed = (await user.http.get("/v1/images", params={"character_id": character["id"]})).json()["data"]
    assert {image["id"] for image in listed} == {str(row["id"]) for row in rows}


async def test_a_character_is_made_once_for_each_run_token(studio: Stack) -> None:
    user = studio.new_user()
    body = described(run_token="spring")
    first, again = [await user.http.post("/v1/characters", json=body) for _ in range(2)]
    keyed = await user.http.post("/v1/characters", json=body, headers={"Idempotency-Key": "spring"})
    assert first.json()["id"] == again.json()["id"] == keyed.json()["id"]
    assert again.headers["Idempotent-Replayed"] == "true"
    other = await user.http.post("/v1/characters", json={**body, "name": "Ben"})
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    both = await user.http.post("/v1/characters", json=body, headers={"Idempotency-Key": "autumn"})
    assert (both.status_code, both.json()["code"]) == (400, "two_keys")
    runs = studio.rows(
        "select run_token from public.character_runs where character_id = %s", first.json()["id"]
    )
    assert [row["run_token"] for row in runs] == ["spring"]


async def test_what_happens_to_a_character_is_told_once(studio: Stack) -> None:
    user = studio.new_user()
    character = await ready(user)
    told = studio.rows(
        "select kind, payload from private.outbox where user_id = %s and kind like 'character%%' order by id",
        user.id,
    )
    assert [row["kind"] for row in told] == ["character/created", "character.ready"]
    assert told[0]["payload"]["id"] == told[1]["payload"]["character_id"] == character["id"]


async def test_a_character_that_has_not_changed_is_not_told_again(studio: Stack) -> None:
    user = studio.new_user()
    character = await ready(user)
    for path in (at(character), at(character, "/images")):
        tag = (await user.http.get(path)).headers["ETag"]
        same = await user.http.get(path, headers={"If-None-Match": tag})
        assert (same.status_code, same.content) == (304, b"")
        await ask(user, at(character, "/generate-scene-image"), sceneContext="at night")
        image = (await images(user, character))[0]
        await ask(user, at(character, f"/images/{image['id']}/select"))
        assert (await user.http.get(path, headers={"If-None-Match": tag})).status_code == 200


async def test_a_character_is_followed_by_the_events_of_its_job(studio: Stack) -> None:
    begun = await ask(studio.user, "/v1/characters", **described())
    told = []
    async with studio.user.http.stream("GET", f"/v1/jobs/{begun['job_id']}/events") as stream:
        async for line in stream.aiter_lines():
            told += [line.removeprefix("event: ")] if line.startswith("event: ") else []
            if told[-1:] == ["completed"]:
                break
    assert told[-1] == "completed"
    assert (await settled(studio.user, begun))["status"] == "ready"


async def test_pictures_are_listed_newest_first_in_pages(studio: Stack) -> None:
    user = studio.new_user()
    character = await ready(user)
    drawn = await ask(user, at(character, "/generate-360-set"), angles=[0, 90])
    everything = [image["id"] for image in await images(user, character)]
    assert set(everything[:2]) == {image["id"] for image in drawn["images"]}
    pages, after = [], {}
    while True:
        page = (await user.http.get(at(character, "/images"), params={"limit": 4, **after})).json()
        pages.append([image["id"] for image in page["data"]])
        after = {"after": page["last_id"]}
        if not page["has_more"]:
            break
    assert [len(page) for page in pages] == [4, 2]
    assert pages[0] + pages[1] == everything


async def test_characters_are_listed_newest_first_in_pages(studio: Stack) -> None:
    user = studio.new_user()
    ids = [(await ask(user, "/v1/characters", **described(name=name)))["id"] for name in ("A", "B", "C")]
    page = (await user.http.get("/v1/characters", params={"limit": 2})).json()
    assert ([each["id"] for each in page["data"]], page["has_more"]) == ([ids[2], ids[1]], True)
    rest = (await user.http.get("/v1/characters", params={"after": page["last_id"]})).json()
    assert ([each["id"] for each in rest["data"]], rest["has_more"]) == ([ids[0]], False)


# Failure, and trying again


async def test_a_failed_view_fails_the_character_and_is_run_again_alone(studio: Stack) -> None:
    user = studio.new_user()
    async with held_queue(studio):
        begun = await ask(user, "/v1/characters", **described())
        spoil(studio, begun, "side")
    failed = await settled(user, begun)
    assert (failed["status"], failed["error"]["code"]) == ("failed", "submit_failed"), failed
    assert failed["error"]["message"].startswith("side: ")
    kept = {image["view"]: image["id"] for image in await images(user, failed)}
    assert set(kept) == {None, "front", "back"}
    (told,) = studio.rows(
        "select kind from private.outbox where user_id = %s and kind = 'character.failed'", user.id
    )
    assert told
    answers = await asyncio.gather(*(user.http.post(at(failed, "/retry")) for _ in range(3)))
    assert {answer.status_code for answer in answers} <= {202, 409}
    again = await settled(user, failed)
    assert (again["status"], again["error"]) == ("ready", None)
    now = {image["view"]: image["id"] for image in await images(user, again)}
    assert {**now, **kept} == now
    assert len(now) == 4
    parents = studio.rows(
        "select from public.generation_jobs where user_id = %s and plan = 'character'", user.id
    )
    assert len(parents) == 2


def spoil(studio: Stack, character: dict[str, Any], step: str) -> None:
    """Have a step that is still to be made ask for what its model does not understand."""
    studio.rows(
        """update public.generation_jobs set inputs = jsonb_set(inputs, %s, '0.5')
           where id = (select job_id from public.characters where id = %s) returning id""",
        ["steps", step, "params", "strength"],
        UUID(character["id"]),
    )


async def test_a_character_whose_photo_cannot_be_looked_at_fails_and_says_so(studio: Stack) -> None:
    user = studio.new_user()
    upload = await user.upload(photo())
    body = described(source="photo", upload_id=upload, consent=True, description=None)
    async with held_queue(studio):
        begun = await ask(user, "/v1/characters", **body)
        assert (await user.http.delete(f"/v1/uploads/{upload}")).status_code == 204
    ended = await settled(user, begun)
    assert (ended["status"], ended["error"]["code"]) == ("failed", "reference_deleted")
    assert await refused(user, at(ended, "/retry")) == (400, "photo_deleted")


async def test_only_a_failed_character_is_tried_again(studio: Stack) -> None:
    assert await refused(studio.user, at(await ready(studio.user), "/retry")) == (409, "character_not_failed")


# What is known, and the suggestion


async def test_nothing_is_suggested_before_anything_is_known(studio: Stack) -> None:
    user = studio.new_user()
    begun = await ask(user, "/v1/characters", **described())
    studio.rows("delete from public.character_profiles where character_id = %s returning 1", begun["id"])
    answer = await user.http.get(at(begun, "/initial-image-prompt"))
    assert (answer.status_code, answer.json()["code"]) == (400, "no_usable_profile")
    assert answer.json()["how_to_fix"]


async def test_a_prompt_is_suggested_from_stored_values_alone(studio: Stack) -> None:
    user = studio.new_user()
    character = await ready(user, name="Ava", age=34, gender="woman", ethnicity="Japanese")
    told = [(await user.http.get(at(character, "/initial-image-prompt"))).json() for _ in range(2)]
    assert told[0] == told[1]
    assert told[0]["success"] is True
    assert told[0]["prompt"].startswith("Ava, 34 Japanese woman, cinematic hero shot")
    single = await user.http.get(at(character, "/initial-image-prompt"), params={"framing": "single"})
    assert "micro-expressions" in single.json()["prompt"]


async def test_what_is_known_can_be_corrected(studio: Stack) -> None:
    user = studio.new_user()
    character = await ready(user, attributes={"hair": "red"})
    told = {"do_not_change": ["scar"], "color_palette": ["#102030"], "eyes": "green"}
    answer = await user.http.patch(at(character), json={"name": "Mila II", "profile": told})
    assert answer.status_code == 200, answer.text
    expected = {**told, "hair": "red", "source": "fallback"}
    assert (answer.json()["name"], answer.json()["profile"]) == ("Mila II", expected)
    assert (await user.http.patch(at(character), json={"status": "ready"})).status_code == 422
    sexual = await user.http.patch(at(character), json={"age": "6", "profile": {"clothing": "topless"}})
    assert sexual.json()["code"] == "content_refused"


# Pictures


async def test_the_typed_prompt_is_forwarded_byte_for_byte_and_the_old_set_goes_after_success(
    studio: Stack,
) -> None:
    user = studio.new_user()
    character = await ready(user)
    before = await images(user, character)
    typed = "  Mila — “exactly”  this\n, 100% as typed "
    drawn = await ask(user, at(character, "/generate-initial-image"), prompt=typed)
    (image,) = drawn["images"]
    assert (image["kind"], image["prompt"], image["status"]) == ("reference", typed, "succeeded")
    assert image["metrics"]["durationMs"] >= 0
    job = await user.job(drawn["job_id"])
    assert job["prompt"]["input"] == job["prompt"]["final"] == typed
    assert [each["id"] for each in await images(user, character)] == [image["id"]]
    history = await images(user, character, include="replaced")
    assert [each["id"] for each in history[1:]] == [each["id"] for each in before]
    assert {each["media"] for each in history[1:]} == {None}
    assert [each["prompt"] for each in history[1:]] == [each["prompt"] for each in before]
    keys = {f"{user.id}/characters/{character['id']}/{image['id']}.png"}

    async def removed() -> bool:
        return {key for key in studio.objects() if key.startswith(f"{user.id}/")} == keys

    await eventually(removed)
    artifacts = studio.rows("select final from public.prompt_artifacts where user_id = %s", user.id)
    assert len(artifacts) == len(before) + 1


async def test_a_picture_tells_all_that_is_kept_of_it(studio: Stack) -> None:
    user = studio.new_user()
    (image,) = await images(user, await ready(user), kind="reference")
    assert set(image) == {
        *("object", "id", "character_id", "media", "kind", "view", "angle", "prompt", "provider", "status"),
        *("error", "metrics", "source_url", "external_id", "job_id", "is_selected", "created_by"),
        *("created_at", "updated_at", "replaced_at"),
    }
    assert (image["provider"], image["status"], image["error"]) == ("self", "succeeded", None)
    assert (image["created_by"], image["source_url"]) == (str(user.id), None)
    assert set(image["metrics"]) == {"durationMs"}
    assert {"url", "thumbnail_url", "width", "height", "sha256"} < set(image["media"])


async def test_variants_of_a_reference_are_a_gallery_to_select_from(studio: Stack) -> None:
    user = studio.new_user()
    character = await ready(user)
    drawn = await ask(user, at(character, "/generate-initial-image"), prompt="a fox", num_images=3)
    assert [image["kind"] for image in sorted(drawn["images"], key=lambda each: each["kind"])] == [
        *("reference", "variant", "variant")
    ]
    assert len({image["media"]["seed"] for image in drawn["images"]}) == 3
    assert len(await images(user, character)) == 3
    chosen = (await images(user, character, kind="variant"))[0]
    await ask(user, at(character, f"/images/{chosen['id']}/select"))
    scene = await ask(user, at(character, "/generate-scene-image"), sceneContext="at night")
    (use,) = (await user.job(scene["job_id"]))["params"]["references"]
    assert use["image_id"] == chosen["id"]


async def test_without_a_typed_prompt_the_suggestion_is_drawn(studio: Stack) -> None:
    user = studio.new_user()
    character = await ready(user)
    suggested = (await user.http.get(at(character, "/initial-image-prompt"))).json()["prompt"]
    drawn = await ask(user, at(character, "/generate-initial-image"))
    assert drawn["images"][0]["prompt"] == suggested


async def test_a_reference_that_is_there_is_told_or_replaced_once(
    studio: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = studio.new_user()
    character = await ready(user)
    path = at(character, "/generate-initial-image")
    said = structlog.testing.LogCapture()
    everything = structlog.make_filtering_bound_logger(0)
    log = structlog.wrap_logger(None, processors=[said], wrapper_class=everything)
    monkeypatch.setattr(pictures, "log", log)
    answer = await user.http.post(path, json={"prompt": "a", "on_conflict": "error"})
    assert (answer.status_code, answer.json()["code"]) == (400, "already_has_reference")
    (entry,) = said.entries
    assert (entry["log_level"], entry["code"]) == ("info", "ALREADY_HAS_REFERENCE")
    assert "exc_info" not in entry
    assert len(await images(user, character)) == 4
    await ask(user, path, prompt="a", on_conflict="replace")
    jobs = studio.rows("select from public.generation_jobs where user_id = %s and parent_id is null", user.id)
    assert len(jobs) == 2  # the character's, and one try
    assert len(await images(user, character)) == 1


async def test_the_history_can_be_kept_or_go_first(studio: Stack) -> None:
    user = studio.new_user()
    character = await ready(user)
    path = at(character, "/generate-initial-image")
    await ask(user, path, prompt="a", history_policy="keep")
    assert len(await images(user, character)) == 5
    answer = await user.http.post(path, json={"prompt": "b", "delete_timing": "before"})
    assert answer.status_code == 200
    assert [image["prompt"] for image in await images(user, character)] == ["b"]
    assert len(await images(user, character, include="replaced")) == 6


async def test_a_generation_that_fails_is_surfaced_and_leaves_what_was_there(
    admin_url: str, new_folder: Callable[[], Path]
) -> None:
    async with stack(admin_url, new_folder(), gpu=INSTANT, **DRAWN_BY) as product:
        user = product.user
        character = await ready(user)
        before = await images(user, character)

        tries: list[Any] = []

        async def refuse(*call: Any) -> str:
            tries.append(call)
            raise GpuRefused("broken", "out of order")

        product.app.state.gpu.submit = refuse  # type: ignore[union-attr]
        for path, body in (
            ("/generate-initial-image", {"prompt": "a"}),
            ("/generate-scene-image", {"sceneContext": "at night"}),
            ("/generate-360-set", {"angles": [0, 90]}),
        ):
            answer = await user.http.post(at(character, path), json=body)
            problem = answer.json()
            assert (answer.status_code, problem["code"]) == (500, "submit_failed"), answer.text
            assert answer.headers["x-should-retry"] == "false"
            assert problem["title"]
            assert len(tries) == len(body.get("angles", [0])), "each is tried once"
            tries.clear()
        after = await images(user, character, include="replaced")
        assert [image["id"] for image in after] == [image["id"] for image in before]


async def test_a_set_is_drawn_from_all_sides_and_appended(studio: Stack) -> None:
    user = studio.new_user()
    character = await ready(user)
    drawn = await ask(user, at(character, "/generate-360-set"))
    assert drawn["success"] is True
    assert [image["angle"] for image in drawn["images"]] == list(ANGLES)
    assert {image["kind"] for image in drawn["images"]} == {"portfolioItem"}
    assert len({image["media"]["seed"] for image in drawn["images"]}) == 1
    assert len(await images(user, character)) == 4 + len(ANGLES)
    view = (await images(user, character, kind="view"))[0]
    some = await ask(
        user, at(character, "/generate-360-set"), reference_image_id=view["id"], angles=[10, 10, 350]
    )
    assert [image["angle"] for image in some["images"]] == [10, 350]
    (use,) = (await user.job(some["images"][0]["job_id"]))["params"]["references"]
    assert use["image_id"] == view["id"]
    foreign = str(uuid4())
    answer = await refused(user, at(character, "/generate-360-set"), reference_image_id=foreign)
    assert answer == (400, "no_reference")


@pytest.mark.parametrize(
    ("group", "served", "goes"),
    [
        ("Qwen", ["qwen-image", "qwen-image-edit"], True),
        ("Qwen", ["qwen-image"], False),
        ("Qwen", None, True),
        ("tiny", ["tiny-qwen-edit"], True),
        ("Flux1", ["flux1-dev", "qwen-image-edit"], False),
        ("SDXL", ["sdxl", "qwen-image-edit"], False),
    ],
)
async def test_a_lora_goes_beside_a_reference_where_a_served_model_takes_both(
    group: str, served: list[str] | None, *, goes: bool
) -> None:
    async def serves(model: Model) -> bool:
        return served is None or model.id in served

    settings = SimpleNamespace(default_model="qwen-image", default_edit_model="qwen-image-edit")
    drawing = Drawing(SimpleNamespace(serves=serves), settings)  # type: ignore[arg-type]
    lora = Lora(uuid4(), "ana", group, ("zkw",), "0" * 64, "loras", "a")
    assert await drawing.beside_references(lora) == (lora if goes else None)


async def test_one_failed_angle_leaves_a_row_that_says_why(studio: Stack) -> None:
    user = studio.new_user()
    character = await ready(user)
    service = studio.app.state.character_pictures  # type: ignore[union-attr]
    path = at(character, "/generate-360-set")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(service._jobs, "create_task", one_broken(service._jobs.create_task))
        drawn = await ask(user, path, angles=[0, 45, 90])
    assert drawn["success"] is False
    told = [(image["angle"], image["status"], image["media"] is None) for image in drawn["images"]]
    assert told == [(0, "succeeded", False), (45, "failed", True), (90, "succeeded", False)]
    assert "strength" in drawn["images"][1]["error"]
    (kept,) = [image for image in await images(user, character) if image["status"] == "failed"]
    assert kept["id"] == drawn["images"][1]["id"]
    deleted = (await user.http.delete(at(character, f"/images/{kept['id']}"))).json()["deleted"]
    assert deleted == [{"target": "metadata", "ok": True, "error": None}]


def one_broken(create_task: Any) -> Any:
    async def create(caller: Any, columns: dict[str, Any], *rest: Any, **named: Any) -> Any:
        angle = columns["inputs"]["pictures"]["angle-045"]
        angle["params"] = {**angle["params"], "strength": 0.5}
        return await create_task(caller, columns, *rest, **named)

    return create


async def test_a_scene_is_drawn_as_it_was_typed(studio: Stack) -> None:
    user = studio.new_user()
    character = await ready(user)
    drawn = await ask(user, at(character, "/generate-scene-image"), sceneContext="on a beach")
    (image,) = drawn["images"]
    assert (image["kind"], image["prompt"]) == ("scene", "the same character, on a beach")
    assert image["id"] == (await images(user, character, kind="scene"))[0]["id"]
    assert image["created_by"] == str(user.id)


async def test_a_repeated_request_draws_once(studio: Stack) -> None:
    user = studio.new_user()
    character = await ready(user)
    path, body = at(character, "/generate-scene-image"), {"sceneContext": "at night"}
    key = {"Idempotency-Key": "once"}
    answers = [await user.http.post(path, json=body, headers=key) for _ in range(2)]
    assert [answer.json()["job_id"] for answer in answers] == [answers[0].json()["job_id"]] * 2
    assert answers[1].headers["Idempotent-Replayed"] == "true"
    assert len(await images(user, character, kind="scene")) == 1


async def test_at_most_one_picture_is_selected(studio: Stack) -> None:
    user = studio.new_user()
    character = await ready(user)
    ids = [image["id"] for image in await images(user, character)]
    chosen = await asyncio.gather(*(user.http.post(at(character, f"/images/{i}/select")) for i in ids))
    assert {answer.status_code for answer in chosen} == {200}
    selected = [image["id"] for image in await images(user, character) if image["is_selected"]]
    assert len(selected) == 1
    assert (await user.http.get(at(character))).json()["selected_image_id"] == selected[0]
    assert await refused(user, at(character, f"/images/{uuid4()}/select")) == (404, "not_found")


async def test_a_deleted_picture_tells_of_each_part(studio: Stack) -> None:
    user = studio.new_user()
    character = await ready(user)
    for image in await images(user, character):
        answer = await user.http.delete(at(character, f"/images/{image['id']}"))
        assert [(part["target"], part["ok"]) for part in answer.json()["deleted"]] == [
            ("metadata", True),
            ("file", True),
            ("remote", True),
        ]
        assert (await user.http.delete(at(character, f"/images/{image['id']}"))).status_code == 404
    assert [key for key in studio.objects() if key.startswith(f"{user.id}/")] == []
    assert await images(user, character) == []


async def test_a_portfolio_is_n_files_and_n_rows_and_deleting_takes_both_and_asks_for_the_copies(
    studio: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = studio.new_user()
    character = await ready(user)
    drawn = (await ask(user, at(character, "/generate-360-set"), angles=[0, 90, 180]))["images"]
    kept = "select i.id::text, a.key from public.character_images i join public.generated_assets a"
    kept += " on a.id = i.asset_id where i.kind = 'portfolioItem' and i.character_id = %s"
    rows = studio.rows(f"{kept} and i.deleted_at is null and a.deleted_at is null", character["id"])
    assert {row["id"] for row in rows} == {image["id"] for image in drawn}
    assert {row["key"] for row in rows} <= set(studio.objects())
    assert len({row["key"] for row in rows}) == len(drawn) == 3
    gpu, asked = studio.app.state.gpu, []  # type: ignore[union-attr]
    forget = gpu.forget

    async def watched(sha256: str) -> None:
        asked.append(sha256)
        await forget(sha256)

    monkeypatch.setattr(gpu, "forget", watched)
    for image in drawn:
        parts = (await user.http.delete(at(character, f"/images/{image['id']}"))).json()["deleted"]
        assert [part["target"] for part in parts if part["ok"]] == ["metadata", "file", "remote"]
    await worker_has_removed(studio, *[image["id"] for image in drawn])
    hashes = [image["media"]["sha256"] for image in drawn]
    assert [sha256 for sha256 in asked if sha256 in hashes] == hashes
    assert not {row["key"] for row in rows} & set(studio.objects())
    assert await images(user, character, kind="portfolioItem") == []
    assert not studio.rows(f"{kept} and (i.deleted_at is null or a.deleted_at is null)", character["id"])


async def test_a_remote_copy_that_stays_is_told_and_asked_for_once(
    studio: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = studio.new_user()
    character = await ready(user)
    (reference,) = await images(user, character, kind="reference")
    asked: list[str] = []

    async def forget(sha256: str) -> None:
        asked.append(sha256)
        raise GpuUnreachable("no answer")

    monkeypatch.setattr(studio.app.state.gpu, "forget", forget)  # type: ignore[union-attr]
    parts = (await user.http.delete(at(character, f"/images/{reference['id']}"))).json()["deleted"]
    assert [(part["target"], part["ok"]) for part in parts] == [
        ("metadata", True),
        ("file", True),
        ("remote", False),
    ]
    assert parts[2]["error"] == "no answer"
    await worker_has_removed(studio, reference["id"])
    assert asked.count(reference["media"]["sha256"]) == 1
    assert await images(user, character, kind="reference") == []


async def test_a_file_that_cannot_be_removed_is_told_and_the_rest_goes(
    studio: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = studio.new_user()
    character = await ready(user)
    (reference,) = await images(user, character, kind="reference")
    bucket = studio.app.state.character_pictures._buckets["generated-designs"]  # type: ignore[union-attr]

    async def delete(keys: list[str]) -> None:
        raise StorageError("the disk is on fire")

    with monkeypatch.context() as patch:
        patch.setattr(bucket, "delete", delete)
        parts = (await user.http.delete(at(character, f"/images/{reference['id']}"))).json()["deleted"]
    assert [(part["target"], part["ok"]) for part in parts] == [
        ("metadata", True),
        ("file", False),
        ("remote", True),
    ]
    assert "fire" not in parts[1]["error"]
    studio.rows(AT_ONCE, f"%{reference['id']}%")

    async def removed() -> bool:
        return not [key for key in studio.objects() if reference["id"] in key]

    await eventually(removed)


AT_ONCE = "update private.deletions set wake_at = now() where key like %s returning key"
"""Instead of the pause, where the worker has found the bucket out of order as well."""


# Deletion


async def test_a_deleted_character_takes_photo_pictures_and_knowledge_along(studio: Stack) -> None:
    user = studio.new_user()
    upload = await user.upload(photo((7, 90, 160)))
    body = described(source="photo", upload_id=upload, consent=True, age=40, description=None)
    character = await settled(user, await ask(user, "/v1/characters", **body))
    (known,) = studio.rows("select sha256 from public.uploads where id = %s", upload)
    copies = studio.folder / "gpu"
    assert [*copies.rglob(known["sha256"])], "the GPU service was given the photo"
    first, second = [await user.http.delete(at(character)) for _ in range(2)]
    assert first.json()["removed"] == {"photo": True, "images": 4, "profile": True, "jobs_canceled": 0}
    assert second.json()["removed"] == {"photo": False, "images": 0, "profile": False, "jobs_canceled": 0}
    assert (await user.http.get(at(character))).status_code == 404
    assert (await user.http.get("/v1/images")).json()["data"] == []
    assert (await user.http.get(f"/v1/uploads/{upload}")).status_code == 404

    async def nothing_left() -> bool:
        return not [
            key
            for name in ("generated-designs", "uploads")
            for key in studio.objects(name)
            if key.startswith(f"{user.id}/")
        ]

    async def no_copy_left() -> bool:
        return not [*copies.rglob(known["sha256"])]

    await eventually(nothing_left)
    await studio.app.state.uploads.sweep()  # type: ignore[union-attr]  # which comes once a minute
    await eventually(no_copy_left)
    (row,) = studio.rows(
        """select c.age, c.attributes, p.color_palette, p.attributes as traits from public.characters c
           join public.character_profiles p on p.character_id = c.id where c.id = %s""",
        character["id"],
    )
    assert row == {"age": None, "attributes": {}, "color_palette": [], "traits": {}}


async def test_a_photo_stays_for_as_long_as_a_character_needs_it(studio: Stack) -> None:
    user = studio.new_user()
    upload = await user.upload(photo())
    body = described(source="photo", upload_id=upload, consent=True, description=None)
    one, two = [await settled(user, await ask(user, "/v1/characters", **body)) for _ in range(2)]
    assert (await user.http.delete(at(one))).json()["removed"]["photo"] is False
    assert (await user.http.delete(at(two))).json()["removed"]["photo"] is True


async def test_a_character_deleted_while_it_is_drawn_leaves_no_picture(studio: Stack) -> None:
    user = studio.new_user()
    for _ in range(3):
        begun = await ask(user, "/v1/characters", **described())
        await asyncio.sleep(0.1)
        assert (await user.http.delete(at(begun))).status_code == 200

    async def nothing_left() -> bool:
        live = studio.rows(
            "select from public.generation_jobs where user_id = %s and wake_at is not null", user.id
        )
        return not live and not [key for key in studio.objects() if key.startswith(f"{user.id}/")]

    await eventually(nothing_left)
    assert (await user.http.get("/v1/images")).json()["data"] == []
