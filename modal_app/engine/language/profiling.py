"""Task ``profile``: what a picture shows of a character."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from PIL import Image
from pydantic import BaseModel, BeforeValidator, ConfigDict, StringConstraints, model_validator

from modal_app.contract import ProfileRequest, ProfileResult
from modal_app.engine.inputs import open_picture
from modal_app.engine.language import instructions
from modal_app.engine.language.answers import TRAIT_LIMIT, ask_form, describe
from modal_app.engine.language.palette import color_palette
from modal_app.engine.language.words import fold

if TYPE_CHECKING:
    from modal_app.engine.language.vlm import Turn, Vlm

_UNSEEN = ("", "none", "null", "n/a", "unknown", "unclear", "not visible", "not applicable", "not seen", "no")
"""What models write instead of leaving a key out."""


def _as_words(value: Any) -> Any:
    """A list is its items, a trait that cannot be seen is none."""
    if isinstance(value, list):
        value = ", ".join(item for item in value if isinstance(item, str))
    if isinstance(value, str):
        value = " ".join(value.split())
        return None if fold(value).strip(".") in _UNSEEN else value
    return value


_Trait = Annotated[str, StringConstraints(max_length=TRAIT_LIMIT)]
_Seen = Annotated[_Trait | None, BeforeValidator(_as_words)]


class _Form(BaseModel):
    """What the model fills in; the keys are those of its instruction."""

    model_config = ConfigDict(extra="ignore")

    species: _Seen = None
    age_group: _Seen = None
    build: _Seen = None
    face: _Seen = None
    skin: _Seen = None
    hair: _Seen = None
    eyes: _Seen = None
    expression: _Seen = None
    clothing: _Seen = None
    accessories: _Seen = None
    distinctive_marks: _Seen = None

    @model_validator(mode="after")
    def _says_something(self) -> "_Form":
        if not self.model_dump(exclude_none=True):
            raise ValueError("none of the keys has a value")
        return self


def profile(
    vlm: "Vlm | None", request: ProfileRequest, files: Mapping[str, Path], cancelled: Callable[[], bool]
) -> ProfileResult:
    picture = open_picture(files[request.image.sha256])
    traits = _traits(vlm, picture, cancelled) if vlm is not None and vlm.sees else None
    return ProfileResult(
        profile=traits or {},
        color_palette=color_palette(picture),
        answered_by="vlm" if traits else "fallback",
    )


def _traits(vlm: "Vlm", picture: Image.Image, cancelled: Callable[[], bool]) -> dict[str, str] | None:
    if vlm.ability == "describe":
        return describe(vlm, picture, cancelled)
    if vlm.ability is None:
        return None
    turns: list[Turn] = [("system", instructions.PROFILE), ("user", instructions.PROFILE_QUESTION)]
    form = ask_form(vlm, turns, _Form, cancelled, [picture])
    return None if form is None else form.model_dump(exclude_none=True)
