"""Pictures that users bring: what is refused leaves nothing behind, what is kept is clean."""

import asyncio
import io
import struct
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from PIL import Image

from gateway.auth import Principal
from gateway.outside import OutsideError
from gateway.pictures import MAX_BYTES, PictureRefused
from gateway.uploads.service import Uploads
from tests.gateway.test_pictures import drawn, encoded, jpeg_of, png_of, with_metadata
from tests.support.stack import Stack, User

TAIL = b"PK\x03\x04 an archive, <script>alert(1)</script>"


@pytest.fixture
def user(product: Stack) -> User:
    """Somebody whose bucket is empty."""
    return product.new_user()


@pytest.fixture
def uploads(product: Stack) -> Uploads:
    assert product.app is not None
    service: Uploads = product.app.state.uploads
    return service


def objects(product: Stack, user: User) -> list[str]:
    return [key for key in product.objects("uploads") if key.startswith(f"{user.id}/")]


def rows(product: Stack, user: User) -> list[dict[str, Any]]:
    return product.rows("select * from public.uploads where user_id = %s", user.id)


def as_principal(user: User) -> Principal:
    return Principal(UUID(str(user.id)), "key:of the tests", frozenset({"generate", "read"}))


async def announce(user: User, **body: Any) -> httpx.Response:
    described = {"filename": "me.jpg", "content_type": "image/jpeg", "bytes": 1000, **body}
    return await user.http.post("/v1/uploads", json=described)


async def send(user: User, content: bytes, content_type: str = "image/png", filename: str = "me.png") -> str:
    """The id of an upload whose file has arrived."""
    ticket = (await announce(user, filename=filename, content_type=content_type, bytes=len(content))).json()
    async with httpx.AsyncClient() as stranger:  # the address is the only credential
        sent = await stranger.request(
            ticket["method"], ticket["url"], content=content, headers=ticket["headers"]
        )
    assert sent.status_code == 200, sent.text
    return str(ticket["upload_id"])


async def complete(user: User, upload_id: str) -> httpx.Response:
    return await user.http.post(f"/v1/uploads/{upload_id}/complete")


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"content_type": "image/gif"}, 415, "unsupported_media_type"),
        ({"content_type": "text/html"}, 415, "unsupported_media_type"),
        ({"filename": "pixel.safetensors"}, 415, "unsupported_media_type"),
        ({"bytes": MAX_BYTES + 1}, 413, "picture_too_large"),
        ({"bytes": 10**12}, 413, "picture_too_large"),
        ({"bytes": 0}, 422, "validation_failed"),
        ({"bytes": "many"}, 422, "validation_failed"),
        ({"filename": ""}, 422, "validation_failed"),
        ({"filename": "a\x00b"}, 422, "validation_failed"),
        ({"key": "somebody/else.png"}, 422, "validation_failed"),
    ],
)
async def test_what_cannot_be_a_picture_is_refused_before_it_is_sent(
    product: Stack, user: User, body: dict[str, Any], status: int, code: str
) -> None:
    answer = await announce(user, **body)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert not rows(product, user)


async def test_a_stranger_and_a_reader_bring_nothing(product: Stack) -> None:
    reader = product.new_user(("read",))
    assert (await announce(reader)).json()["code"] == "forbidden"
    reader.http.headers["authorization"] = "Bearer tk_nobody"
    assert (await announce(reader)).json()["code"] == "unauthenticated"


HOSTILE = {
    "a text named .png": (b"I am a picture, really", 400, "not_a_picture"),
    "a page": (b"<html><script>alert(1)</script></html>", 400, "not_a_picture"),
    "a GIF": (encoded(drawn(), "GIF"), 415, "unsupported_media_type"),
    "a JPEG of 100 megapixels": (jpeg_of(10_000, 10_000), 400, "too_many_pixels"),
    "a PNG of four thousand megapixels": (png_of(65_000, 65_000), 400, "too_many_pixels"),
    "half a PNG": (encoded(Image.effect_noise((64, 64), 99), "PNG")[:2000], 400, "picture_broken"),
}


@pytest.mark.parametrize(("content", "status", "code"), HOSTILE.values(), ids=HOSTILE.keys())
async def test_what_is_no_picture_is_refused_and_leaves_nothing_behind(
    product: Stack, user: User, content: bytes, status: int, code: str
) -> None:
    upload_id = await send(user, content)
    assert len(objects(product, user)) == 1
    for _ in range(2):  # the second answer is the first
        answer = await complete(user, upload_id)
        assert (answer.status_code, answer.json()["code"]) == (status, code)
    upload = (await user.http.get(f"/v1/uploads/{upload_id}")).json()
    assert (upload["status"], upload["error"]["code"], upload["url"]) == ("failed", code, None)
    assert objects(product, user) == []


