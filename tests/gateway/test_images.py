"""Pictures over HTTP: how they are served, deleted and brought back."""

import hashlib
import io
from typing import Any
from uuid import uuid4

import httpx
import pytest
from PIL import Image

from tests.support.stack import Stack, User


async def drawn(user: User, **body: Any) -> dict[str, Any]:
    job = await user.create(prompt="a card", size="64x64", wait=30, **body)
    assert job["status"] == "completed", job["error"]
    return dict(job["images"][0])


@pytest.fixture
def anybody(product: Stack) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=product.url)


# How they are served


async def test_a_public_picture_is_for_every_page_and_for_ever(
    product: Stack, anybody: httpx.AsyncClient
) -> None:
    image = await drawn(product.user)
    for address, kind in ((image["url"], "image/png"), (image["thumbnail_url"], "image/webp")):
        answer = await anybody.get(address)
        assert (answer.status_code, answer.headers["content-type"]) == (200, kind)
        assert answer.headers["access-control-allow-origin"] == "*"
        assert answer.headers["cross-origin-resource-policy"] == "cross-origin"
        assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert answer.headers["x-content-type-options"] == "nosniff"
    answer = await anybody.get(image["url"])
    assert hashlib.sha256(answer.content).hexdigest() == image["sha256"]
    assert answer.headers["etag"] == f'"{image["sha256"]}"'


async def test_a_private_picture_is_served_to_its_owner_and_at_a_signed_address(
    product: Stack, anybody: httpx.AsyncClient
) -> None:
    image = await drawn(product.user, visibility="private")
    assert (await anybody.get(f"/images/{image['id']}.png")).status_code == 404
    assert (await anybody.get(f"/images/{image['id']}/thumbnail.webp")).status_code == 404
    signed = await anybody.get(image["url"])
    assert hashlib.sha256(signed.content).hexdigest() == image["sha256"]
    assert signed.headers["cache-control"] == "private, no-store"
    assert signed.headers["access-control-allow-origin"] == "*"
    own = await product.user.http.get(f"/v1/images/{image['id']}/content")
    assert own.content == signed.content
    assert "access-control-allow-origin" not in own.headers


async def test_a_thumbnail_has_the_size_that_is_asked_for_and_a_tag_of_its_own(
    product: Stack, anybody: httpx.AsyncClient
) -> None:
    job = await product.user.create(prompt="a card", size="512x256", wait=30)
    image = job["images"][0]
    private = f"/v1/images/{image['id']}/thumbnail"
    for client, address in ((anybody, image["thumbnail_url"]), (product.user.http, private)):
        tags = set()
        for query, size in (({}, (384, 192)), ({"size": 384}, (384, 192)), ({"size": 96}, (96, 48))):
            answer = await client.get(address, params=query)
            with Image.open(io.BytesIO(answer.content)) as small:
                assert (small.format, small.size) == ("WEBP", size)
            again = await client.get(address, params=query, headers={"if-none-match": answer.headers["etag"]})
            assert again.status_code == 304
            tags.add(answer.headers["etag"])
        assert len(tags) == 2
        for size in (0, 15, 385, "large"):
            assert (await client.get(address, params={"size": size})).status_code == 422
    (row,) = product.rows("select key from public.generated_assets where id = %s", image["id"])
    kept = [key for key in product.objects() if key.startswith(row["key"])]
    assert kept == [row["key"], f"{row['key']}.thumbnail.webp"]


@pytest.mark.parametrize(
    ("wanted", "first", "last"),
    [("bytes=0-9", 0, 9), ("bytes=10-", 10, None), ("bytes=-7", -7, None), ("bytes=5-999999999", 5, None)],
)
async def test_a_range_of_a_picture_is_served(
    product: Stack, anybody: httpx.AsyncClient, wanted: str, first: int, last: int | None
) -> None:
    for visibility in ("public", "private"):
        image = await drawn(product.user, visibility=visibility)
        whole = (await anybody.get(image["url"])).content
        part = whole[first:] if last is None else whole[first : last + 1]
        answer = await anybody.get(image["url"], headers={"range": wanted})
        assert (answer.status_code, answer.content) == (206, part)
        start = first % len(whole)
        assert answer.headers["content-range"] == f"bytes {start}-{start + len(part) - 1}/{len(whole)}"
        assert answer.headers["content-length"] == str(len(part))


