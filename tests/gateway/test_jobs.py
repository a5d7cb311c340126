"""Jobs through the public API, on the instant model."""

import asyncio
import contextlib
import io
import json
from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple

import httpx
import psycopg
import pytest
from PIL import Image

from tests.support.stack import Stack, User


class Event(NamedTuple):
    """One server-sent event."""

    id: int
    name: str
    job: dict[str, Any]


async def test_a_job_is_answered_before_any_gpu_work_and_ends_with_its_picture(product: Stack) -> None:
    answer = await product.user.http.post(
        "/v1/jobs", json={"prompt": "a phoenix", "size": "256x128", "seed": 5}
    )
    assert answer.status_code == 202
    job = answer.json()
    assert (job["status"], job["images"], answer.headers["location"]) == (
        "queued",
        [],
        f"/v1/jobs/{job['id']}",
    )
    job = await product.user.ended(job["id"])
    assert (job["status"], job["stage"], job["progress"], job["error"]) == ("completed", None, 1.0, None)
    (image,) = job["images"]
    content = (await product.user.http.get(f"/v1/images/{image['id']}/content")).content
    with Image.open(io.BytesIO(content)) as picture:
        assert (picture.format, picture.size) == ("PNG", (256, 128))
    assert (image["bytes"], image["seed"], image["job_id"]) == (len(content), 5, job["id"])


async def test_waiting_holds_the_answer_until_the_picture_is_there(product: Stack) -> None:
    headers = {"Prefer": "wait=20"}
    answer = await product.user.http.post("/v1/jobs", json={"prompt": "a"}, headers=headers)
    assert (answer.status_code, answer.json()["status"]) == (200, "completed")
    assert answer.headers["preference-applied"] == "wait=20"


async def test_every_picture_of_a_job_has_its_own_seed_and_bytes(product: Stack) -> None:
    job = await product.user.create(prompt="a", num_images=4, seed=10, size="64x64", wait=20)
    assert [image["seed"] for image in job["images"]] == [10, 11, 12, 13]
    assert len({image["sha256"] for image in job["images"]}) == 4


async def test_the_same_seed_draws_the_same_bytes_and_no_seed_is_drawn_and_told(product: Stack) -> None:
    first = await product.user.create(prompt="a", size="64x64", wait=20)
    again = await product.user.create(prompt="a", size="64x64", seed=first["params"]["seed"], wait=20)
    assert first["images"][0]["sha256"] == again["images"][0]["sha256"]
    other = await product.user.create(prompt="a", size="64x64", wait=20)
    assert other["params"]["seed"] != first["params"]["seed"]


@pytest.mark.parametrize(
    ("body", "size"),
    [
        ({}, (1024, 1024)),
        ({"size": "panel"}, (1728, 2304)),
        ({"size": "ref_portrait"}, (832, 1216)),
        ({"size": "panel", "width": 64, "height": 96}, (64, 96)),
        ({"size": "96x64"}, (96, 64)),
    ],
)
async def test_the_stored_picture_has_exactly_the_size_asked_for(
    product: Stack, body: dict[str, Any], size: tuple[int, int]
) -> None:
    job = await product.user.create(prompt="a", wait=20, **body)
    image = job["images"][0]
    assert (job["params"]["width"], job["params"]["height"]) == (image["width"], image["height"]) == size
    content = (await product.user.http.get(f"/v1/images/{image['id']}/content")).content
    assert Image.open(io.BytesIO(content)).size == size


@pytest.mark.parametrize(("output_format", "name"), [("png", "PNG"), ("jpeg", "JPEG"), ("webp", "WEBP")])
async def test_the_picture_has_the_format_asked_for(product: Stack, output_format: str, name: str) -> None:
    job = await product.user.create(prompt="a", size="64x64", output_format=output_format, wait=20)
    async with httpx.AsyncClient() as anybody:
        answer = await anybody.get(job["images"][0]["url"])
    assert answer.headers["content-type"] == f"image/{output_format}"
    assert Image.open(io.BytesIO(answer.content)).format == name


async def test_a_style_is_appended_and_input_and_final_prompt_are_both_told(product: Stack) -> None:
    job = await product.user.create(prompt="a phoenix rising", style="ANIME", size="64x64")
    assert job["style"] == "design/anime"
    assert job["prompt"]["input"] == "a phoenix rising"
    assert job["prompt"]["final"] == "a phoenix rising, vibrant colors, detailed shading, anime art style"


