"""What may go wrong between the gateway and Supabase Storage, and what is sent when it does not."""

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from gateway.storage import InvalidKey, ObjectExists, ObjectMissing, ObjectTooLarge, StorageError
from gateway.storage import supabase as module
from gateway.storage.supabase import StorageUnavailable, SupabaseBucket
from tests.support.stack import serve, stack
from tests.support.storage_server import (
    BREAK_OFF,
    HANG,
    LOSE_ANSWER,
    SECRET,
    StorageServer,
    StoredObject,
)

KEY = "user/job/1-1-0.png"
PNG = "image/png"
FOREVER = "max-age=31536000, immutable"
PATIENCE, NO_PATIENCE = httpx.Timeout(30), httpx.Timeout(1)


@pytest_asyncio.fixture
async def server() -> StorageServer:
    return StorageServer()


@pytest_asyncio.fixture
async def address(server: StorageServer) -> AsyncIterator[str]:
    async with serve(server) as url:
        yield url


@pytest_asyncio.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(timeout=PATIENCE) as client:
        yield client


@pytest_asyncio.fixture
async def bucket(address: str, http: httpx.AsyncClient) -> SupabaseBucket:
    return SupabaseBucket(http, address, SECRET, name="uploads", backoff=(0.01, 0.01))


def stored(server: StorageServer) -> dict[str, StoredObject]:
    return server.buckets["uploads"].objects


async def test_errors_of_the_request_are_not_tried_again(
    server: StorageServer, bucket: SupabaseBucket
) -> None:
    server.buckets["uploads"].limit_bytes = 3
    with pytest.raises(ObjectTooLarge):
        await bucket.put(KEY, b"four", PNG)
    with pytest.raises(InvalidKey, match="415"):
        await bucket.put("user/a.bin", b"x", "application/octet-stream")
    assert len(server.requests) == 2


async def test_a_key_that_is_not_valid_does_not_make_objects_look_gone(
    server: StorageServer, bucket: SupabaseBucket
) -> None:
    await bucket.put(KEY, b"picture", PNG)
    server.secret = "another"
    for attempt in (bucket.get(KEY), bucket.stat(KEY), bucket.put(KEY, b"x", PNG), bucket.check()):
        with pytest.raises(StorageError) as refused:
            await attempt
        assert not isinstance(refused.value, ObjectMissing | StorageUnavailable)
    with pytest.raises(StorageError, match="403"):
        _ = [piece async for piece in bucket.stream(KEY)]
    assert len(server.requests) == 6


@pytest.mark.parametrize("fault", [500, 429, 502, HANG, LOSE_ANSWER])
async def test_a_request_is_repeated_while_the_service_fails(
    server: StorageServer, bucket: SupabaseBucket, http: httpx.AsyncClient, fault: int | str
) -> None:
    http.timeout = NO_PATIENCE if fault == HANG else PATIENCE
    server.faults.extend([fault, fault])
    await bucket.put(KEY, b"picture", PNG)
    assert stored(server)[KEY].content == b"picture"
    for request in (bucket.get(KEY), bucket.stat(KEY), bucket.sign_get([KEY], 60), bucket.check()):
        server.faults.extend([fault])
        await request
    server.faults.extend([fault])
    assert [found.key async for found in bucket.list()] == [KEY]


@pytest.mark.parametrize("fault", [500, 503, HANG])
async def test_a_service_that_goes_on_failing_is_unavailable(
    server: StorageServer, bucket: SupabaseBucket, http: httpx.AsyncClient, fault: int | str
) -> None:
    http.timeout = NO_PATIENCE if fault == HANG else PATIENCE
    server.faults.extend([fault] * 9)
    with pytest.raises(StorageUnavailable):
        await bucket.put(KEY, b"picture", PNG)
    assert len(server.requests) == 3


async def test_a_service_that_is_not_there_is_unavailable() -> None:
    async with httpx.AsyncClient(timeout=PATIENCE) as http:
        bucket = SupabaseBucket(http, "http://127.0.0.1:9", SECRET, name="uploads", backoff=(0.01,))
        with pytest.raises(StorageUnavailable):
            await bucket.check()


async def test_a_lost_answer_to_a_put_does_not_excuse_other_bytes(
    server: StorageServer, bucket: SupabaseBucket
) -> None:
    await bucket.put(KEY, b"first", PNG)
    server.faults.append(LOSE_ANSWER)
    with pytest.raises(ObjectExists):
        await bucket.put(KEY, b"other", PNG)
    assert stored(server)[KEY].content == b"first"


async def test_a_download_that_breaks_off_goes_on_where_it_broke(
    server: StorageServer, bucket: SupabaseBucket
) -> None:
    content = bytes(range(256)) * 2000
    await bucket.put(KEY, content, PNG)
    server.requests.clear()
    server.faults.extend([BREAK_OFF, BREAK_OFF])
    assert b"".join([piece async for piece in bucket.stream(KEY, 100)]) == content[100:]
    assert len(server.requests) == 3


