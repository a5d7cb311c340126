"""The local bucket: written once, never replaced, reached by signed address."""

from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from gateway.storage import InvalidKey, LocalBucket, ObjectExists, ObjectMissing

KEY = "user/job/1-1-0.png"


@pytest.fixture
def bucket(tmp_path: Path) -> LocalBucket:
    return LocalBucket(tmp_path, name="b", signing_key="k", base_url="http://here")


@pytest.mark.parametrize(
    "key",
    ["", "/a.png", "../a.png", "a/../b.png", "a//b.png", "a b.png", "é.png", "a|b.png", "a/.png", "a\n.png"],
)
async def test_an_odd_key_is_refused(bucket: LocalBucket, key: str) -> None:
    with pytest.raises(InvalidKey):
        await bucket.put(key, b"x", "image/png")
    with pytest.raises(InvalidKey):
        await bucket.get(key)


async def test_a_key_ends_like_its_type(bucket: LocalBucket) -> None:
    with pytest.raises(InvalidKey):
        await bucket.put("a.png", b"x", "text/html")


async def test_other_bytes_under_the_same_key_are_refused(bucket: LocalBucket) -> None:
    await bucket.put(KEY, b"one", "image/png")
    await bucket.put(KEY, b"one", "image/png")
    with pytest.raises(ObjectExists):
        await bucket.put(KEY, b"two", "image/png")
    assert await bucket.get(KEY) == b"one"


async def test_a_missing_object_is_missing(bucket: LocalBucket) -> None:
    with pytest.raises(ObjectMissing):
        await bucket.get(KEY)
    with pytest.raises(ObjectMissing):
        await bucket.stat(KEY)
    assert await bucket.delete([KEY]) == []


async def test_what_was_put_is_found_listed_and_deleted(bucket: LocalBucket) -> None:
    await bucket.put(KEY, b"picture", "image/png")
    info = await bucket.stat(KEY)
    assert (info.bytes, info.content_type) == (7, "image/png")
    assert [found.key async for found in bucket.list("user/")] == [KEY]
    assert [found.key async for found in bucket.list("other/")] == []
    assert await bucket.delete([KEY, "user/none.png"]) == [KEY]
    assert [found.key async for found in bucket.list()] == []


def test_a_signature_holds_for_one_key_and_one_time(bucket: LocalBucket) -> None:
    parts = urlsplit(bucket.sign_get(KEY, 60))
    query = parse_qs(parts.query)
    expires, signature = int(query["expires"][0]), query["signature"][0]
    assert parts.path == f"/files/b/{KEY}"
    assert bucket.accepts(KEY, expires, signature)
    assert not bucket.accepts("user/job/1-1-1.png", expires, signature)
    assert not bucket.accepts(KEY, expires + 1, signature)
    expired = parse_qs(urlsplit(bucket.sign_get(KEY, -1)).query)
    assert not bucket.accepts(KEY, int(expired["expires"][0]), expired["signature"][0])
