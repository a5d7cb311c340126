"""Prompts made better, taken apart, and kept as templates."""

from typing import Any

import pytest

import styles
from tests.support.stack import Stack, User


@pytest.fixture
def user(product: Stack) -> User:
    return product.new_user()


async def refused(user: User, path: str, body: dict[str, Any], status: int, code: str) -> str:
    answer = await user.http.post(path, json=body)
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    return str(answer.json()["error"]["param"])


@pytest.mark.parametrize("path", ["/v1/prompts/enhance", "/v1/prompts/parse", "/api/parse-prompt"])
async def test_prompts_that_say_nothing_or_too_much_are_refused(user: User, path: str) -> None:
    for prompt in ("", "  ", "a\x00b"):
        await refused(user, path, {"prompt": prompt}, 422, "validation_failed")
    assert await refused(user, path, {"prompt": "a" * 1501}, 400, "prompt_too_long") == "prompt"
    await refused(user, path, {"prompt": "a", "colour": "red"}, 422, "validation_failed")


async def test_a_key_that_may_only_read_enhances_nothing(product: Stack) -> None:
    reader = product.new_user(scopes=("read",))
    await refused(reader, "/v1/prompts/enhance", {"prompt": "a"}, 403, "forbidden")


async def test_enhancing_in_lora_mode_begins_with_the_trained_words(user: User) -> None:
    body = {"prompt": "a cat", "mode": "lora", "trained_words": ["zkw", "tabby"]}
    answer = (await user.http.post("/v1/prompts/enhance", json=body)).json()
    assert answer == {"prompt": "a cat", "enhanced": "zkw, tabby, a cat", "status": "fallback"}


async def test_enhancing_in_reference_mode_without_a_model_leaves_the_prompt_as_it_is(user: User) -> None:
    body = {"prompt": " a  cat ", "trained_words": ["zkw"], "context": "a dog"}
    answer = (await user.http.post("/v1/prompts/enhance", json=body)).json()
    assert (answer["enhanced"], answer["status"]) == (" a  cat ", "fallback")


async def test_an_enhanced_prompt_ends_with_a_whole_word_within_the_limit(user: User) -> None:
    words = ["word" + "x" * 40] * 20
    body = {"prompt": "cat " * 300, "mode": "lora", "trained_words": words}
    enhanced = (await user.http.post("/v1/prompts/enhance", json=body)).json()["enhanced"]
    assert 1400 < len(enhanced) <= 1500
    assert enhanced.split()[-1].strip(",") in ("cat", words[0])


@pytest.mark.parametrize("path", ["/v1/prompts/parse", "/api/parse-prompt"])
async def test_a_sentence_is_taken_apart(user: User, path: str) -> None:
    prompt = "Luffy from One Piece in watercolor on a mug, no text"
    answer = (await user.http.post(path, json={"prompt": prompt})).json()
    assert "text" in answer["negative"]
    assert "Luffy" in answer["subject"]
    assert answer["style"] == "design/watercolor"
    assert answer["style_confidence"] >= 0.5
    assert answer["franchise"] == "One Piece"
    assert answer["product"] == "mug"
    assert answer["answered_by"] == "fallback"


async def test_a_style_that_the_user_chose_wins_over_one_that_the_prompt_names(user: User) -> None:
    job = await user.create(prompt="a cat in watercolor", style="Grunge")
    assert job["style"] == "design/grunge"
    assert job["prompt"]["final"] == f"a cat in watercolor, {styles.STYLES['design/grunge'].keywords}"


async def test_a_sentence_that_names_nothing_has_no_style_and_no_franchise(user: User) -> None:
    answer = (await user.http.post("/v1/prompts/parse", json={"prompt": "a phoenix rising"})).json()
    assert answer["subject"] == "a phoenix rising"
    assert (answer["style"], answer["franchise"], answer["product"]) == (None, None, None)


async def test_a_label_of_two_sets_means_the_design_style_and_its_set_says_otherwise(user: User) -> None:
    for prompt, style in (("a cat, anime", "design/anime"), ("a cat, storybook anime", "storybook/anime")):
        answer = (await user.http.post("/v1/prompts/parse", json={"prompt": prompt})).json()
        assert answer["style"] == style


async def test_a_template_is_kept_changed_rendered_and_forgotten(user: User) -> None:
    body = {"name": "portrait", "text": "a portrait of {{who}}, {{ light }}", "defaults": {"light": "soft"}}
    made = (await user.http.post("/v1/prompt-templates", json=body)).json()
    assert (made["variables"], made["version"]) == (["who", "light"], 1)
    path = f"/v1/prompt-templates/{made['id']}"
    drawn = (await user.http.post(f"{path}/render", json={"variables": {"who": "{{light}}"}})).json()
    assert drawn == {
        "prompt": "a portrait of {{light}}, soft",
        "template_id": made["id"],
        "template_version": 1,
    }
    changed = (await user.http.patch(path, json={"text": "{{who}} at night"})).json()
    assert (changed["variables"], changed["version"], changed["name"]) == (["who"], 2, "portrait")
    renamed = (await user.http.patch(path, json={"name": "night"})).json()
    assert (renamed["version"], renamed["name"]) == (2, "night")
    assert [each["id"] for each in (await user.http.get("/v1/prompt-templates")).json()["data"]] == [
        made["id"]
    ]
    assert (await user.http.delete(path)).status_code == 204
    assert (await user.http.get(path)).status_code == 404


async def test_a_rendering_without_a_value_with_a_strange_one_or_too_long_is_refused(user: User) -> None:
    body = {"name": "a", "text": "{{who}}"}
    made = (await user.http.post("/v1/prompt-templates", json=body)).json()
    path = f"/v1/prompt-templates/{made['id']}/render"
    assert await refused(user, path, {}, 400, "missing_variables") == "variables"
    strange = {"variables": {"who": "a", "what": "b"}}
    assert await refused(user, path, strange, 400, "unknown_variables") == "variables"
    twice = {"name": "b", "text": "{{who}}{{who}}"}
    made = (await user.http.post("/v1/prompt-templates", json=twice)).json()
    path = f"/v1/prompt-templates/{made['id']}/render"
    await refused(user, path, {"variables": {"who": "a" * 1000}}, 400, "prompt_too_long")


async def test_two_templates_of_one_name_are_refused(user: User) -> None:
    body = {"name": "a", "text": "b"}
    assert (await user.http.post("/v1/prompt-templates", json=body)).status_code == 201
    assert await refused(user, "/v1/prompt-templates", body, 409, "name_taken") == "name"


async def test_templates_are_paged_newest_first(user: User) -> None:
    for number in range(5):
        await user.http.post("/v1/prompt-templates", json={"name": f"t{number}", "text": "a"})
    first = (await user.http.get("/v1/prompt-templates?limit=3")).json()
    assert [each["name"] for each in first["data"]] == ["t4", "t3", "t2"]
    assert first["has_more"]
    rest = (await user.http.get(f"/v1/prompt-templates?limit=3&after={first['last_id']}")).json()
    assert [each["name"] for each in rest["data"]] == ["t1", "t0"]