async def test_without_a_style_the_prompt_goes_through_byte_for_byte(product: Stack) -> None:
    prompt = "  dragon,\tünïcode 🐉  "
    job = await product.user.create(prompt=prompt, size="64x64", wait=20)
    assert job["prompt"]["final"] == job["prompt"]["input"] == prompt
    (call,) = (await product.user.http.get(f"/v1/jobs/{job['id']}/calls")).json()["data"]
    assert call["request"]["prompt"] == prompt


async def test_enhancing_without_a_capable_model_falls_back_and_says_so(product: Stack) -> None:
    job = await product.user.create(prompt="a", enhance=True, size="64x64", wait=20)
    assert (job["prompt"]["enhance_status"], job["prompt"]["final"]) == ("fallback", "a")


async def test_the_debug_view_has_the_request_the_timing_and_the_cost(product: Stack) -> None:
    job = await product.user.create(prompt="a", size="64x64", wait=20)
    (call,) = (await product.user.http.get(f"/v1/jobs/{job['id']}/calls")).json()["data"]
    assert (call["key"], call["status"], call["task"]) == (f"{job['id']}:1:1", "succeeded", "image")
    assert call["request"]["seed"] == job["params"]["seed"]
    assert call["usd_micros"] == job["cost"]["usd_micros"]
    assert call["fingerprint"]


async def test_a_job_that_has_not_changed_is_not_sent_again(product: Stack) -> None:
    job = await product.user.create(prompt="a", size="64x64", wait=20)
    first = await product.user.http.get(f"/v1/jobs/{job['id']}")
    again = await product.user.http.get(
        f"/v1/jobs/{job['id']}", headers={"If-None-Match": first.headers["etag"]}
    )
    assert (again.status_code, again.content) == (304, b"")


async def test_a_public_picture_is_cached_for_ever_and_a_private_one_is_signed(product: Stack) -> None:
    public = await product.user.create(prompt="a", size="64x64", wait=20)
    private = await product.user.create(prompt="a", size="64x64", visibility="private", wait=20)
    async with httpx.AsyncClient() as anybody:
        open_answer = await anybody.get(public["images"][0]["url"])
        assert open_answer.headers["cache-control"] == "public, max-age=31536000, immutable"
        unchanged = await anybody.get(
            public["images"][0]["url"], headers={"If-None-Match": open_answer.headers["etag"]}
        )
        assert unchanged.status_code == 304
        signed = await anybody.get(private["images"][0]["url"])
    assert (signed.status_code, signed.headers["cache-control"]) == (200, "private, no-store")
    assert "signature=" in private["images"][0]["url"]
    stored = product.rows("select result_url from public.generation_jobs where id = %s", private["id"])
    assert "signature" not in stored[0]["result_url"]


async def test_a_thumbnail_is_small_and_made_once(product: Stack) -> None:
    job = await product.user.create(prompt="a", size="1024x512", wait=20)
    url = job["images"][0]["thumbnail_url"]
    first, again = await product.user.http.get(url), await product.user.http.get(url)
    assert first.content == again.content
    with Image.open(io.BytesIO(first.content)) as thumbnail:
        assert (thumbnail.format, thumbnail.size) == ("WEBP", (384, 192))


async def test_lists_are_newest_first_paged_and_filtered(product: Stack) -> None:
    user = product.new_user()
    jobs = [
        await user.create(prompt=str(n), size="64x64", metadata={"flow_id": f"f{n % 2}", "n": n})
        for n in range(5)
    ]
    newest_first = [job["id"] for job in reversed(jobs)]
    first = (await user.http.get("/v1/jobs?limit=3")).json()
    assert [job["id"] for job in first["data"]] == newest_first[:3]
    assert (first["has_more"], first["first_id"], first["last_id"]) == (
        True,
        newest_first[0],
        newest_first[2],
    )
    rest = (await user.http.get(f"/v1/jobs?limit=3&after={first['last_id']}")).json()
    assert ([job["id"] for job in rest["data"]], rest["has_more"]) == (newest_first[3:], False)
    odd = (await user.http.get("/v1/jobs?metadata.flow_id=f1")).json()
    assert [job["prompt"]["input"] for job in odd["data"]] == ["3", "1"]
    numbered = (await user.http.get("/v1/jobs?metadata.n=2&model=instant")).json()
    assert [job["prompt"]["input"] for job in numbered["data"]] == ["2"]
    assert (await user.http.get("/v1/jobs?style=design/anime")).json()["data"] == []


