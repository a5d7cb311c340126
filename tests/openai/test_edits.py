"""Edits as no SDK sends them: addresses, JSON, forms that are wrong; and one job for all tries of one."""

import asyncio
import base64
from typing import Any

import httpx
import pytest

from gateway.openai.edits import like
from tests.openai.calls import drawn, opened
from tests.support.stack import Stack, User

EDITS = "/v1/images/edits"
QUICK = {"prompt": "a", "size": "64x64", "num_inference_steps": "2"}
RED = drawn("red")
KEPT = "select id from public.uploads where user_id = %s and deleted_at is null"


@pytest.fixture
def user(product: Stack) -> User:
    return product.new_user()


async def edit(
    user: User, files: Any = None, headers: dict[str, str] | None = None, **fields: Any
) -> httpx.Response:
    sent = files if files is not None else [("image", ("a.png", RED, "image/png"))]
    return await user.http.post(EDITS, data={**QUICK, **fields}, files=sent, headers=headers)


def refused(answer: httpx.Response, status: int, code: str, param: str | None) -> None:
    problem = answer.json()
    assert (answer.status_code, problem["code"], problem["error"]["param"]) == (status, code, param), problem


async def test_more_files_than_a_form_may_have_are_refused(user: User) -> None:
    files = [("image[]", ("a.png", RED, "image/png"))] * 17
    refused(await edit(user, files), 413, "payload_too_large", None)


async def test_more_pictures_than_the_model_takes_are_refused_and_forgotten(
    user: User, product: Stack
) -> None:
    files = [("image[]", ("a.png", RED, "image/png"))] * 4
    refused(await edit(user, files), 400, "unsupported_parameter", "image")
    assert not product.rows(KEPT, user.id)


@pytest.mark.parametrize(
    ("content", "kind", "status", "code"),
    [
        (b"--x\r\nno form", "multipart/form-data; boundary=x", 422, "invalid_form"),
        (b"", "multipart/form-data", 422, "invalid_form"),
        (b"{", "application/json", 422, "invalid_json"),
        (b"[]", "application/json", 422, "validation_failed"),
        (b"a=b", "application/x-www-form-urlencoded", 415, "unsupported_media_type"),
        (b"", "", 415, "unsupported_media_type"),
    ],
)
async def test_a_body_that_is_no_form_is_refused(
    user: User, content: bytes, kind: str, status: int, code: str
) -> None:
    answer = await user.http.post(EDITS, content=content, headers={"content-type": kind})
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text


@pytest.mark.parametrize(
    "body",
    [
        b'{"prompt": "a", "\\ud800": 1}',
        b'{"prompt": "\\ud800"}',
        b'{"prompt": "a", "negative_prompt": "\\u0000"}',
        b'{"prompt": "a", "loras": "' + b"[" * 100_000 + b'"}',
        b'{"prompt": "a", "metadata": "5"}',
        b'{"prompt": "a", "metadata": [["request_id", 1]]}',
        b'{"prompt": "a", "references": "null", "mask": "{}"}',
        b'{"prompt": "a", "seed": 1e400}',
        b'{"prompt": "a", "model": "\\ud83d"}',
        b'{"prompt": "a", "size": "\xc2\xb2x\xc2\xb2"}',
    ],
)
@pytest.mark.parametrize("path", ["/v1/images/generations", EDITS])
async def test_hostile_json_is_refused(user: User, path: str, body: bytes) -> None:
    answer = await user.http.post(path, content=body, headers={"content-type": "application/json"})
    assert answer.status_code in (400, 422), answer.text


@pytest.mark.parametrize("name", ["a[b][c][d][e]", "metadata[][]", "prompt[a]", "\x00", "mask[]"])
async def test_hostile_names_of_a_form_are_refused(user: User, name: str) -> None:
    answer = await edit(user, **{name: "a"})
    assert answer.status_code in (400, 422), answer.text


NO_PICTURE = "data:image/png;base64,AAAA"


@pytest.mark.parametrize(
    ("images", "status", "code", "param"),
    [
        (None, 422, "missing_image", "image"),
        ([{"image_url": "data:image/png;base64,###"}], 422, "validation_failed", "images"),
        ([{"file_id": "no-id"}], 422, "validation_failed", "images"),
        ([1], 422, "validation_failed", "images"),
        ([{"image_url": "http://127.0.0.1:9/a.png"}], 400, "url_refused", "images"),
        ([NO_PICTURE], 400, "not_a_picture", "images"),
        ([{"file_id": "00000000-0000-0000-0000-000000000000"}], 404, "not_found", "images"),
    ],
)
async def test_json_that_makes_no_sense_is_refused_by_name(
    user: User, images: Any, status: int, code: str, param: str
) -> None:
    refused(await user.http.post(EDITS, json={"prompt": "a", "images": images}), status, code, param)
    lonely = await user.http.post(EDITS, json={"images": [NO_PICTURE]})
    refused(lonely, 422, "validation_failed", "prompt")


