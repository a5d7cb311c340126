"""Prompts made better and taken apart, by the resident vision-language model or by what stands in for it."""

from typing import Annotated, Literal, cast

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, ConfigDict, Field

import styles
from gateway.auth import AuthenticatedRoute, Generator
from gateway.jobs.recipes import refuse_long
from gateway.jobs.schemas import Prompt, PromptOfAnyLength, Text
from gateway.jobs.service import JobService
from gateway.safety import refuse_minors
from modal_app.contract import EnhanceResult, ParseResult

WAIT_SECONDS = 45.0
"""A cold model may take longer to load; whoever asks is then given what stands in for its answer."""

router = APIRouter(route_class=AuthenticatedRoute, tags=["prompts"])


class EnhanceBody(BaseModel):
    """Mode ``lora`` begins with the trained words and describes looks; ``reference`` leaves them out."""

    model_config = ConfigDict(extra="forbid")

    prompt: PromptOfAnyLength
    mode: Literal["lora", "reference"] = "reference"
    trained_words: list[Text] = Field(default=[], max_length=50)
    names: list[Text] = Field(default=[], max_length=10)
    """Of the characters in the picture."""
    context: list[Prompt] | Prompt = Field(default=[])
    """Prompts of the pictures before this one, oldest first."""


class Enhanced(BaseModel):
    prompt: str
    enhanced: str
    status: Literal["done", "fallback"]


class ParseBody(BaseModel):
    model_config = ConfigDict(extra="forbid")

    prompt: PromptOfAnyLength


class Parsed(BaseModel):
    """``style`` is an id.  What the prompt does not name is null."""

    subject: str
    style: str | None
    style_confidence: float
    franchise: str | None
    product: str | None
    negative: str | None
    answered_by: Literal["vlm", "fallback"]


async def _service(request: Request) -> JobService:
    return cast(JobService, request.app.state.jobs)


Service = Annotated[JobService, Depends(_service)]


@router.post("/v1/prompts/enhance")
async def enhance_prompt(body: EnhanceBody, caller: Generator, service: Service) -> Enhanced:
    """A plain prompt rewritten in detail: 1,500 characters at most, cut at the end of a word."""
    refuse_long(body.prompt)
    refuse_minors(body.prompt)
    context = [body.context] if isinstance(body.context, str) else body.context
    asked = body.model_dump(include={"prompt", "mode", "trained_words", "names"}) | {"context": context}
    answer = cast(EnhanceResult, await service.run(caller, "enhance", asked, WAIT_SECONDS))
    status: Literal["done", "fallback"] = "done" if answer.answered_by == "vlm" else "fallback"
    return Enhanced(prompt=body.prompt, enhanced=answer.prompt, status=status)


@router.post("/v1/prompts/parse")
@router.post("/api/parse-prompt", include_in_schema=False)
async def parse_prompt(body: ParseBody, caller: Generator, service: Service) -> Parsed:
    """What a sentence asks for: subject, house style, franchise, product, and what it does not want."""
    refuse_long(body.prompt)
    asked = {"prompt": body.prompt, "styles": style_words(), "franchises": franchise_words()}
    answer = cast(ParseResult, await service.run(caller, "parse", asked, WAIT_SECONDS))
    return Parsed(**answer.model_dump(exclude={"task"}))


def style_words() -> dict[str, list[str]]:
    """Words that name a style, by its id.  A label that two sets share means the first set's style."""
    words: dict[str, list[str]] = {}
    taken: set[str] = set()
    for style in styles.STYLES.values():
        label = style.label.lower()
        words[style.id] = [f"{style.set} {label}"] if label in taken else [label]
        taken.add(label)
    return words


def franchise_words() -> dict[str, list[str]]:
    """Words that name a franchise, by its name."""
    return {franchise.name: list(franchise.keywords) for franchise in styles.FRANCHISES}