async def test_a_repeated_key_replays_the_first_answer_and_makes_one_job(product: Stack) -> None:
    user = product.new_user()
    headers = {"Idempotency-Key": "once"}

    async def create(prompt: str = "a") -> httpx.Response:
        return await user.http.post("/v1/jobs", json={"prompt": prompt, "size": "64x64"}, headers=headers)

    first = await create()
    again = await create()
    assert (again.status_code, again.json()) == (first.status_code, first.json())
    assert again.headers["idempotent-replayed"] == "true"
    other = await create("b")
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    assert len((await user.http.get("/v1/jobs")).json()["data"]) == 1


async def test_a_hundred_equal_creates_at_once_make_one_job(product: Stack) -> None:
    user = product.new_user()
    headers = {"Idempotency-Key": "race"}
    body = {"prompt": "a", "size": "64x64"}
    async with held_queue(product):  # once it has ended, its key is answered with 200
        answers = await asyncio.gather(
            *(user.http.post("/v1/jobs", json=body, headers=headers) for _ in range(100))
        )
    assert {answer.status_code for answer in answers} <= {202, 409}
    assert len({answer.json()["id"] for answer in answers if answer.status_code == 202}) == 1
    assert len((await user.http.get("/v1/jobs")).json()["data"]) == 1


async def test_the_compatibility_paths_answer_exactly_as_documented(product: Stack) -> None:
    body = {"prompt": "A phoenix rising", "style": "Anime", "width": 1024, "height": 1024}
    created = await product.user.http.post("/api/generate", json=body)
    assert created.status_code == 202
    assert created.json() == {"jobId": created.json()["jobId"], "status": "queued"}
    job = await product.user.ended(created.json()["jobId"])
    status = (await product.user.http.get(f"/api/generate/status/{job['id']}")).json()
    assert status.keys() == {"jobId", "status", "result_url", "error_message", "processing_time_ms"}
    assert (status["status"], status["result_url"], status["error_message"]) == (
        "completed",
        job["images"][0]["url"],
        None,
    )


async def test_a_finished_job_cannot_be_canceled_or_retried(product: Stack) -> None:
    job = await product.user.create(prompt="a", size="64x64", wait=20)
    canceled = await product.user.http.post(f"/v1/jobs/{job['id']}/cancel")
    assert (canceled.status_code, canceled.json()["status"]) == (200, "completed")
    retried = await product.user.http.post(f"/v1/jobs/{job['id']}/retry")
    assert (retried.status_code, retried.json()["code"]) == (409, "job_not_retryable")


async def test_a_job_whose_deadline_passes_in_the_queue_fails_as_expired(product: Stack) -> None:
    user = product.new_user()
    async with held_queue(product):
        job = await user.create(prompt="a", size="64x64", expires_in_seconds=1)
        job = await user.ended(job["id"])
    assert (job["status"], job["error"]["code"], job["error"]["retryable"]) == ("failed", "expired", True)


async def test_a_failed_job_is_retried_as_a_new_one_with_the_same_recipe(product: Stack) -> None:
    user = product.new_user()
    async with held_queue(product):
        old = await user.create(prompt="a", size="64x64", metadata={"k": "v"}, style="Grunge")
        await user.http.post(f"/v1/jobs/{old['id']}/cancel")
    retried = await user.http.post(f"/v1/jobs/{old['id']}/retry", headers={"Prefer": "wait=20"})
    new = retried.json()
    assert (new["status"], new["retry_of"]) == ("completed", old["id"])
    assert (new["prompt"], new["params"], new["metadata"]) == (old["prompt"], old["params"], old["metadata"])
    assert (await user.job(old["id"]))["status"] == "canceled"