async def test_a_download_that_breaks_off_again_and_again_ends(
    server: StorageServer, bucket: SupabaseBucket
) -> None:
    await bucket.put(KEY, bytes(1000), PNG)
    server.faults.extend([BREAK_OFF] * 9)
    with pytest.raises(StorageUnavailable):
        _ = [piece async for piece in bucket.stream(KEY)]


async def test_a_thousand_keys_are_signed_by_one_request(
    server: StorageServer, bucket: SupabaseBucket
) -> None:
    keys = [f"user/{n}.png" for n in range(1000)]
    stored(server).update({key: StoredObject(b"x", PNG, FOREVER) for key in keys})
    assert len(await bucket.sign_get(keys, 60)) == 1000
    assert server.requests == ["POST /storage/v1/object/sign/uploads"]
    assert await bucket.sign_get([], 60) == {}
    assert len(server.requests) == 1


async def test_signing_is_given_up_early(
    server: StorageServer, bucket: SupabaseBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "QUICK_SECONDS", 0.2)
    server.faults.extend([HANG] * 3)
    with pytest.raises(StorageUnavailable, match=r"within 0\.2 s"):
        await bucket.sign_get([KEY], 60)


async def test_removal_goes_in_batches_and_names_what_went(
    server: StorageServer, bucket: SupabaseBucket
) -> None:
    keys = [f"user/{n}.png" for n in range(1200)]
    stored(server).update({key: StoredObject(b"x", PNG, FOREVER) for key in keys})
    server.kept = {"user/7.png"}
    gone = await bucket.delete([*keys, "user/none.png"])
    assert sorted(gone) == sorted(set(keys) - {"user/7.png"})
    assert list(stored(server)) == ["user/7.png"]
    assert len(server.requests) == 2


async def test_every_page_of_a_list_is_read(server: StorageServer, bucket: SupabaseBucket) -> None:
    keys = sorted(f"user/{n}.png" for n in range(2300))
    stored(server).update({key: StoredObject(b"xx", PNG, FOREVER) for key in keys})
    found = [info async for info in bucket.list("user/")]
    assert [info.key for info in found] == keys
    assert {(info.bytes, info.content_type) for info in found} == {(2, PNG)}
    assert len(server.requests) == 3


async def test_objects_may_be_cached_for_a_year_whichever_way_they_came(
    server: StorageServer, bucket: SupabaseBucket
) -> None:
    await bucket.put(KEY, b"picture", PNG)
    signed = await bucket.sign_put("user/b.png", PNG, 100, 60)
    async with httpx.AsyncClient() as http:
        await http.put(signed.url, content=b"picture", headers=signed.headers)
    assert {found.cache_control for found in stored(server).values()} == {FOREVER}


async def test_an_upload_over_the_limit_of_the_bucket_is_refused_by_the_service(
    server: StorageServer, bucket: SupabaseBucket
) -> None:
    server.buckets["uploads"].limit_bytes = 10
    signed = await bucket.sign_put(KEY, PNG, 10, 60)
    async with httpx.AsyncClient() as http:
        answer = await http.put(signed.url, content=bytes(11), headers=signed.headers)
    assert (answer.status_code, answer.json()["statusCode"]) == (400, "413")
    with pytest.raises(ObjectMissing):
        await bucket.stat(KEY)


async def test_a_gateway_keeps_its_pictures_in_the_project_it_is_given(
    server: StorageServer, address: str, admin_url: str, tmp_path: Path
) -> None:
    settings = {"supabase_url": address, "supabase_secret_key": SECRET, "default_model": "instant"}
    async with stack(admin_url, tmp_path, gpu={"GPU_MODELS": "instant"}, **settings) as product:
        server.faults.extend([503, None, LOSE_ANSWER])
        body = {"prompt": "a card", "size": "64x64", "num_images": 2, "visibility": "private"}
        job = await product.user.create(**body, wait=30)
        assert job["status"] == "completed", job["error"]
        designs = server.buckets["generated-designs"].objects
        rows = product.rows("select key, sha256 from public.generated_assets")
        assert {row["key"]: row["sha256"] for row in rows} == {
            key: hashlib.sha256(found.content).hexdigest() for key, found in designs.items()
        }
        assert product.objects() == []
        async with httpx.AsyncClient() as http:
            for image in job["images"]:
                assert image["url"].startswith(f"{address}/storage/v1/object/sign/generated-designs/")
                assert hashlib.sha256((await http.get(image["url"])).content).hexdigest() == image["sha256"]

        server.faults.extend([502] * 4)
        answer = await product.user.http.get(f"/v1/images/{job['images'][0]['id']}/content")
        assert (answer.status_code, answer.json()["code"]) == (503, "storage_unavailable")
        assert answer.headers["retry-after"] == "5"
