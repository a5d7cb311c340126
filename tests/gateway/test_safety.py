"""What is never drawn."""

import pytest

from gateway.errors import BadRequest
from gateway.safety import refuse_minors
from tests.support.stack import Stack


@pytest.mark.parametrize(
    "prompt",
    [
        "a naked child",
        "Nude SCHOOLGIRL on a bed",
        "a 12 year old in lingerie",
        "a 17-year-old, sexy pose",
        "erotic picture, age: 15",
        "a girl aged 9, topless",
        "a 6 months old baby, nude",
        "ｎａｋｅｄ ｃｈｉｌｄ",
        "na\u200bked chi\u00adld",
        "lewd_teen",
        "hentai loli",
    ],
)
def test_sexual_content_with_minors_is_refused(prompt: str) -> None:
    with pytest.raises(BadRequest) as refused:
        refuse_minors(prompt)
    assert refused.value.code == "content_refused"


def test_the_pieces_of_a_prompt_are_read_together() -> None:
    with pytest.raises(BadRequest):
        refuse_minors("a seductive portrait", "keep the school uniform; a teenager")


@pytest.mark.parametrize("age", [8, "8", "12 years", "child", "teen"])
def test_a_profile_tells_the_age_as_well(age: int | str) -> None:
    with pytest.raises(BadRequest):
        refuse_minors("a sensual portrait", age=age)


@pytest.mark.parametrize(
    "prompt",
    [
        "a child with a red balloon",
        "Child portrait, friendly lighting, full body",
        "a 10 year old knight on a horse",
        "a woman in a bikini on a beach",
        "a nude study in charcoal of a man aged 40",
        "middlesex county fair with kids",
        "an 18 year old whisky, provocative poster",
        "a red round creature with a blue hat",
    ],
)
def test_everything_else_is_drawn(prompt: str) -> None:
    refuse_minors(prompt)


def test_an_adult_profile_or_an_unknown_age_refuses_nothing() -> None:
    refuse_minors("a sensual portrait", age=34)
    refuse_minors("a sensual portrait", age="thirties")
    refuse_minors("a sensual portrait")


async def test_such_a_job_is_refused_and_leaves_no_row(product: Stack) -> None:
    user = product.new_user()
    answer = await user.http.post("/v1/jobs", json={"prompt": "a naked child"})
    assert (answer.status_code, answer.json()["code"]) == (400, "content_refused")
    assert (await user.http.get("/v1/jobs")).json()["data"] == []