@contextlib.asynccontextmanager
async def held_queue(product: Stack) -> AsyncIterator[None]:
    """While it lasts, the claim's gate is shut and nothing is taken from the queue."""
    async with await psycopg.AsyncConnection.connect(product.admin_url) as holder:
        await holder.execute("select pg_advisory_xact_lock(4201)")
        yield


async def test_a_queued_job_is_canceled_at_once_and_never_drawn(product: Stack) -> None:
    user = product.new_user()
    async with held_queue(product):
        job = await user.create(prompt="a", size="64x64")
        assert (await user.job(job["id"]))["queue_position"] == 1
        canceled = (await user.http.post(f"/v1/jobs/{job['id']}/cancel")).json()
    assert (canceled["status"], canceled["images"]) == ("canceled", [])
    assert (await user.http.get(f"/v1/jobs/{job['id']}/calls")).json()["data"] == []


async def test_waiting_ends_with_the_time_and_the_answer_says_when_to_come_back(product: Stack) -> None:
    user = product.new_user()
    body = {"prompt": "a", "size": "64x64"}
    async with held_queue(product):
        answer = await user.http.post("/v1/jobs", json=body, headers={"Prefer": "respond-async, wait=1"})
        assert (answer.status_code, answer.json()["status"]) == (202, "queued")
        assert answer.headers["preference-applied"] == "wait=1"
        assert answer.headers["location"] == f"/v1/jobs/{answer.json()['id']}"
        assert int(answer.headers["retry-after"]) * 1000 == answer.json()["poll_after_ms"]
    await user.ended(answer.json()["id"])


async def test_every_job_in_line_says_its_place_and_no_earlier_time(product: Stack) -> None:
    user = product.new_user()
    async with held_queue(product):
        jobs = [await user.create(prompt="a", size="64x64", num_inference_steps=100) for _ in range(3)]
        assert [job["queue_position"] for job in jobs] == [1, 2, 3]
        await asyncio.sleep(5.1)  # what is known of the queue is read again
        etas = [(await user.job(job["id"]))["eta_seconds"] for job in jobs]
        assert 0 <= etas[0] <= etas[1] <= etas[2], etas  # of a model that takes milliseconds, rounded
    ended = [await user.ended(job["id"]) for job in jobs]
    assert {(job["queue_position"], job["eta_seconds"]) for job in ended} == {(None, None)}


async def test_priority_decides_inside_a_users_queue(product: Stack) -> None:
    user = product.new_user()
    async with held_queue(product):
        low = await user.create(prompt="low", size="64x64", priority="low")
        high = await user.create(prompt="high", size="64x64", priority="high")
        assert (await user.job(high["id"]))["queue_position"] == 1
        assert (await user.job(low["id"]))["queue_position"] == 2


# Event streams


async def read_events(
    user: User,
    path: str,
    *,
    after: int | None = None,
    last: Callable[[Event], bool] = lambda event: False,
    opened: asyncio.Event | None = None,
) -> list[Event]:
    """The events of a stream up to its end or to the ``last`` one; ``opened`` is set once it is there."""
    headers = {} if after is None else {"Last-Event-ID": str(after)}
    events: list[Event] = []
    fields: dict[str, str] = {}
    async with user.http.stream("GET", path, headers=headers) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        if opened:
            opened.set()
        async for line in stream.aiter_lines():
            name, _, value = line.partition(": ")
            if line:
                fields[name] = value
            elif "data" in fields:
                events.append(Event(int(fields["id"]), fields["event"], json.loads(fields["data"])))
                fields = {}
                if last(events[-1]):
                    break
    return events


async def test_a_jobs_stream_tells_its_moves_and_ends_with_it(product: Stack) -> None:
    user, begun = product.new_user(), asyncio.Event()

    def follow(event: Event) -> bool:
        begun.set()
        return False

    async with held_queue(product):
        job = await user.create(prompt="a", size="64x64")
        reading = asyncio.create_task(read_events(user, f"/v1/jobs/{job['id']}/events", last=follow))
        await asyncio.wait_for(begun.wait(), 20)
    events = await asyncio.wait_for(reading, 20)
    ids = [event.id for event in events]
    assert ids == sorted(set(ids))
    first, last = events[0], events[-1]
    assert (first.name, first.job["status"]) == ("status", "queued")
    assert (last.name, last.job["status"], len(last.job["images"])) == ("completed", "completed", 1)
    assert not any(event.job["images"] for event in events[:-1])


