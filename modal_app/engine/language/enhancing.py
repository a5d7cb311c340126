"""Task ``enhance``: a plain prompt to a detailed one."""

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from modal_app.contract import ENHANCED_LIMIT, EnhanceRequest, EnhanceResult
from modal_app.engine.language import instructions
from modal_app.engine.language.words import cut, fold, has_word, words_of

if TYPE_CHECKING:
    from modal_app.engine.language.vlm import Turn, Vlm

ANSWER_TOKENS = 400
"""1500 characters of English are about 350 tokens."""
CONTEXT_LIMIT = 500
"""Characters of each earlier prompt that the model gets to read."""
CONTEXT_COUNT = 10
WORDS_MIN = 3
ECHO_WORDS = 7
"""This many words in a row that stand in the instruction are copied from it."""

APPEARANCE = words_of(
    "hair haired ponytail braid braids blonde blond brunette redhead freckles beard mustache skin skinned "
    "complexion eyed wearing wears dressed clothes clothing outfit costume muscular slender slim "
    "petite stocky skinny chubby cheekbones jawline"
)
"""Words that describe looks: left to the reference pictures unless the prompt itself has them."""
_FACE = re.compile(
    r"\bwear(?:s|ing)\s+(?:\w+\s+){0,4}(?:expression|smile|grin|frown|look|scowl)\b", re.IGNORECASE
)
"""What is worn on the face is no clothing."""

_INSTRUCTIONS = {"lora": instructions.ENHANCE_LORA, "reference": instructions.ENHANCE_REFERENCE}
_FENCE = re.compile(r"```[a-z]*\n(.*?)(?:```|\Z)", re.DOTALL | re.IGNORECASE)
_GREETING = re.compile(
    r"\s*(?:(?:sure(?:\s+thing)?|certainly|of\s+course|absolutely|okay|ok)(?:[!,.:]\s*|\s+(?=here))"
    r"|here(?:'s|’s|\s+is|\s+are|\s+you)\b[^:\n]{0,100}[:\n]\s*)",
    re.IGNORECASE,
)
_LABELED = re.compile(
    r"^\W{0,3}(?:(?:the|enhanced|rewritten|detailed|improved|final|image|picture)\s+){0,3}prompt\W{0,3}:\**\s*"
    r"(.+?)(?=\n\W{0,3}(?:idea|names|trained words|earlier pictures)\W{0,3}:|\Z)",
    re.DOTALL | re.IGNORECASE | re.MULTILINE,
)
"""The labels are those of the conversation, which a model may repeat or even carry on with."""
_REMARK = re.compile(
    r"\n\s*\W{0,3}(?:note\b|let me know|feel free|i hope|this prompt|explanation|would you like).*\Z",
    re.DOTALL | re.IGNORECASE,
)
_QUOTES = [('"', '"'), ("'", "'"), ("“", "”"), ("‘", "’"), ("«", "»"), ("„", "“"), ("`", "`"), ("*", "*")]


def enhance(vlm: "Vlm | None", request: EnhanceRequest, cancelled: Callable[[], bool]) -> EnhanceResult:
    if vlm is not None and vlm.ability == "chat":
        written = _rewritten(vlm, request, cancelled)
        if written is not None:
            return EnhanceResult(prompt=written, answered_by="vlm")
    return EnhanceResult(prompt=plain(request), answered_by="fallback")


def plain(request: EnhanceRequest) -> str:
    """Without a model: the prompt as it came; in mode ``lora`` after the trained words."""
    if request.mode == "reference":
        return request.prompt
    return cut(_with_trained_words(request.prompt, request.trained_words), ENHANCED_LIMIT)


def _rewritten(vlm: "Vlm", request: EnhanceRequest, cancelled: Callable[[], bool]) -> str | None:
    """Asked twice at most; None if neither answer can be used."""
    turns: list[Turn] = [("system", _INSTRUCTIONS[request.mode]), ("user", _material(request))]
    for _ in range(2):
        written = vlm.write(turns, max_new_tokens=ANSWER_TOKENS, cancelled=cancelled)
        prompt = cleaned(written)
        wrong = problem(prompt, request)
        if not wrong:
            return finished(prompt, request)
        turns += [("assistant", written), ("user", instructions.REPAIR.format(wrong))]
    return None