async def test_a_range_past_the_end_is_refused(product: Stack) -> None:
    image = await drawn(product.user)
    answer = await product.user.http.get(
        f"/v1/images/{image['id']}/content", headers={"range": "bytes=99999999-"}
    )
    assert (answer.status_code, answer.json()["code"]) == (416, "range_not_satisfiable")
    assert answer.headers["content-range"] == f"bytes */{image['bytes']}"


@pytest.mark.parametrize(
    "headers",
    [
        {"range": "bytes=0-1,3-4"},
        {"range": "lines=0-1"},
        {"range": "bytes=9-2"},
        {"range": "bytes=-"},
        {"range": "bytes=0-9", "if-range": '"of other bytes"'},
    ],
)
async def test_a_range_that_is_not_understood_means_the_whole(
    product: Stack, anybody: httpx.AsyncClient, headers: dict[str, str]
) -> None:
    image = await drawn(product.user)
    answer = await anybody.get(image["url"], headers=headers)
    assert (answer.status_code, len(answer.content)) == (200, image["bytes"])


@pytest.mark.parametrize("form", ["{}", "W/{}", '"another", {}', "*"])
async def test_what_the_caller_has_is_not_sent_again(
    product: Stack, anybody: httpx.AsyncClient, form: str
) -> None:
    image = await drawn(product.user)
    tag = f'"{image["sha256"]}"'
    answer = await anybody.get(image["url"], headers={"if-none-match": form.format(tag)})
    assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", tag)


async def test_head_tells_what_get_would_send(product: Stack, anybody: httpx.AsyncClient) -> None:
    image = await drawn(product.user)
    for client, address in (
        (anybody, image["url"]),
        (product.user.http, f"/v1/images/{image['id']}/content"),
    ):
        head, get = await client.head(address), await client.get(address)
        assert (head.status_code, head.content) == (200, b"")
        for name in ("content-length", "content-type", "etag", "cache-control", "accept-ranges"):
            assert head.headers[name] == get.headers[name]


async def test_a_download_has_a_name(product: Stack, anybody: httpx.AsyncClient) -> None:
    image = await drawn(product.user)
    for client, address in (
        (anybody, image["url"]),
        (product.user.http, f"/v1/images/{image['id']}/content"),
    ):
        answer = await client.get(address, params={"download": "1"})
        assert answer.headers["content-disposition"] == f'attachment; filename="{image["id"]}.png"'
        assert "content-disposition" not in (await client.get(address)).headers


async def test_a_picture_whose_bytes_are_gone_is_told_apart(product: Stack) -> None:
    image = await drawn(product.user)
    (row,) = product.rows("select key from public.generated_assets where id = %s", image["id"])
    (product.folder / "buckets" / "generated-designs" / row["key"]).unlink()
    for path in ("content", "thumbnail"):
        answer = await product.user.http.get(f"/v1/images/{image['id']}/{path}")
        assert (answer.status_code, answer.json()["code"]) == (404, "content_missing")
    product.rows(
        "update public.generated_assets set deleted_at = now() where id = %s returning 1", image["id"]
    )


async def test_pages_elsewhere_may_ask_before_they_upload(anybody: httpx.AsyncClient) -> None:
    asked = {"origin": "https://shop.example", "access-control-request-method": "PUT"}
    answer = await anybody.request("OPTIONS", "/files/uploads/a/b.png", headers=asked)
    assert answer.status_code == 204
    assert answer.headers["access-control-allow-origin"] == "*"
    assert "PUT" in answer.headers["access-control-allow-methods"]


# How they are listed


async def test_pictures_are_filtered_by_kind_and_job(product: Stack) -> None:
    user = product.new_user()
    first, second = await drawn(user), await drawn(user)

    async def listed(**query: str) -> list[str]:
        answer = await user.http.get("/v1/images", params=query)
        assert answer.status_code == 200, answer.text
        return [image["id"] for image in answer.json()["data"]]

    assert await listed() == [second["id"], first["id"]]
    assert await listed(job_id=first["job_id"]) == [first["id"]]
    assert await listed(kind="generation") == [second["id"], first["id"]]
    assert await listed(kind="scene") == []