@pytest.mark.parametrize(("name", "address"), [("url", "ftp://a/b"), ("url[]", "http://localhost/a.png")])
async def test_addresses_into_our_own_network_are_refused(user: User, name: str, address: str) -> None:
    parts = {field: (None, value) for field, value in {**QUICK, name: address}.items()}
    refused(await user.http.post(EDITS, files=parts), 400, "url_refused", "url")


async def test_a_picture_may_come_in_json(user: User) -> None:
    address = f"data:image/png;base64,{base64.b64encode(RED).decode()}"
    body = {
        "prompt": "a",
        "images": [{"image_url": address}],
        "mask": {"image_url": address},
        "num_inference_steps": 2,
    }
    answer = await user.http.post(EDITS, json={**body, "metadata": {"flow_id": "f"}})
    assert answer.status_code == 200, answer.text
    assert opened(answer.json()["data"][0]["b64_json"]).size == (96, 64)


async def test_a_picture_may_be_one_that_was_uploaded_or_drawn(user: User, product: Stack) -> None:
    first = await edit(user)
    (upload,) = product.rows(KEPT, user.id)
    body = {"prompt": "a", "size": "64x64", "num_inference_steps": 2}
    again = await user.http.post(EDITS, json={**body, "images": [{"file_id": str(upload["id"])}]})
    assert again.status_code == 200, again.text
    image = {"image_id": first.json()["data"][0]["id"]}
    drawn_again = await user.http.post(EDITS, json={**body, "references": [image]})
    assert drawn_again.status_code == 200, drawn_again.text


async def test_a_form_may_spell_what_is_nested(user: User) -> None:
    fields = {"metadata[flow_id]": "f", "metadata[step]": "2"}
    answer = await edit(user, **fields)
    job = await user.job(answer.json()["job_id"])
    assert job["metadata"].items() >= {"flow_id": "f", "step": "2"}.items()
    wrong = await edit(user, **{"loras[][lora]": "sepia", "loras[][scale]": "0.5"})
    assert wrong.json()["error"]["param"] != "loras[][lora]"


async def test_a_repeated_form_makes_one_job_and_keeps_its_file_once(user: User, product: Stack) -> None:
    """The boundary differs from try to try; fields and files are the same."""
    first = await edit(user, headers={"x-stainless-retry-count": "0"})
    again = await edit(user, headers={"x-stainless-retry-count": "1"})
    assert (again.json(), again.headers["idempotent-replayed"]) == (first.json(), "true")
    assert len(product.rows(KEPT, user.id)) == 1
    blue = [("image", ("a.png", drawn("blue"), "image/png"))]
    other = await edit(user, blue, headers={"x-stainless-retry-count": "1"})
    assert other.json()["job_id"] != first.json()["job_id"]


async def test_a_key_replays_the_answer_to_the_same_files_only(user: User, product: Stack) -> None:
    headers = {"Idempotency-Key": "form"}
    first, again = await edit(user, headers=headers), await edit(user, headers=headers)
    assert (again.json(), again.headers["idempotent-replayed"]) == (first.json(), "true")
    blue = [("image", ("a.png", drawn("blue"), "image/png"))]
    refused(await edit(user, blue, headers=headers), 422, "idempotency_key_reused", "Idempotency-Key")
    assert len(product.rows(KEPT, user.id)) == 1


async def test_repeats_that_run_at_once_make_one_job_and_leave_one_upload(user: User, product: Stack) -> None:
    tries = (edit(user, headers={"x-stainless-retry-count": str(n)}) for n in range(1, 5))
    answers = await asyncio.gather(*tries)
    assert len({answer.json()["job_id"] for answer in answers}) == 1
    assert len(product.rows(KEPT, user.id)) == 1


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((96, 64), (96, 64)),
        ((1024, 1024), (1024, 1024)),
        ((1000, 500), (992, 496)),
        ((4000, 3000), (1536, 1152)),
        ((20, 20), (64, 64)),
        ((1, 4000), (512, 1536)),
        ((4000, 1), (1536, 512)),
    ],
)
def test_the_size_of_an_edit_is_that_of_its_picture(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert like(*size) == expected
    width, height = like(*size)
    assert max(width / height, height / width) <= 3
