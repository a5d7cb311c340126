"""Addresses in answers: signed for a whole page at once, and only for private pictures."""

import datetime
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from gateway.jobs.rendering import Renderer
from gateway.storage import StorageError
from gateway.storage.local import LocalBucket

HERE = "http://gateway"


class Counting(LocalBucket):
    """A bucket that remembers what it was asked to sign."""

    def __init__(self, folder: Path, name: str) -> None:
        super().__init__(folder, name=name, signing_key="k", base_url=HERE)
        self.signed: list[list[str]] = []
        self.broken = False

    async def sign_get(self, keys: Iterable[str], expires_in: int) -> dict[str, str]:
        self.signed.append(list(keys))
        if self.broken:
            raise StorageError("down")
        return await super().sign_get(self.signed[-1], expires_in)


@pytest.fixture
def designs(tmp_path: Path) -> Counting:
    return Counting(tmp_path, "generated-designs")


@pytest.fixture
def uploads(tmp_path: Path) -> Counting:
    return Counting(tmp_path, "uploads")


@pytest.fixture
def renderer(designs: Counting, uploads: Counting) -> Renderer:
    """Of pictures only: jobs would need their plans and an estimator."""
    nobody: Any = None
    return Renderer(HERE, {bucket.name: bucket for bucket in (designs, uploads)}, {}, nobody)


async def picture(bucket: LocalBucket, visibility: str) -> dict[str, Any]:
    key = f"user/{uuid4()}.png"
    await bucket.put(key, b"x", "image/png")
    return {
        **{"id": uuid4(), "job_id": uuid4(), "n": 0, "kind": "generation", "bucket": bucket.name, "key": key},
        **{"width": 8, "height": 8, "content_type": "image/png", "bytes": 1, "sha256": "0" * 64, "seed": 1},
        **{"visibility": visibility, "created_at": datetime.datetime.now(datetime.UTC)},
    }


async def test_public_pictures_are_not_signed(renderer: Renderer, designs: Counting) -> None:
    assets = [await picture(designs, "public") for _ in range(3)]
    shown = await renderer.images(assets)
    assert [image.url for image in shown] == [f"{HERE}/images/{asset['id']}.png" for asset in assets]
    assert designs.signed == []


async def test_private_pictures_of_a_page_are_signed_in_one_call_for_each_bucket(
    renderer: Renderer, designs: Counting, uploads: Counting
) -> None:
    assets = [await picture(bucket, "private") for bucket in (designs, uploads, designs)]
    assets.append(await picture(designs, "public"))
    shown = await renderer.images(assets)
    for image, asset in zip(shown[:3], assets, strict=False):
        assert image.url.startswith(f"{HERE}/files/{asset['bucket']}/{asset['key']}?")
    assert designs.signed == [[assets[0]["key"], assets[2]["key"]]]
    assert uploads.signed == [[assets[1]["key"]]]


async def test_an_answer_does_not_fail_with_the_bucket(renderer: Renderer, designs: Counting) -> None:
    assets = [await picture(designs, "private")]
    designs.broken = True
    (image,) = await renderer.images(assets)
    assert image.url == f"{HERE}/v1/images/{assets[0]['id']}/content"