def _material(request: EnhanceRequest) -> str:
    earlier = [f"{n}. {_line(text)}" for n, text in enumerate(request.context[-CONTEXT_COUNT:], 1)]
    trained = ", ".join(request.trained_words) if request.mode == "lora" else ""
    parts = {
        "Trained words": trained,
        "Names": ", ".join(request.names),
        "Earlier pictures": "\n" + "\n".join(earlier) if earlier else "",
        "Idea": request.prompt.strip(),
    }
    return "\n".join(f"{name}: {value}" for name, value in parts.items() if value) + "\nPrompt:"


def _line(text: str) -> str:
    return cut(" ".join(text.split()), CONTEXT_LIMIT)


def cleaned(written: str) -> str:
    """The prompt in an answer: one line, without fences, greetings, remarks, labels and quotes."""
    fenced = _FENCE.search(written)
    text = _REMARK.sub("", fenced[1] if fenced else written).strip()
    before = None
    while text != before:
        before, text = text, _unwrapped(text)
    text = re.sub(r"(?m)^\s*(?:[-*•]|#+|\d+[.)])\s+", "", text)
    return " ".join(text.replace("**", "").split())


def _unwrapped(text: str) -> str:
    """One layer less of whatever stands around the prompt."""
    greeting = _GREETING.match(text)
    text = text[greeting.end() :] if greeting else text
    labeled = _LABELED.search(text)
    return _unquoted(labeled[1] if labeled else text)


def _unquoted(text: str) -> str:
    text = text.strip()
    for opening, closing in _QUOTES:
        if len(text) > 1 and text[0] == opening and text[-1] == closing and opening not in text[1:-1]:
            return text[1:-1].strip()
    return text


def problem(prompt: str, request: EnhanceRequest) -> str:
    """What is wrong with a rewritten prompt, in words for the model; empty if nothing is."""
    words = words_of(prompt)
    if len(words) < WORDS_MIN:
        return "it has hardly any words"
    if _loops(words):
        return "it repeats itself"
    if _echoes(words, request):
        return "it repeats the instruction"
    missing = [
        name for name in request.names if has_word(request.prompt, name) and not has_word(prompt, name)
    ]
    if missing:
        return f"the name {missing[0]} is missing"
    return _looks(prompt, request) if request.mode == "reference" else ""


def _loops(words: list[str]) -> bool:
    """Less than six of ten groups of three words are new; a text that goes on hardly repeats one."""
    groups = list(zip(words, words[1:], words[2:], strict=False))
    return len(words) >= 12 and len(set(groups)) < 0.6 * len(groups)


def _echoes(words: list[str], request: EnhanceRequest) -> bool:
    own = _runs(words_of(" ".join([request.prompt, *request.context])))
    return bool((_runs(words) & _runs(words_of(_INSTRUCTIONS[request.mode]))) - own)


def _runs(words: list[str]) -> set[tuple[str, ...]]:
    return {tuple(words[n : n + ECHO_WORDS]) for n in range(len(words) - ECHO_WORDS + 1)}


def _looks(prompt: str, request: EnhanceRequest) -> str:
    for word in request.trained_words:
        if has_word(prompt, word):
            return f"the trigger word {word} must not appear"
    asked = set(words_of(" ".join([request.prompt, *request.names])))
    told = [word for word in words_of(_FACE.sub(" ", prompt)) if word in APPEARANCE and word not in asked]
    return f"it describes appearance ({', '.join(dict.fromkeys(told))})" if told else ""


def finished(prompt: str, request: EnhanceRequest) -> str:
    """At most ``ENHANCED_LIMIT`` characters; in mode ``lora`` the trained words stand first."""
    if request.mode == "lora":
        prompt = _with_trained_words(prompt, request.trained_words)
    return cut(prompt, ENHANCED_LIMIT)


def _with_trained_words(prompt: str, trained_words: list[str]) -> str:
    """Nothing is put before a prompt that begins with them already."""
    trained = ", ".join(word.strip() for word in trained_words if word.strip())
    if not trained or fold(prompt).startswith(fold(trained)):
        return prompt
    return f"{trained}, {prompt}"
