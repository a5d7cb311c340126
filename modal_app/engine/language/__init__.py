"""Language tasks: done by the pipeline's own vision-language model, or by rules where there is none.

``answer`` never fails because a model talks nonsense: an answer is checked, asked for once more with
what was wrong, and then given up for rules.  ``answered_by`` says which it was.

    enhance    chat: a rewritten prompt             else the prompt, after the trained words in mode lora
    parse      chat: JSON                           else words looked up in the request's tables
    profile    chat, describe: traits as JSON       else no traits; the palette is measured in any case
    judge      chat: yes or no, trait by trait      else colours compared
               describe: descriptions compared

Importing this package imports no torch; ``Vlm`` lives in ``modal_app.engine.language.vlm``.
"""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from modal_app.contract import EnhanceRequest, LanguageRequest, LanguageResult, ParseRequest, ProfileRequest
from modal_app.engine import Canceled, EngineError
from modal_app.engine.language.enhancing import enhance
from modal_app.engine.language.judging import judge
from modal_app.engine.language.parsing import parse
from modal_app.engine.language.profiling import profile

if TYPE_CHECKING:
    from modal_app.engine.language.vlm import Vlm

_log = logging.getLogger(__name__)


def answer(
    vlm: "Vlm | None",
    request: LanguageRequest,
    files: Mapping[str, Path],
    cancelled: Callable[[], bool],
) -> LanguageResult:
    """The result that belongs to the type of the request; ``files`` has its pictures by sha256.

    Canceled between two tokens of the model, InvalidPicture for a picture that cannot be used.
    """
    if cancelled():
        raise Canceled("canceled")
    try:
        return _answer(vlm, request, files, cancelled)
    except EngineError:
        raise
    except Exception as error:
        if vlm is None:
            raise
        # Out of memory, say.  These tasks stand on the way to a picture and must not be what blocks it.
        _log.warning("the language model failed: %s", type(error).__name__, exc_info=error)
        return _answer(None, request, files, cancelled)


def _answer(
    vlm: "Vlm | None",
    request: LanguageRequest,
    files: Mapping[str, Path],
    cancelled: Callable[[], bool],
) -> LanguageResult:
    if isinstance(request, EnhanceRequest):
        return enhance(vlm, request, cancelled)
    if isinstance(request, ParseRequest):
        return parse(vlm, request, cancelled)
    if isinstance(request, ProfileRequest):
        return profile(vlm, request, files, cancelled)
    return judge(vlm, request, files, cancelled)
