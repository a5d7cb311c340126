"""What is never drawn, in one place: sexual content with anybody who is, or is said to be, a minor.

The rule reads words, not pictures, and errs on the side of refusing: a prompt that names a minor and
anything sexual is refused whatever else it says, also when the minor's age comes from a character's profile.
It is a floor, not a classifier.  An operator whose users write freely puts a moderation service in front.
"""

import re
import unicodedata

from gateway.errors import BadRequest

ADULT_AGE = 18

_MINOR = re.compile(
    r"""\b(
      child(ren|like|ish)? | kid(s|die|dies)? | minors? | toddlers? | infants? | bab(y|ies) | newborns? |
      boys? | girls? | schoolgirls? | schoolboys? | schoolchild(ren)? | pupils? | preschool(er|ers)? |
      kindergart(en|ener|eners) | teen(s|age|aged|ager|agers)? | pre-?teens? | tweens? | adolescents? |
      juveniles? | youths? | underaged? | lolis? | lolitas? | lolicon | shotas? | shotacon | daughters? |
      sons? | (elementary|primary|middle|junior|high)[ -]school(er|ers)? | little\s+(one|sister|brother)s?
    )\b""",
    re.VERBOSE,
)
_AGE = re.compile(
    r"""\b(?:aged?\s*:?\s*(?P<after>\d{1,3})\b
        | (?P<before>\d{1,3})[\s-]*(?:y/?o\b|yrs?\b|years?\b[\s-]*old\b|year[\s-]*olds?\b)
        | (?P<months>\d{1,2})[\s-]*months?[\s-]*old\b)""",
    re.VERBOSE,
)
_SEXUAL = re.compile(
    r"""\b(
      nud(e|es|ity|ist) | naked | topless | bottomless | undress(ed|ing)? | unclothed | lingerie | panties |
      thong | bikini | underwear | sex(y|ual|ually|ualised|ualized|ualising|ualizing)? |
      erotic(a|ism)? | porn(o|ographic|ography)? | hentai | ecchi | nsfw | lewd(ness)? | seductive(ly)? |
      sensual(ly)? | fetish | bondage | breasts? | boobs? | cleavage | nipples? | genital(s|ia)? | penis |
      vagina | buttocks | orgasm | aroused | masturbat\w* | intercourse | molest\w*
    )\b""",
    re.VERBOSE,
)


def refuse_minors(*texts: str | None, age: int | str | None = None) -> None:
    """BadRequest ``content_refused`` when the texts together name a minor and anything sexual.

    ``age``, of a profile, makes the subject a minor as well: a number below 18, or a word such as "child".
    """
    words = " \n ".join(_plain(text) for text in texts if text)
    if _SEXUAL.search(words) and (_is_minor(age) or _MINOR.search(words) or _tells_minor_age(words)):
        raise BadRequest(
            "Sexual content with minors is never drawn. Change the prompt.",
            code="content_refused",
            param="prompt",
        )


def _plain(text: str) -> str:
    """Lower case without accents, look-alike widths or letters hidden between others."""
    text = unicodedata.normalize("NFKD", text)
    kept = (c for c in text if not unicodedata.combining(c) and unicodedata.category(c) != "Cf")
    return "".join(kept).lower().replace("_", " ")


def _tells_minor_age(words: str) -> bool:
    for found in _AGE.finditer(words):
        years = found["after"] or found["before"]
        if found["months"] or int(years) < ADULT_AGE:
            return True
    return False


def _is_minor(age: int | str | None) -> bool:
    """A number below 18, or a word such as "child"; unknown ages are nobody's."""
    if age is None:
        return False
    text = _plain(str(age)).strip()
    number = re.match(r"\d{1,3}", text)
    return int(number[0]) < ADULT_AGE if number else bool(_MINOR.search(text))
