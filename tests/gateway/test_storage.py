"""What every bucket does, whichever implementation holds it: one suite over all of them."""

import datetime
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import httpx
import pytest
import pytest_asyncio
from fastapi import FastAPI

from gateway import errors
from gateway.http import Intake
from gateway.storage import Bucket, InvalidKey, ObjectExists, ObjectMissing, routes
from gateway.storage.local import LocalBucket
from gateway.storage.supabase import SupabaseBucket
from tests.support.stack import serve
from tests.support.storage_server import SECRET, StorageServer

KEY = "user/job/1-1-0.png"
PNG = "image/png"


def gateway_of(bucket: LocalBucket) -> FastAPI:
    """As much of the gateway as serves a local bucket's addresses."""
    app = FastAPI()
    errors.install(app)
    app.add_middleware(Intake)
    app.include_router(routes.router)
    app.state.buckets = {bucket.name: bucket}
    return app


@asynccontextmanager
async def local(folder: Path) -> AsyncIterator[LocalBucket]:
    bucket = LocalBucket(folder, name="uploads", signing_key="k", base_url="")
    async with serve(gateway_of(bucket)) as url:
        bucket._base_url = url
        yield bucket


@asynccontextmanager
async def supabase(folder: Path) -> AsyncIterator[SupabaseBucket]:
    async with serve(StorageServer()) as url, httpx.AsyncClient() as http:
        yield SupabaseBucket(http, url, SECRET, name="uploads", backoff=(0.01, 0.01))


@pytest_asyncio.fixture(params=[local, supabase], ids=lambda make: make.__name__)
async def bucket(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bucket]:
    async with request.param(tmp_path) as made:
        yield made


@pytest_asyncio.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient() as client:
        yield client


async def keys(bucket: Bucket, prefix: str = "") -> list[str]:
    return sorted([found.key async for found in bucket.list(prefix)])


@pytest.mark.parametrize(
    "key",
    ["", "/a.png", "../a.png", "a/../b.png", "a//b.png", "a b.png", "é.png", "a|b.png", "a/.png", "a\n.png"],
)
async def test_an_odd_key_is_refused(bucket: Bucket, key: str) -> None:
    with pytest.raises(InvalidKey):
        await bucket.put(key, b"x", PNG)
    with pytest.raises(InvalidKey):
        await bucket.get(key)
    with pytest.raises(InvalidKey):
        await bucket.sign_put(key, PNG, 10, 60)
    with pytest.raises(InvalidKey):
        await bucket.sign_get([key], 60)


async def test_a_key_ends_like_its_type(bucket: Bucket) -> None:
    with pytest.raises(InvalidKey):
        await bucket.put("a.png", b"x", "text/html")
    with pytest.raises(InvalidKey):
        await bucket.sign_put("a.png", "image/webp", 10, 60)


async def test_other_bytes_under_the_same_key_are_refused(bucket: Bucket) -> None:
    await bucket.put(KEY, b"one", PNG)
    await bucket.put(KEY, b"one", PNG)
    with pytest.raises(ObjectExists):
        await bucket.put(KEY, b"two", PNG)
    assert await bucket.get(KEY) == b"one"


async def test_a_file_is_put_like_its_bytes(bucket: Bucket, tmp_path: Path) -> None:
    file, content = tmp_path / "file", bytes(range(256)) * 4000
    file.write_bytes(content)
    await bucket.put_file(KEY, file, PNG)
    await bucket.put_file(KEY, file, PNG)
    assert await bucket.get(KEY) == content
    assert (await bucket.stat(KEY)).content_type == PNG
    for other in (content[:-1], content[:-1] + b"x"):
        file.write_bytes(other)
        with pytest.raises(ObjectExists):
            await bucket.put_file(KEY, file, PNG)
    with pytest.raises(InvalidKey):
        await bucket.put_file("../a.png", file, PNG)
    assert await bucket.get(KEY) == content
    assert await keys(bucket) == [KEY]


async def test_a_missing_object_is_missing(bucket: Bucket) -> None:
    with pytest.raises(ObjectMissing):
        await bucket.get(KEY)
    with pytest.raises(ObjectMissing):
        await bucket.stat(KEY)
    with pytest.raises(ObjectMissing):
        _ = [piece async for piece in bucket.stream(KEY)]
    assert await bucket.sign_get([KEY], 60) == {}
    assert await bucket.delete([KEY]) == []


async def test_what_was_put_is_found_listed_and_deleted(bucket: Bucket) -> None:
    await bucket.check()
    await bucket.put(KEY, b"picture", PNG)
    info = await bucket.stat(KEY)
    assert (info.key, info.bytes, info.content_type) == (KEY, 7, PNG)
    assert abs(info.created_at.timestamp() - time.time()) < 60
    assert await keys(bucket, "user/") == [KEY]
    assert await keys(bucket, "other/") == []
    assert await bucket.delete([KEY, "user/none.png"]) == [KEY]
    assert await keys(bucket) == []


async def test_a_part_of_an_object_is_streamed(bucket: Bucket) -> None:
    content = bytes(range(256)) * 4000
    await bucket.put(KEY, content, PNG)

    async def read(first: int = 0, last: int | None = None) -> bytes:
        return b"".join([piece async for piece in bucket.stream(KEY, first, last)])

    assert await read() == content
    assert await read(1000) == content[1000:]
    assert await read(3, 3) == content[3:4]
    assert await read(300_000, 700_000) == content[300_000:700_001]


