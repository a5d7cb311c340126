"""Reading a request for a picture by rules: words looked up in tables, and a few turns of phrase."""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from modal_app.contract import ParseRequest, ParseResult
from modal_app.engine.language.words import fold, folded, word_pattern, words_of

PRODUCTS: dict[str, tuple[str, ...]] = {
    "t-shirt": ("t-shirt", "tee shirt", "tee"),
    "mug": ("mug", "coffee mug", "coffee cup"),
    "poster": ("poster", "wall art", "art print"),
    "sticker": ("sticker", "decal"),
    "hoodie": ("hoodie", "sweatshirt"),
    "phone case": ("phone case", "iphone case", "phone cover"),
    "tote bag": ("tote bag", "shopping bag"),
    "cap": ("baseball cap", "snapback"),
    "pillow": ("throw pillow", "pillow cover", "cushion cover"),
    "canvas": ("canvas print",),
    "postcard": ("postcard", "greeting card", "birthday card"),
    "keychain": ("keychain", "key ring"),
    "puzzle": ("jigsaw puzzle",),
    "mouse pad": ("mouse pad",),
    "notebook": ("notebook cover",),
    "onesie": ("baby onesie", "onesie"),
    "water bottle": ("water bottle",),
    "wallpaper": ("wallpaper", "phone wallpaper", "desktop wallpaper"),
    "book cover": ("book cover",),
}
"""Words that name a product, by the name that a request is answered with."""

EXPLICIT, APART, BARE = 1.0, 0.8, 0.5
"""Confidence: "in vintage style"; "in vintage", "vintage drawing of" or between commas; "a vintage car",
which stays a part of the subject."""

_ARTICLE = r"(?:(?:an?|the|my|your|our|some)\s+)?"
_WORD_END = r"(?!\w)"
_PART = r"(?:\A|[,;.])\s*"
_PART_END = r"\s*(?=[,;.!?]|\Z)"

_STYLE_IN = rf"(?<!\w)(?:(?:drawn|painted|rendered|done|made)\s+)?(?:in|as|with)\s+{_ARTICLE}"
_STYLE_OF = rf"(?:{_STYLE_IN})?(?<!\w)style\s+of\s+{_ARTICLE}"
_STYLED = r"[\s-]+(?:art\s+)?(?:styled?|look|aesthetic)(?!\w)"
_DRAWING_OF = r"(?:\s+(?:painting|drawing|illustration|sketch|picture|image|art))?\s+of(?!\w)"

_FROM = rf"(?<!\w)(?:from|of|out\s+of|set\s+in|in\s+the\s+world\s+of)\s+{_ARTICLE}"
_WORK = r"\s+(?:universe|series|franchise|anime|manga|world|movies?|films?|games?)(?!\w)"

_PRINTED_ON = rf"(?<!\w)(?:to\s+be\s+)?(?:print(?:ed)?\s+)?(?:on|onto|for|as)\s+{_ARTICLE}"
_ASK = rf"\A\s*(?:please\s+)?(?:(?:draw|make|create|design|generate|i\s+want)\s+(?:me\s+)?)?{_ARTICLE}"
_DESIGN = r"\s+(?:design|print|artwork|motif)(?!\w)"
_SHOWING = r"(?:\s+(?:of|with|showing|featuring|for)(?!\w)|\s*:)"

_NEGATIVE = re.compile(
    r"(?<!\w)(?:(?:with\s+)?no|without|avoid(?:ing)?|do\s*n[o'’]?t\s+(?:include|show|add|draw)|not)(?!\w)\s+"
    r"(?!(?:one|longer|matter|only|just|less|more|doubt|problem)(?!\w))"
    r"(.+?)"
    r"(?=\s*(?:[,.;:!?()\n]|\Z)"
    r"|\s+(?:but|with|in|on|at|under|by|near|while|wearing|from|for|as|please|instead)(?!\w)"
    r"|\s+and\s+(?:an?|the|with|in|on|no|not|without)(?!\w))"
)
_FILLING = re.compile(r"\A(?:(?:any|an?|the|some|too|very|so|all|of)\s+)+", re.IGNORECASE)
_CHOICE = re.compile(r"\s+(?:or|and|nor)\s+(?:(?:any|an?|the)\s+)?", re.IGNORECASE)

_IDLE = frozenset(
    words_of(
        "a an the my your our some of in on at for with from and or as to by is that please me it i want "
        "draw make create design generate paint show picture image drawing"
    )
)
"""Words that are no subject by themselves."""
_LOOSE = r"and|or|with|in|on|for|from|of|as|an?|the|but|that\s+is|which\s+is|who\s+is"
_LOOSE_END = re.compile(rf"(?:[\s,;:–—-]|(?<!\w)(?:{_LOOSE})(?!\w))+\Z", re.IGNORECASE)
_LOOSE_START = re.compile(r"\A(?:[\s,;:.–—-]|(?:and|or|of|with|but)(?!\w))+", re.IGNORECASE)


@dataclass(frozen=True)
class _Match:
    """A place in the folded prompt, and what it says."""

    value: str
    start: int
    end: int
    confidence: float = EXPLICIT
    letters: int = 0
    """Length of the word itself, without the turn of phrase around it."""