async def test_more_than_was_announced_is_not_taken(product: Stack, user: User) -> None:
    ticket = (await announce(user, bytes=100)).json()
    answer = await user.http.put(ticket["url"], content=bytes(101), headers=ticket["headers"])
    assert answer.status_code == 413
    assert (await complete(user, ticket["upload_id"])).json()["code"] == "upload_missing"
    assert objects(product, user) == []


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
async def test_a_photo_with_its_place_and_a_tail_is_kept_without_either(
    product: Stack, user: User, kind: str
) -> None:
    sent = with_metadata(drawn(48, 32), kind) + TAIL
    upload = (await complete(user, await send(user, sent, f"image/{kind.lower()}"))).json()
    assert (upload["status"], upload["width"], upload["height"]) == ("ready", 48, 32)
    kept = (await user.http.get(f"/v1/uploads/{upload['id']}/content")).content
    for secret in (b"SECRET", b"Exif", b"PK\x03\x04", b"script"):
        assert secret in sent or secret == b"Exif"
        assert secret not in kept
    assert len(kept) == upload["bytes"]
    (key,) = objects(product, user)
    assert key.startswith(f"{user.id}/{upload['id']}/picture.")


async def test_the_picture_is_served_to_its_owner_and_at_a_signed_address(user: User) -> None:
    upload = (await complete(user, await send(user, encoded(drawn(), "PNG")))).json()
    path = f"/v1/uploads/{upload['id']}/content"
    answer = await user.http.get(path)
    assert answer.headers["content-type"] == upload["content_type"] == "image/png"
    again = await user.http.get(path, headers={"if-none-match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    async with httpx.AsyncClient() as stranger:
        assert (await stranger.get(upload["url"])).content == answer.content
        assert (await stranger.get(upload["url"].replace("signature=", "signature=0"))).status_code == 404
    assert upload["sha256"] in answer.headers["etag"]
    assert Image.open(io.BytesIO(answer.content)).tobytes() == drawn().tobytes()


async def test_another_users_upload_is_like_one_that_does_not_exist(product: Stack, user: User) -> None:
    upload_id, stranger = await send(user, encoded(drawn(), "PNG")), product.new_user()
    for method, path in (("GET", ""), ("POST", "/complete"), ("GET", "/content"), ("DELETE", "")):
        answers = [
            await stranger.http.request(method, f"/v1/uploads/{which}{path}")
            for which in (upload_id, uuid4())
        ]
        assert [answer.json()["code"] for answer in answers] == ["not_found", "not_found"]
    assert (await complete(user, upload_id)).status_code == 200


async def test_an_upload_waits_for_its_file(user: User) -> None:
    content = encoded(drawn(), "PNG")
    ticket = (await announce(user, content_type="image/png", bytes=len(content))).json()
    path = f"/v1/uploads/{ticket['upload_id']}"
    assert (await complete(user, ticket["upload_id"])).json()["code"] == "upload_missing"
    assert (await user.http.get(f"{path}/content")).json()["code"] == "upload_not_ready"
    assert (await user.http.get(path)).json()["status"] == "pending"
    await user.http.put(ticket["url"], content=content, headers=ticket["headers"])
    assert (await complete(user, ticket["upload_id"])).json()["status"] == "ready"


async def test_completing_at_once_and_again_is_completing_once(product: Stack, user: User) -> None:
    upload_id = await send(user, encoded(drawn(), "JPEG"), "image/jpeg")
    answers = await asyncio.gather(*(complete(user, upload_id) for _ in range(6)))
    answers.append(await complete(user, upload_id))
    assert [answer.status_code for answer in answers] == [200] * 7
    assert len({answer.json()["sha256"] for answer in answers}) == 1
    assert len(objects(product, user)) == 1


async def test_the_same_key_and_body_name_the_same_upload(product: Stack, user: User) -> None:
    content = encoded(drawn(), "PNG")
    body = {"filename": "me.png", "content_type": "image/png", "bytes": len(content)}
    headers = {"Idempotency-Key": "a"}
    first, again = [await user.http.post("/v1/uploads", json=body, headers=headers) for _ in range(2)]
    assert first.status_code == again.status_code == 201
    assert first.json()["upload_id"] == again.json()["upload_id"]
    assert (first.headers.get("Idempotent-Replayed"), again.headers["Idempotent-Replayed"]) == (None, "true")
    await user.http.put(again.json()["url"], content=content, headers=again.json()["headers"])
    assert (await complete(user, first.json()["upload_id"])).json()["status"] == "ready"
    other = await user.http.post("/v1/uploads", json={**body, "bytes": 7}, headers=headers)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    job = await user.http.post("/v1/jobs", json={"prompt": "a"}, headers=headers)
    assert (job.status_code, job.json()["code"]) == (422, "idempotency_key_reused")
    assert len(rows(product, user)) == 1


async def test_the_compatibility_path_announces_too(user: User) -> None:
    body = {"filename": "me.png", "content_type": "image/png", "bytes": 10}
    answer = await user.http.post("/api/upload", json=body)
    assert (answer.status_code, answer.json()["method"]) == (201, "PUT")
    assert set(answer.json()) == {"upload_id", "url", "method", "headers", "expires_at"}
    assert (await user.http.get(f"/v1/uploads/{answer.json()['upload_id']}")).json()["filename"] == "me.png"


async def test_a_deleted_upload_is_gone_with_its_picture(product: Stack, user: User) -> None:
    upload = (await complete(user, await send(user, encoded(drawn(), "PNG")))).json()
    assert (await user.http.delete(f"/v1/uploads/{upload['id']}")).status_code == 204
    assert objects(product, user) == []
    for answer in (
        await user.http.get(f"/v1/uploads/{upload['id']}"),
        await user.http.delete(f"/v1/uploads/{upload['id']}"),
        await user.http.get(upload["url"]),
    ):
        assert answer.status_code == 404


def make_due(product: Stack, user: User) -> None:
    product.rows(
        "update public.uploads set sweep_at = now(), expires_at = now() where user_id = %s returning 1",
        user.id,
    )


async def test_a_file_that_is_never_completed_is_swept(product: Stack, user: User, uploads: Uploads) -> None:
    upload_id = await send(user, encoded(drawn(), "PNG"))
    await uploads.sweep()
    assert len(objects(product, user)) == 1
    make_due(product, user)
    await uploads.sweep()
    assert objects(product, user) == []
    assert (await complete(user, upload_id)).json()["code"] == "upload_expired"
    assert rows(product, user)[0]["sweep_at"] is None


async def test_a_file_sent_once_more_after_its_picture_was_made_is_swept(
    product: Stack, user: User, uploads: Uploads
) -> None:
    content = encoded(drawn(), "PNG")
    ticket = (await announce(user, content_type="image/png", bytes=len(content))).json()
    for _ in range(2):
        await user.http.put(ticket["url"], content=content, headers=ticket["headers"])
        assert (await complete(user, ticket["upload_id"])).status_code == 200
    assert len(objects(product, user)) == 2
    make_due(product, user)
    await uploads.sweep()
    assert [key.rpartition("/")[2] for key in objects(product, user)] == ["picture.png"]
    assert (await user.http.get(f"/v1/uploads/{ticket['upload_id']}/content")).status_code == 200


async def test_what_a_dead_gateway_left_half_done_is_swept(
    product: Stack, user: User, uploads: Uploads
) -> None:
    upload_id = await send(user, encoded(drawn(), "PNG"))
    key = f"{user.id}/{upload_id}/picture.png"
    product.rows("update public.uploads set key = %s where id = %s returning 1", key, upload_id)
    assert product.app is not None
    await product.app.state.buckets["uploads"].put(key, b"stored, and then the power went", "image/png")
    make_due(product, user)
    await uploads.sweep()
    assert objects(product, user) == []


async def test_bytes_from_another_slice_are_taken_or_leave_nothing(
    product: Stack, user: User, uploads: Uploads
) -> None:
    caller = as_principal(user)
    for content in (b"no picture", struct.pack("<100x")):
        with pytest.raises(PictureRefused):
            await uploads.take(caller, content, "a.png")
    assert not rows(product, user) and not objects(product, user)
    row = await uploads.take(caller, encoded(drawn(), "PNG"), "\x00\ud800")
    assert (row["status"], row["filename"]) == ("ready", "picture")
    assert rows(product, user)[0]["sweep_at"] is None
    picture = await uploads.picture(caller, row["id"])
    assert (picture.bucket, [picture.key], picture.width) == ("uploads", objects(product, user), 48)


async def test_an_address_into_our_own_network_is_not_fetched(
    product: Stack, user: User, uploads: Uploads
) -> None:
    for url in (f"{product.url}/healthz", "http://169.254.169.254/latest/meta-data", "file:///etc/passwd"):
        with pytest.raises(OutsideError) as refused:
            await uploads.fetch(as_principal(user), url)
        assert refused.value.code == "url_refused"
    assert not rows(product, user)


async def test_a_user_writes_no_row_not_even_their_own(product: Stack, user: User) -> None:
    upload_id = await send(user, encoded(drawn(), "PNG"))
    assert product.app is not None
    async with product.app.state.db.as_user(as_principal(user)) as connection:
        found = await (await connection.execute("select id from public.uploads")).fetchall()
        assert [str(row["id"]) for row in found] == [upload_id]
        with pytest.raises(Exception, match="permission denied"):
            await connection.execute("update public.uploads set key = 'somebody/else.png'")
