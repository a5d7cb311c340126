"""Calls of OpenAI's unmodified SDK, each with a client that waits and with one that awaits.

Run as a program, by ``test_sdk.py`` and once for each version: takes BASE_URL, API_KEY, READER_KEY and
SPENT_KEY (of a user without a quota left) from the environment and prints
{"version", "results": {"<client> <call>": null, "skipped…" or a traceback}}.
"""

import asyncio
import base64
import inspect
import io
import json
import os
import sys
import traceback
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import openai
from PIL import Image

SMALL = {"size": "64x64"}
QUICK = {"num_inference_steps": 2}


class Skipped(Exception):
    """This version has no such call or option."""


class Client:
    """One of the SDK's two clients, called alike."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._made = openai.OpenAI if kind == "sync" else openai.AsyncOpenAI
        self.sdk = self.new()

    def new(self, key: str = "", **options: Any) -> Any:
        url = os.environ["BASE_URL"]
        return self._made(base_url=url, api_key=key or os.environ["API_KEY"], **options)

    async def call(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """The method's result, awaited where need be; Skipped when it lacks one of the arguments."""
        known = inspect.signature(method).parameters
        missing = [name for name in kwargs if name not in known]
        if missing and not any(p.kind == p.VAR_KEYWORD for p in known.values()):
            raise Skipped(", ".join(missing))
        result = method(*args, **kwargs)
        return await result if inspect.isawaitable(result) else result

    async def generate(self, prompt: str = "a fox", **kwargs: Any) -> Any:
        return await self.call(self.sdk.images.generate, prompt=prompt, **{**SMALL, **kwargs})

    async def items(self, found: Any) -> list[Any]:
        """What a stream or a page yields."""
        return [item async for item in found] if self.kind == "async" else list(found)

    async def refused(self, error: type[Exception], made: Awaitable[Any]) -> Any:
        """The error, which has to be of exactly this class."""
        try:
            await made
        except openai.OpenAIError as raised:
            assert type(raised) is error, f"{type(raised).__name__} instead of {error.__name__}: {raised}"
            return raised
        raise AssertionError(f"no {error.__name__}")


Call = Callable[[Client], Awaitable[None]]
CALLS: dict[str, Call] = {}


def call(function: Call) -> Call:
    CALLS[function.__name__] = function
    return function


def opened(data: str) -> Image.Image:
    picture = Image.open(io.BytesIO(base64.b64decode(data)))
    picture.load()
    return picture


@call
async def refuses_a_wrong_key(client: Client) -> None:
    strange = client.new("tk_nobody")
    await client.refused(openai.AuthenticationError, client.call(strange.models.list))
    await client.refused(
        openai.AuthenticationError, client.call(strange.images.generate, prompt="a", **SMALL)
    )


@call
async def refuses_a_key_without_the_scope(client: Client) -> None:
    reader = client.new(os.environ["READER_KEY"])
    error = await client.refused(
        openai.PermissionDeniedError, client.call(reader.images.generate, prompt="a")
    )
    assert (error.status_code, error.code, error.type) == (403, "forbidden", "permission_error")


@call
async def refuses_what_is_over_the_quota_at_once(client: Client) -> None:
    """Though the client would try twice more."""
    spent = client.new(os.environ["SPENT_KEY"], max_retries=2)
    error = await client.refused(
        openai.RateLimitError, client.call(spent.images.generate, prompt="a", **SMALL)
    )
    assert (error.status_code, error.code) == (429, "quota_exceeded")
    assert error.response.headers["x-should-retry"] == "false"
    assert error.response.request.headers.get("x-stainless-retry-count", "0") == "0"


@call
async def refuses_an_unknown_model(client: Client) -> None:
    error = await client.refused(openai.NotFoundError, client.call(client.sdk.models.retrieve, "no-such"))
    assert (error.code, error.param) == ("model_not_found", "model")
    error = await client.refused(openai.BadRequestError, client.generate(model="no-such"))
    assert (error.code, error.param) == ("unknown_model", "model")


@call
async def refuses_a_model_that_is_not_served(client: Client) -> None:
    error = await client.refused(openai.BadRequestError, client.generate(model="qwen-image"))
    assert (error.code, error.param) == ("model_unavailable", "model")


@call
async def refuses_malformed_input(client: Client) -> None:
    for wrong, param in (({"n": 11}, "n"), ({"n": 0}, "n"), ({"size": "64x65"}, "size")):
        error = await client.refused(openai.UnprocessableEntityError, client.generate(**wrong))
        assert (error.status_code, error.param) == (422, param), error.body
    error = await client.refused(openai.UnprocessableEntityError, client.generate(""))
    assert error.param == "prompt"