async def test_the_stream_of_an_ended_job_tells_its_end_and_closes(product: Stack) -> None:
    job = await product.user.create(prompt="a", size="64x64", wait=20)
    (event,) = await read_events(product.user, f"/v1/jobs/{job['id']}/events")
    assert (event.name, event.job["id"]) == ("completed", job["id"])


async def test_a_stream_cut_anywhere_resumes_without_loss_or_repetition(product: Stack) -> None:
    user = product.new_user()
    before = await user.create(prompt="before", size="64x64", wait=20)
    start = (await read_events(user, f"/v1/jobs/{before['id']}/events"))[-1].id
    jobs = [await user.create(prompt=str(n), size="64x64", wait=20) for n in range(4)]

    def is_last(event: Event) -> bool:
        return (event.job["id"], event.name) == (jobs[-1]["id"], "completed")

    whole = await read_events(user, "/v1/events", after=start, last=is_last)
    completed = [event.job["id"] for event in whole if event.name == "completed"]
    assert completed == [job["id"] for job in jobs]
    for n, cut in enumerate(whole[:-1]):
        rest = await read_events(user, "/v1/events", after=cut.id, last=is_last)
        assert [(event.id, event.name) for event in rest] == [
            (event.id, event.name) for event in whole[n + 1 :]
        ]


async def test_another_users_moves_are_not_in_the_stream(product: Stack) -> None:
    mine, theirs, opened = product.new_user(), product.new_user(), asyncio.Event()
    before = await mine.create(prompt="before", size="64x64", wait=20)
    start = (await read_events(mine, f"/v1/jobs/{before['id']}/events"))[-1].id
    reading = asyncio.create_task(
        read_events(mine, "/v1/events", after=start, last=lambda event: True, opened=opened)
    )
    await asyncio.wait_for(opened.wait(), 20)
    await theirs.create(prompt="a", size="64x64", wait=20)
    job = await mine.create(prompt="b", size="64x64")
    (event,) = await asyncio.wait_for(reading, 20)
    assert event.job["id"] == job["id"]


# Operations


async def test_readiness_names_each_part(product: Stack) -> None:
    async with httpx.AsyncClient(base_url=product.url) as http:
        ready = await http.get("/readyz")
        assert (ready.status_code, ready.json()["checks"]) == (
            200,
            {"database": "ok", "bucket": "ok", "gpu_service": "ok"},
        )
        assert (await http.get("/healthz")).json() == {"status": "ok"}


async def test_the_request_id_comes_back(product: Stack) -> None:
    answer = await product.user.http.get("/v1/jobs", headers={"x-request-id": "from-the-caller"})
    assert answer.headers["x-request-id"] == "from-the-caller"
    odd = await product.user.http.get("/v1/jobs", headers={"x-request-id": "spaces are not kept"})
    assert len(odd.headers["x-request-id"]) == 32


async def test_what_a_frontend_keeps_with_a_job_changes_also_after_its_end(product: Stack) -> None:
    user = product.new_user()
    job = await user.create(wait=30, prompt="a mug", metadata={"flow_id": "7", "draft": True})
    path = f"/v1/jobs/{job['id']}"
    for body, status in [
        ({"metadata": {}}, 422),
        ({"metadata": {"a": {"b": 1}}}, 422),
        ({"prompt": "another"}, 422),
        ({"metadata": {f"key_{n}": n for n in range(50)}}, 400),
    ]:
        assert (await user.http.patch(path, json=body)).status_code == status, body
    before = await user.http.get(path)
    changes = {"cart_ref": "cart-4711", "placement_x": 50, "draft": None}
    changed = await user.http.patch(path, json={"metadata": changes})
    assert changed.json()["metadata"] == {"flow_id": "7", "cart_ref": "cart-4711", "placement_x": 50}
    after = await user.http.get(path, headers={"If-None-Match": before.headers["etag"]})
    assert (after.status_code, after.json()["metadata"]) == (200, changed.json()["metadata"])
    found = (await user.http.get("/v1/jobs", params={"metadata.cart_ref": "cart-4711"})).json()["data"]
    assert [each["id"] for each in found] == [job["id"]]