def read(request: ParseRequest) -> ParseResult:
    """By whole words, regardless of case and accents; what is not found is None.

    A franchise may be found by the name of a character, which then stays a part of the subject.
    """
    prompt = unicodedata.normalize("NFC", request.prompt)
    text, places = folded(prompt)
    negatives = list(_negatives(text, prompt, places))
    style = _best(_styles(text, request.styles), negatives)
    franchise = _best(_franchises(text, request.franchises), negatives)
    product = _best(_products(text), negatives)
    told = [match for match in (style, franchise, product, *negatives) if match and match.confidence > BARE]
    return ParseResult(
        subject=_without(prompt, places, told) or request.prompt,
        style=style.value if style else None,
        style_confidence=style.confidence if style else 0.0,
        franchise=franchise.value if franchise else None,
        product=product.value if product else None,
        negative=", ".join(dict.fromkeys(match.value for match in negatives)) or None,
        answered_by="fallback",
    )


def _best(found: Iterable[_Match], negatives: Sequence[_Match]) -> _Match | None:
    """The surest, then the longest, then the first; nothing that the request says no to."""
    wanted = [match for match in found if not any(_overlap(match, other) for other in negatives)]
    return max(wanted, key=lambda match: (match.confidence, match.letters, -match.start), default=None)


def _overlap(one: _Match, other: _Match) -> bool:
    return one.start < other.end and other.start < one.end


def _styles(text: str, styles: Mapping[str, Sequence[str]]) -> Iterator[_Match]:
    for id_, words in styles.items():
        for word in words:
            pattern = word_pattern(word)
            styled = rf"(?:{_STYLED})?" if fold(word).endswith("style") else _STYLED
            yield from _found(
                text,
                id_,
                pattern,
                (rf"{_STYLE_OF}(?P<word>{pattern})(?:{_STYLED})?", EXPLICIT),
                (rf"(?:{_STYLE_IN})?(?P<word>{pattern}){styled}", EXPLICIT),
                (rf"{_STYLE_IN}(?P<word>{pattern}){_PART_END}", APART),
                (rf"{_PART}{_ARTICLE}(?P<word>{pattern}){_PART_END}", APART),
                (rf"{_ASK}(?P<word>{pattern}){_DRAWING_OF}", APART),
                (rf"(?P<word>{pattern})", BARE),
            )


def _franchises(text: str, franchises: Mapping[str, Sequence[str]]) -> Iterator[_Match]:
    for name, words in franchises.items():
        pattern = word_pattern(name)
        yield from _found(
            text,
            name,
            pattern,
            (rf"{_FROM}(?P<word>{pattern})(?:{_WORK})?(?!['’]s)", EXPLICIT),
            (rf"(?P<word>{pattern}){_WORK}", EXPLICIT),
            (rf"{_PART}(?P<word>{pattern}){_PART_END}", APART),
        )
        for word in (name, *words):
            yield from _found(text, name, word_pattern(word), (rf"(?P<word>{word_pattern(word)})", BARE))


def _products(text: str) -> Iterator[_Match]:
    """Only where the thing is what the picture is for: a cat that holds a mug is no mug."""
    for name, words in PRODUCTS.items():
        for word in words:
            pattern = rf"{word_pattern(word).removesuffix(_WORD_END)}(?:e?s)?{_WORD_END}"
            yield from _found(
                text,
                name,
                pattern,
                (rf"{_PRINTED_ON}(?P<word>{pattern})(?:{_DESIGN})?", EXPLICIT),
                (rf"{_ASK}(?P<word>{pattern})(?:{_DESIGN})?{_SHOWING}", EXPLICIT),
                (rf"(?P<word>{pattern}){_DESIGN}(?:{_SHOWING})?", EXPLICIT),
                (rf"{_PART}{_ARTICLE}(?P<word>{pattern}){_PART_END}", EXPLICIT),
            )


def _found(text: str, value: str, pattern: str, *forms: tuple[str, float]) -> Iterator[_Match]:
    """Where one of the forms stands in the text; a word of nothing but blanks stands nowhere."""
    if not pattern or not re.search(pattern, text):
        return
    for form, confidence in forms:
        for match in re.finditer(form, text):
            letters = len(match["word"])
            yield _Match(value, match.start(), match.end(), confidence, letters)


def _negatives(text: str, prompt: str, places: Sequence[int]) -> Iterator[_Match]:
    for match in _NEGATIVE.finditer(text):
        said = prompt[places[match.start(1)] : places[match.end(1) - 1] + 1]
        value = _CHOICE.sub(", ", _FILLING.sub("", said)).strip()
        if words_of(value):
            yield _Match(value, match.start(), match.end())


def _without(prompt: str, places: Sequence[int], told: Sequence[_Match]) -> str:
    """The prompt less those places, mended; empty when no subject is left."""
    kept = list(prompt)
    for match in told:
        first, last = places[match.start], places[match.end - 1]
        kept[first : last + 1] = [" "] + [""] * (last - first)
    text = " ".join("".join(kept).split())
    if told:
        text = re.sub(r"\s+([,.;:!?])", r"\1", text)
        text = re.sub(r"([,.;:!?])(?:\s*[,.;:])+", r"\1", text)
        text = _LOOSE_START.sub("", _LOOSE_END.sub("", text))
    return text if any(word not in _IDLE for word in words_of(text)) else ""