@call
async def refuses_what_it_cannot_do_by_name(client: Client) -> None:
    cannot: list[dict[str, Any]] = [
        {"background": "transparent"},
        {"output_format": "gif"},
        {"output_format": "svg"},
        {"complexity": "high"},
        {"frame_count": 4},
        {"negative_prompt": "green"},
        {"no_such_field": 1},
    ]
    for extra in cannot:
        error = await client.refused(openai.BadRequestError, client.generate(extra_body=extra))
        assert (error.code, error.param) == ("unsupported_parameter", next(iter(extra))), error.body


@call
async def takes_loras_as_a_list_or_as_json(client: Client) -> None:
    named: list[dict[str, Any]] = [{"lora": "no-such", "scale": 0.5}]
    for loras in (named, json.dumps(named)):
        error = await client.refused(openai.NotFoundError, client.generate(extra_body={"loras": loras}))
        assert error.param == "loras" and "no-such" in error.message
    wrong = client.generate(extra_body={"loras": "[{"})
    assert (await client.refused(openai.UnprocessableEntityError, wrong)).param == "loras"


@call
async def generates_a_picture(client: Client) -> None:
    answer = await client.generate()
    (data,) = answer.data
    picture = opened(data.b64_json)
    assert (picture.format, picture.size, data.url) == ("PNG", (64, 64), None)
    assert data.revised_prompt == "a fox"
    extra = answer.model_dump()
    assert (extra["size"], extra["output_format"], extra["background"]) == ("64x64", "png", "opaque")
    assert extra["quality"] in ("low", "medium", "high", "xhigh", "max")
    assert extra["job_id"] and extra["cost_usd_micros"] >= 0 and extra["created"] > 1_700_000_000
    used = extra["usage"]
    assert used["input_tokens"] == sum(used["input_tokens_details"].values()) == 2
    assert used["output_tokens"] == 64 * 64 // 256
    assert used["total_tokens"] == used["input_tokens"] + used["output_tokens"]


@call
async def generates_several_with_seeds(client: Client) -> None:
    answer = await client.generate(n=3, extra_body={"seed": 7})
    assert [data.model_extra["seed"] for data in answer.data] == [7, 8, 9]
    assert len({data.b64_json for data in answer.data}) == len(
        {data.model_extra["id"] for data in answer.data}
    )


@call
async def generates_the_same_from_the_same_seed(client: Client) -> None:
    first = await client.generate(extra_body={"seed": 3})
    again = await client.generate(extra_body={"seed": 3})
    assert first.data[0].b64_json == again.data[0].b64_json
    assert first.model_extra["job_id"] != again.model_extra["job_id"]


@call
async def gives_addresses(client: Client) -> None:
    by_url = await client.generate(response_format="url", extra_body={"seed": 5})
    (data,) = by_url.data
    assert data.b64_json is None
    same = await client.generate(extra_body={"seed": 5})
    content = httpx.get(data.url).content  # noqa: ASYNC210
    assert content == base64.b64decode(same.data[0].b64_json)


@call
async def understands_every_size(client: Client) -> None:
    for size, pixels in (
        ("auto", (1024, 1024)),
        ("256x256", (256, 256)),
        ("1792x1024", (1792, 1024)),
        ("1536x864", (1536, 864)),
        ("ref_portrait", (832, 1216)),
    ):
        answer = await client.generate(size=size)
        assert opened(answer.data[0].b64_json).size == pixels


@call
async def understands_every_quality(client: Client) -> None:
    for quality in ("auto", "standard", "hd", "low", "medium", "high", "xhigh", "max"):
        answer = await client.generate(quality=quality)
        expected = {"auto": "high", "standard": "high", "hd": "high"}.get(quality, quality)
        assert answer.model_dump()["quality"] == expected


@call
async def understands_every_format(client: Client) -> None:
    sizes = {}
    for name in ("png", "jpeg", "webp"):
        for compression in (10, 90):
            extra = {"output_format": name, "output_compression": compression, "seed": 1}
            answer = await client.generate("a fox on a hill", size="256x256", extra_body=extra)
            data = answer.data[0].b64_json
            assert (opened(data).format, answer.model_dump()["output_format"]) == (name.upper(), name)
            sizes[name, compression] = len(data)
    assert sizes["jpeg", 10] < sizes["jpeg", 90]


