"""Panels of a character that a LoRA was trained on: what is asked of the model, word for word."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.gateway.test_panels import chapter_of, debug, drawn, sent
from tests.support.lora_server import SEPIA
from tests.support.stack import Stack, User, stack

WORDS = ["zkw_ana", "inkwash"]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def studio(new_database: Callable[[], str], new_folder: Callable[[], Path]) -> AsyncIterator[Stack]:
    """The small model writes no prompts: enhancements are those of the rules."""
    gpu = {"GPU_MODELS": "tiny-qwen", "GPU_PRELOAD": "tiny-qwen"}
    async with stack(new_database(), new_folder(), gpu=gpu) as running:
        yield running


@pytest.fixture
def user(studio: Stack) -> User:
    return studio.new_user()


async def registered(user: User) -> dict[str, Any]:
    asked = {"filename": "ana.safetensors", "bytes": len(SEPIA)}
    ticket = (await user.http.post("/v1/loras/uploads", json=asked)).json()
    await user.http.put(ticket["url"], content=SEPIA, headers=ticket["headers"])
    body = {"name": "ana", "source": {"upload_id": ticket["upload_id"]}, "trigger_words": WORDS}
    answer = await user.http.post("/v1/loras", json=body)
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


def trained(studio: Stack, user: User, lora: dict[str, Any]) -> str:
    """The id of a character that nobody has drawn yet."""
    (row,) = studio.rows(
        """insert into public.characters (user_id, name, source, lora_id)
           values (%s, 'Ana', 'lora', %s) returning id::text""",
        user.id,
        lora["id"],
    )
    return str(row["id"])


async def panel_of(
    studio: Stack, user: User, prompt: str, **body: Any
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """(the panel, its debug view, its LoRA)"""
    lora = await registered(user)
    cast = [trained(studio, user, lora)]
    panel = await drawn(user, await chapter_of(user), prompt, mode="lora", character_ids=cast, **body)
    return panel, await debug(user, panel), lora


async def test_a_prompt_of_more_than_1500_characters_is_refused_and_named(studio: Stack, user: User) -> None:
    chapter_id = await chapter_of(user)
    cast = [trained(studio, user, await registered(user))]
    place = f"/v1/comics/chapters/{chapter_id}/panels"
    for mode in ("lora", "reference"):
        body = {"prompt": "a" * 1501, "mode": mode, "character_ids": cast}
        answer = await user.http.post(place, json=body)
        assert (answer.status_code, answer.json()["code"]) == (400, "prompt_too_long")
        assert answer.json()["error"]["param"] == "prompt"
    assert not studio.rows("select from public.comic_panels where chapter_id = %s", chapter_id)


async def test_without_enhancement_the_trained_words_stand_before_the_raw_prompt(
    studio: Stack, user: User
) -> None:
    prompt = "  Ana,\twaving — naïve\n\n(raw) "
    panel, told, lora = await panel_of(studio, user, prompt, enhance=False, style="Anime")
    request = sent(told)
    assert request["prompt"] == f"zkw_ana, inkwash, {prompt}"
    assert [use["sha256"] for use in request["loras"]] == [lora["sha256"]]
    assert (request["width"], request["height"]) == (832, 1216)
    assert [call["task"] for call in told["calls"]] == ["image"]
    assert (panel["prompt"], panel["enhanced_prompt"]) == (prompt, None)
    assert told["prompt"]["enhance_status"] == "off"


async def test_without_enhancement_nothing_of_the_longest_prompt_is_cut(studio: Stack, user: User) -> None:
    prompt = "wave " * 300
    _, told, _ = await panel_of(studio, user, prompt, enhance=False)
    assert sent(told)["prompt"] == f"zkw_ana, inkwash, {prompt}"


async def test_the_enhancer_is_given_name_and_trained_words_and_its_fallback_keeps_the_limit(
    studio: Stack, user: User
) -> None:
    prompt = ("wave " * 300).strip().ljust(1500, "s")
    _, told, _ = await panel_of(studio, user, prompt)
    asked = sent(told, "enhance")
    assert (asked["prompt"], asked["mode"]) == (prompt, "lora")
    assert (asked["names"], asked["trained_words"]) == (["Ana"], WORDS)
    text = sent(told)["prompt"]
    assert told["prompt"]["enhance_status"] == "fallback"
    assert 1400 < len(text) <= 1500
    assert text.startswith("zkw_ana, inkwash, wave wave") and text.endswith(" wave")
