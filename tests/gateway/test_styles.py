"""House styles over HTTP, with their pictures."""

import io

import httpx
import pytest
from PIL import Image

from tests.support.stack import Stack


@pytest.mark.parametrize("path", ["/v1/styles/design/cubism", "/v1/styles/nothing/anime", "/v1/styles?set=x"])
async def test_a_style_that_is_not_there_is_not_found(product: Stack, path: str) -> None:
    assert (await product.user.http.get(path)).status_code == 404


async def test_a_preview_that_is_not_there_is_not_found(product: Stack) -> None:
    for path in ("/styles/design/cubism.webp", "/styles/..%2f..%2fsecret/x.webp"):
        assert (await product.user.http.get(path)).status_code == 404


async def test_styles_are_for_callers_only(product: Stack) -> None:
    async with httpx.AsyncClient(base_url=product.url) as stranger:
        assert (await stranger.get("/v1/styles")).status_code == 401


async def test_every_style_is_listed_with_a_picture_anybody_may_see(product: Stack) -> None:
    listed = (await product.user.http.get("/v1/styles")).json()
    assert [style["set"] for style in listed["data"]].count("design") == 9
    assert [style["set"] for style in listed["data"]].count("storybook") == 5
    async with httpx.AsyncClient() as stranger:
        for style in listed["data"]:
            answer = await stranger.get(style["preview_url"])
            assert answer.headers["content-type"] == "image/webp"
            assert Image.open(io.BytesIO(answer.content)).size == (384, 384)
            again = await stranger.get(
                style["preview_url"], headers={"If-None-Match": answer.headers["etag"]}
            )
            assert (again.status_code, again.content) == (304, b"")


async def test_one_style_is_told_by_its_id(product: Stack) -> None:
    style = (await product.user.http.get("/v1/styles/design/anime")).json()
    assert (style["id"], style["label"], style["version"]) == ("design/anime", "Anime", 1)