@pytest.mark.parametrize("path", ["/v1/images", "/v1/jobs"])
async def test_a_list_has_a_tag_that_changes_with_it(product: Stack, path: str) -> None:
    user = product.new_user()
    image = await drawn(user)
    tag = (await user.http.get(path)).headers["etag"]
    again = await user.http.get(path, headers={"if-none-match": tag})
    assert (again.status_code, again.content) == (304, b"")
    await user.http.delete(f"/v1/images/{image['id']}")
    after = await user.http.get(path, headers={"if-none-match": tag})
    assert (after.status_code, after.headers["etag"] != tag) == (200, True)


# How they are deleted and brought back


async def test_nobody_deletes_or_restores_what_is_not_theirs(product: Stack) -> None:
    image = await drawn(product.user)
    other = product.new_user()
    for image_id in (image["id"], str(uuid4())):
        for answer in (
            await other.http.delete(f"/v1/images/{image_id}"),
            await other.http.post(f"/v1/images/{image_id}/restore"),
        ):
            assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    assert (await product.user.http.get(f"/v1/images/{image['id']}")).status_code == 200
    reader = product.new_user(("read",))
    assert (await reader.http.delete(f"/v1/images/{image['id']}")).status_code == 403


async def test_a_deleted_picture_is_seen_nowhere(product: Stack, anybody: httpx.AsyncClient) -> None:
    user = product.new_user()
    image = await drawn(user)
    before = (await user.http.get(f"/v1/jobs/{image['job_id']}")).headers["etag"]
    answer = await user.http.delete(f"/v1/images/{image['id']}")
    assert (answer.status_code, answer.content) == (204, b"")
    for path in ("", "/content", "/thumbnail"):
        assert (await user.http.get(f"/v1/images/{image['id']}{path}")).status_code == 404
    assert (await anybody.get(image["url"])).status_code == 404
    assert (await anybody.get(image["thumbnail_url"])).status_code == 404
    assert (await user.http.get("/v1/images")).json()["data"] == []
    job = await user.http.get(f"/v1/jobs/{image['job_id']}", headers={"if-none-match": before})
    assert (job.status_code, job.json()["images"], job.json()["status"]) == (200, [], "completed")


async def test_deleting_twice_is_deleting_once(product: Stack) -> None:
    image = await drawn(product.user)
    for _ in range(2):
        assert (await product.user.http.delete(f"/v1/images/{image['id']}")).status_code == 204
    rows = product.rows(
        """select d.reason, round(extract(epoch from d.wake_at - a.deleted_at) / 86400) as days
           from private.deletions d, public.generated_assets a
           where a.id = %s and starts_with(d.key, a.key)""",
        image["id"],
    )
    assert rows == [{"reason": "deleted", "days": 7}] * 2  # the picture and its thumbnail


async def test_a_restored_picture_is_as_it_was(product: Stack, anybody: httpx.AsyncClient) -> None:
    image = await drawn(product.user)
    await product.user.http.delete(f"/v1/images/{image['id']}")
    for _ in range(2):
        restored = await product.user.http.post(f"/v1/images/{image['id']}/restore")
        assert (restored.status_code, restored.json()) == (200, image)
    assert (await anybody.get(image["url"])).status_code == 200
    assert product.rows("select 1 from private.deletions where key like %s", f"%/{image['job_id']}/%") == []


async def test_a_picture_cannot_be_restored_after_seven_days(product: Stack) -> None:
    image = await drawn(product.user)
    await product.user.http.delete(f"/v1/images/{image['id']}")
    product.rows(
        "update public.generated_assets set deleted_at = now() - interval '7 days 1 second' "
        "where id = %s returning 1",
        image["id"],
    )
    answer = await product.user.http.post(f"/v1/images/{image['id']}/restore")
    assert (answer.status_code, answer.json()["code"]) == (409, "restore_window_over")


async def test_the_bytes_outlive_the_jobs_that_were_asked_to_draw_from_them(product: Stack) -> None:
    """A job ends within its deadline, 24 hours at most; the grace is longer."""
    image = await drawn(product.user)
    await product.user.http.delete(f"/v1/images/{image['id']}")
    (row,) = product.rows("select key from public.generated_assets where id = %s", image["id"])
    assert (product.folder / "buckets" / "generated-designs" / row["key"]).is_file()
    (due,) = product.rows("select wake_at - now() as grace from private.deletions where key = %s", row["key"])
    assert due["grace"].days >= 6