@call
async def understands_the_options_of_the_newest(client: Client) -> None:
    answer = await client.generate(
        background="auto", moderation="low", output_format="webp", output_compression=50
    )
    assert opened(answer.data[0].b64_json).format == "WEBP"


@call
async def understands_styles(client: Client) -> None:
    for style, words in (("vivid", "vivid"), ("natural", "natural"), ("Anime", "anime")):
        answer = await client.generate(style=style)
        assert words in answer.data[0].revised_prompt.lower()
    error = await client.refused(openai.BadRequestError, client.generate(style="no such style"))
    assert (error.code, error.param) == ("unknown_style", "style")


@call
async def takes_openais_names_for_the_default_model(client: Client) -> None:
    for model in ("gpt-image-1", "gpt-image-1.5", "gpt-image-2.5-flare-2026-09-08", "dall-e-2", "dall-e-3"):
        assert (await client.generate(model=model)).data[0].b64_json
    assert (await client.generate(model="instant")).data[0].b64_json
    alias = await client.call(client.sdk.models.retrieve, "gpt-image-1")
    assert (alias.id, alias.model_extra["alias_of"]) == ("gpt-image-1", "instant")


@call
async def keeps_who_asked(client: Client) -> None:
    answer = await client.generate(user="user-1", extra_body={"metadata": {"flow_id": "f"}})
    job = await client.call(client.sdk.get, f"/jobs/{answer.model_extra['job_id']}", cast_to=object)
    assert job["metadata"].items() >= {"user": "user-1", "flow_id": "f"}.items()
    assert answer.model_dump()["safety_identifier"] == "user-1"


@call
async def finds_the_job_by_the_id_of_the_request(client: Client) -> None:
    name = f"request-{os.urandom(8).hex()}"
    raw = await client.call(
        client.sdk.images.with_raw_response.generate,
        prompt="a",
        **SMALL,
        extra_headers={"x-request-id": name},
    )
    assert raw.headers["x-request-id"] == name
    job_id = raw.parse().model_extra["job_id"]
    assert raw.headers["location"] == f"/v1/jobs/{job_id}"
    found = await client.call(client.sdk.get, f"/jobs?metadata.request_id={name}", cast_to=object)
    assert [job["id"] for job in found["data"]] == [job_id]


@call
async def replays_a_key(client: Client) -> None:
    headers = {"Idempotency-Key": os.urandom(8).hex()}
    first = await client.generate(extra_headers=headers)
    again = await client.generate(extra_headers=headers)
    assert first == again
    error = await client.refused(
        openai.UnprocessableEntityError, client.generate("another", extra_headers=headers)
    )
    assert error.code == "idempotency_key_reused"


@call
async def lists_models(client: Client) -> None:
    models = await client.items(client.sdk.models.list())
    by_id = {model.id: model for model in models}
    assert {"instant", "tiny-qwen", "qwen-image", "qwen-image-edit-fast", "sdxl"} <= by_id.keys()
    available = [id for id, model in by_id.items() if model.model_extra["available"]]
    assert sorted(available) == ["instant", "tiny-qwen-edit"]
    row = by_id["qwen-image-fast"]
    assert (row.object, row.owned_by, row.model_extra["family"]) == ("model", "Qwen", "qwen")
    assert row.created > 1_700_000_000
    again = await client.call(client.sdk.models.retrieve, "qwen-image-fast")
    assert again == row


@call
async def streams(client: Client) -> None:
    for partial_images in (0, 1, 2, 3):
        stream = await client.call(
            client.sdk.images.generate,
            prompt="a fox",
            **SMALL,
            n=2,
            stream=True,
            partial_images=partial_images,
            extra_body={"seed": 5},
        )
        events = await client.items(stream)
        done = [event for event in events if event.type == "image_generation.completed"]
        assert {event.type for event in events} <= {
            "image_generation.completed",
            "image_generation.partial_image",
        }
        assert [event.model_extra["seed"] for event in done] == [5, 6]
        for event in done:
            assert opened(event.b64_json).size == (64, 64)
            assert (event.size, event.output_format, event.background) == ("64x64", "png", "opaque")
            assert event.usage.output_tokens == 16 and event.created_at > 1_700_000_000


