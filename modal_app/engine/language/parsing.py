"""Task ``parse``: what a sentence asks for, field by field."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from modal_app.contract import ParseRequest, ParseResult
from modal_app.engine.language import instructions
from modal_app.engine.language.answers import ask_form
from modal_app.engine.language.phrases import read
from modal_app.engine.language.words import fold, has_word, words_of

if TYPE_CHECKING:
    from modal_app.engine.language.vlm import Turn, Vlm

FIELD_LIMIT = 200
"""Characters of a short field that a model may fill in."""

_Short = Annotated[str, StringConstraints(strip_whitespace=True, max_length=FIELD_LIMIT)]


class _Form(BaseModel):
    """What the model fills in."""

    model_config = ConfigDict(extra="ignore")

    subject: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
    style: _Short | None = None
    style_confidence: float = Field(default=0.0, ge=0.0, le=1.0, allow_inf_nan=False)
    franchise: _Short | None = None
    product: _Short | None = None
    negative: _Short | None = None


def parse(vlm: "Vlm | None", request: ParseRequest, cancelled: Callable[[], bool]) -> ParseResult:
    if vlm is not None and vlm.ability == "chat":
        turns: list[Turn] = [("system", instructions.PARSE), ("user", _material(request))]
        form = ask_form(vlm, turns, _Form, cancelled)
        if form is not None:
            return _checked(form, request)
    return read(request)


def _material(request: ParseRequest) -> str:
    styles = "; ".join(f"{id_}: {', '.join(words)}" for id_, words in request.styles.items())
    franchises = ", ".join(request.franchises)
    return (
        f"Styles: {styles or 'none'}\nFranchises: {franchises or 'none'}\nRequest: {request.prompt}\nAnswer:"
    )


def _checked(form: _Form, request: ParseRequest) -> ParseResult:
    """Ids are those of the request, and what must be quoted from it is."""
    style = _listed(form.style, request.styles)
    franchise = _listed(form.franchise, request.franchises) or _name(form.franchise)
    negative, product = _name(form.negative), _name(form.product)
    return ParseResult(
        subject=form.subject if _quoted(form.subject, request.prompt) else request.prompt,
        style=style,
        style_confidence=form.style_confidence if style else 0.0,
        franchise=franchise,
        product=product if product and has_word(request.prompt, product) else read(request).product,
        negative=negative if negative and _quoted(negative, request.prompt) else None,
        answered_by="vlm",
    )


def _listed(value: str | None, known: Iterable[str]) -> str | None:
    wanted = fold(value or "")
    return next((each for each in known if fold(each) == wanted), None)


def _name(value: str | None) -> str | None:
    """Models write the word null as readily as the value."""
    return None if fold(value or "") in ("", "null", "none", "n/a", "unknown") else value


def _quoted(value: str, prompt: str) -> bool:
    """Whether most of the words stand in the prompt: a model may mend a word, but not make things up."""
    words, given = words_of(value), set(words_of(prompt))
    return bool(words) and sum(word in given for word in words) >= 0.5 * len(words)