async def test_many_keys_are_signed_at_once_and_missing_ones_left_out(
    bucket: Bucket, http: httpx.AsyncClient
) -> None:
    wanted = [f"user/{n}.png" for n in range(5)]
    for key in wanted:
        await bucket.put(key, key.encode(), PNG)
    signed = await bucket.sign_get([*wanted, "user/none.png"], 60)
    assert sorted(signed) == wanted
    for key, address in signed.items():
        answer = await http.get(address)
        assert (answer.content, answer.headers["content-type"]) == (key.encode(), PNG)


def changed(address: str, **values: str) -> str:
    parts = urlsplit(address)
    return urlunsplit(parts._replace(query=urlencode(dict(parse_qsl(parts.query)) | values)))


async def test_a_signature_holds_for_one_key_only(bucket: Bucket, http: httpx.AsyncClient) -> None:
    for key in (KEY, "user/job/1-1-1.png"):
        await bucket.put(key, b"picture", PNG)
    address = (await bucket.sign_get([KEY], 60))[KEY]
    assert (await http.get(address)).status_code == 200
    other = address.replace("1-1-0.png", "1-1-1.png")
    assert 400 <= (await http.get(other)).status_code < 500
    assert 400 <= (await http.get(address.partition("?")[0])).status_code < 500
    assert 400 <= (await http.put(address, content=b"x", headers={"content-type": PNG})).status_code < 500
    assert await bucket.get(KEY) == b"picture"


async def test_an_upload_goes_to_a_signed_address_once(bucket: Bucket, http: httpx.AsyncClient) -> None:
    signed = await bucket.sign_put(KEY, PNG, 5_000_000, 3600)
    assert signed.method == "PUT"
    assert signed.expires_at.timestamp() > time.time() + 60
    content = bytes(3_000_000)
    answer = await http.put(signed.url, content=content, headers=signed.headers)
    assert (answer.status_code, answer.json()["Key"].endswith(KEY)) == (200, True), answer.text
    assert ((await bucket.stat(KEY)).bytes, (await bucket.stat(KEY)).content_type) == (3_000_000, PNG)
    again = await http.put(signed.url, content=b"other", headers=signed.headers)
    assert "409" in (str(again.status_code), again.json().get("statusCode"))
    assert await bucket.get(KEY) == content


# What only the local bucket promises.


async def test_a_signed_download_does_not_allow_an_upload(tmp_path: Path, http: httpx.AsyncClient) -> None:
    async with local(tmp_path) as bucket:
        await bucket.put(KEY, b"picture", PNG)
        address = (await bucket.sign_get([KEY], 60))[KEY]
        await bucket.delete([KEY])
        forged = changed(address, content_type=PNG, max_bytes="100")
        assert (await http.put(forged, content=b"x", headers={"content-type": PNG})).status_code == 404
        assert await keys(bucket) == []


@pytest.mark.parametrize(
    "forgery",
    [{"max_bytes": "1000000"}, {"content_type": "image/webp"}, {"expires": "9999999999"}, {"signature": "é"}],
)
async def test_no_condition_of_an_upload_can_be_changed(
    tmp_path: Path, http: httpx.AsyncClient, forgery: dict[str, str]
) -> None:
    async with local(tmp_path) as bucket:
        signed = await bucket.sign_put(KEY, PNG, 10, 60)
        kind = forgery.get("content_type", PNG)
        answer = await http.put(changed(signed.url, **forgery), content=b"x", headers={"content-type": kind})
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
        assert await keys(bucket) == []


async def test_an_upload_of_another_type_or_too_late_is_refused(
    tmp_path: Path, http: httpx.AsyncClient
) -> None:
    async with local(tmp_path) as bucket:
        signed = await bucket.sign_put(KEY, PNG, 10, 60)
        answer = await http.put(signed.url, content=b"x", headers={"content-type": "text/html"})
        assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")
        late = await bucket.sign_put(KEY, PNG, 10, -1)
        assert (await http.put(late.url, content=b"x", headers=late.headers)).status_code == 404
        assert await keys(bucket) == []


@pytest.mark.parametrize("declared", [True, False], ids=["declared", "chunked"])
async def test_an_upload_past_its_size_is_refused_and_leaves_nothing(
    tmp_path: Path, http: httpx.AsyncClient, declared: bool
) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(4):
            yield bytes(1_000_000)

    async with local(tmp_path) as bucket:
        signed = await bucket.sign_put(KEY, PNG, 2_000_000, 60)
        content = bytes(2_000_001) if declared else pieces()
        answer = await http.put(signed.url, content=content, headers=signed.headers)
        assert (answer.status_code, answer.json()["code"]) == (413, "payload_too_large")
        assert [path for path in bucket.folder.rglob("*") if path.is_file()] == []


async def test_what_a_killed_write_left_is_no_object_and_is_discarded(tmp_path: Path) -> None:
    async with local(tmp_path) as bucket:
        await bucket.put(KEY, b"picture", PNG)
        part = bucket.folder / "user" / ".part-killed"
        part.write_bytes(b"half a pic")
        now = datetime.datetime.now(datetime.UTC)
        assert await keys(bucket) == [KEY]
        assert await bucket.discard_unfinished(now - datetime.timedelta(hours=1)) == 0
        assert await bucket.discard_unfinished(now + datetime.timedelta(hours=1)) == 1
        assert (part.exists(), await bucket.get(KEY)) == (False, b"picture")


async def test_an_expired_address_serves_nothing(tmp_path: Path, http: httpx.AsyncClient) -> None:
    async with local(tmp_path) as bucket:
        await bucket.put(KEY, b"picture", PNG)
        assert (await http.get((await bucket.sign_get([KEY], -1))[KEY])).status_code == 404