@call
async def streams_nothing_where_the_request_is_refused(client: Client) -> None:
    wrong = {"prompt": "a", "stream": True, "background": "transparent"}
    error = await client.refused(openai.BadRequestError, client.call(client.sdk.images.generate, **wrong))
    assert error.param == "background"
    lonely = client.call(client.sdk.images.generate, prompt="a", partial_images=2)
    assert (await client.refused(openai.BadRequestError, lonely)).param == "partial_images"


def drawn(color: str, size: tuple[int, int] = (96, 64), alpha: int | None = None) -> bytes:
    """A picture of one colour as PNG; with ``alpha``, its left half that transparent."""
    picture = Image.new("RGB" if alpha is None else "RGBA", size, color)
    if alpha is not None:
        picture.paste((0, 0, 0, alpha), (0, 0, size[0] // 2, size[1]))
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


@call
async def edits_a_picture(client: Client) -> None:
    edit = client.sdk.images.edit
    answer = await client.call(edit, image=drawn("red"), prompt="at night", extra_body={"seed": 1})
    assert opened(answer.data[0].b64_json).size == (96, 64), "auto is the picture's own size"
    assert answer.model_dump()["usage"]["input_tokens_details"]["image_tokens"] > 0
    job = await client.call(client.sdk.get, f"/jobs/{answer.model_extra['job_id']}", cast_to=object)
    assert (job["model"], job["params"]["seed"]) == ("tiny-qwen-edit", 1)
    assert [use["role"] for use in job["params"]["references"]] == ["reference"]
    sized = await client.call(
        edit,
        image=("a.png", drawn("red"), "image/png"),
        prompt="a",
        size="64x64",
        n=2,
        user="u",
        extra_body=QUICK,
    )
    assert [opened(data.b64_json).size for data in sized.data] == [(64, 64)] * 2


@call
async def edits_with_a_mask(client: Client) -> None:
    red, mask = drawn("red"), drawn("white", alpha=0)
    answer = await client.call(
        client.sdk.images.edit, image=red, mask=mask, prompt="a blue creature", extra_body={"seed": 1}
    )
    picture = opened(answer.data[0].b64_json).convert("RGB")
    assert {picture.getpixel((x, y)) for x in range(56, 96) for y in range(64)} == {(255, 0, 0)}
    assert {picture.getpixel((x, y)) for x in range(32) for y in range(64)} != {(255, 0, 0)}


@call
async def edits_several_pictures(client: Client) -> None:
    images = [drawn("red"), ("b.png", drawn("blue"))]
    if inspect.signature(client.sdk.images.edit).parameters["image"].annotation == "FileTypes":
        raise Skipped("list of images")
    answer = await client.call(
        client.sdk.images.edit,
        image=images,
        prompt="both",
        size="64x64",
        input_fidelity="high",
        extra_body={**QUICK, "roles": json.dumps(["reference", "style"]), "metadata": {"flow_id": "f"}},
    )
    job = await client.call(client.sdk.get, f"/jobs/{answer.model_extra['job_id']}", cast_to=object)
    assert [use["role"] for use in job["params"]["references"]] == ["reference", "style"]
    assert job["metadata"]["flow_id"] == "f"
    raw = await client.call(
        client.sdk.images.edit,
        image=images,
        prompt="both",
        size="64x64",
        extra_body={"roles": ["init", "reference"], "strength": 0.5, "num_inference_steps": 4},
    )
    job = await client.call(client.sdk.get, f"/jobs/{raw.model_extra['job_id']}", cast_to=object)
    assert [use["role"] for use in job["params"]["references"]] == ["init", "reference"]
    assert (job["params"]["strength"], job["params"]["num_inference_steps"]) == (0.5, 4)


@call
async def understands_the_options_of_an_edit(client: Client) -> None:
    edit = client.sdk.images.edit
    asked: dict[str, Any] = {"image": drawn("red"), "prompt": "a", "size": "64x64"}
    by_url = await client.call(edit, **asked, n=2, user="u", response_format="url", extra_body={"seed": 4})
    contents = [httpx.get(data.url).content for data in by_url.data]  # noqa: ASYNC210
    same = await client.call(edit, **asked, n=2, response_format="b64_json", extra_body={"seed": 4})
    assert contents == [base64.b64decode(data.b64_json) for data in same.data]
    assert by_url.model_dump()["safety_identifier"] == "u"
    for name in ("png", "jpeg", "webp"):
        answer = await client.call(
            edit, **asked, model="gpt-image-1", extra_body={"output_format": name, "output_compression": 50}
        )
        assert opened(answer.data[0].b64_json).format == name.upper()


@call
async def understands_the_newest_options_of_an_edit(client: Client) -> None:
    asked: dict[str, Any] = {"image": drawn("red"), "prompt": "a", "size": "64x64", "quality": "low"}
    newest = {"background": "opaque", "output_format": "webp", "output_compression": 50}
    answer = await client.call(client.sdk.images.edit, **asked, **newest)
    assert (answer.output_format, answer.background, answer.quality) == ("webp", "opaque", "low")


@call
async def takes_the_fields_of_a_job(client: Client) -> None:
    extra = {
        "seed": 11,
        "num_inference_steps": 3,
        "true_cfg_scale": 2.5,
        "negative_prompt": "green",
        "visibility": "private",
        "priority": "high",
        "expires_in_seconds": 600,
        "metadata": {"flow_id": "f"},
    }
    answer = await client.call(
        client.sdk.images.edit, image=drawn("red"), prompt="a", size="64x64", extra_body=extra
    )
    job = await client.call(client.sdk.get, f"/jobs/{answer.model_extra['job_id']}", cast_to=object)
    told = {name: job["params"][name] for name in ("seed", "num_inference_steps", "true_cfg_scale")}
    assert told == {"seed": 11, "num_inference_steps": 3, "true_cfg_scale": 2.5}
    assert (job["prompt"]["negative"], job["priority"]) == ("green", "high")
    assert job["metadata"]["flow_id"] == "f"


@call
async def streams_an_edit(client: Client) -> None:
    stream = await client.call(
        client.sdk.images.edit,
        image=drawn("red"),
        prompt="a",
        size="64x64",
        stream=True,
        partial_images=2,
        extra_body=QUICK,
    )
    *partial, done = await client.items(stream)
    assert done.type == "image_edit.completed"
    assert opened(done.b64_json).size == (64, 64)
    assert {event.type for event in partial} <= {"image_edit.partial_image"}


@call
async def refuses_edits_that_make_no_sense(client: Client) -> None:
    edit = client.sdk.images.edit
    unsupported = openai.BadRequestError, "unsupported_parameter"
    malformed = openai.UnprocessableEntityError, "validation_failed"
    wrong: list[tuple[dict[str, Any], type[Exception], str, str]] = [
        ({"image": b"no picture"}, openai.BadRequestError, "not_a_picture", "image"),
        ({"mask": b"no picture"}, openai.BadRequestError, "not_a_picture", "mask"),
        ({"model": "instant", "extra_body": {"roles": ["style"]}}, *unsupported, "image"),
        ({"extra_body": {"markup": "x"}}, *unsupported, "markup"),
        ({"extra_body": {"background": "transparent"}}, *unsupported, "background"),
        (
            {"extra_body": {"roles": "init,style"}},
            openai.UnprocessableEntityError,
            "validation_failed",
            "roles",
        ),
        ({"n": 11}, *malformed, "n"),
    ]
    for given, error, code, param in wrong:
        asked = {"image": drawn("red"), "prompt": "a", **given}
        refused = await client.refused(error, client.call(edit, **asked))
        assert (refused.code, refused.param) == (code, param), refused.body


@call
async def varies_a_picture(client: Client) -> None:
    vary = client.sdk.images.create_variation
    square = drawn("red", (64, 64))
    answer = await client.call(vary, image=square, n=2, model="dall-e-2", extra_body=QUICK)
    assert [opened(data.b64_json).size for data in answer.data] == [(64, 64)] * 2
    options: dict[str, Any] = {"size": "256x256", "response_format": "url", "user": "u", "extra_body": QUICK}
    answer = await client.call(vary, image=drawn("red", (256, 256)), **options)
    (data,) = answer.data
    with Image.open(io.BytesIO(httpx.get(data.url).content)) as picture:  # noqa: ASYNC210
        assert picture.size == (256, 256)
    assert answer.model_dump()["safety_identifier"] == "u"
    unreadable = client.call(vary, image=b"no picture")
    assert (await client.refused(openai.BadRequestError, unreadable)).code == "not_a_picture"


async def results() -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for kind in ("sync", "async"):
        client = Client(kind)
        for name, made in CALLS.items():
            try:
                await made(client)
                found[f"{kind} {name}"] = None
            except Skipped as missing:
                found[f"{kind} {name}"] = f"skipped: no {missing}"
            except Exception:
                found[f"{kind} {name}"] = traceback.format_exc(limit=-3)
    return found


if __name__ == "__main__":
    json.dump({"version": openai.__version__, "results": asyncio.run(results())}, sys.stdout)
