"""Words in texts of any language: cut, compared and found without regard to case and accents."""

import re
import unicodedata

_MARKS = re.compile("[\u0300-\u036f]")
"""Accents of Latin, Greek and Cyrillic.  Marks of other scripts make another letter, as か and が."""
_UNSPACED_SET = "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]"
_UNSPACED = re.compile(_UNSPACED_SET)
"""Thai, Lao, Burmese, Khmer, Japanese and Chinese: there a word may touch the next one."""
_LETTER = rf"(?:(?!{_UNSPACED_SET})\w)"
_WORD = re.compile(rf"{_UNSPACED_SET}|{_LETTER}+(?:['’-]{_LETTER}+)*")


def cut(text: str, limit: int) -> str:
    """At most ``limit`` characters, ending with a word; only a single longer word is cut itself."""
    if len(text) <= limit:
        return text
    end = next((n for n in range(limit, 0, -1) if text[n].isspace() and text[:n].strip()), 0)
    kept = text[:end].rstrip().rstrip(",;:–—-(").rstrip() if end else ""
    return kept or text[: _whole_character(text, limit)]


def _whole_character(text: str, end: int) -> int:
    """``end`` or a little less, so that no accent or part of an emoji is left behind."""
    first = end
    while end > 1 and (_joins(text[end]) or text[end - 1] == "\u200d"):
        end -= 1
    return end if end > 1 else first


def _joins(character: str) -> bool:
    joining = "\u200d\ufe0e\ufe0f\U0001f3fb\U0001f3fc\U0001f3fd\U0001f3fe\U0001f3ff"
    return unicodedata.combining(character) > 0 or character in joining


def fold(text: str) -> str:
    """For comparing: no case, no accents, compatible forms made equal."""
    return folded(text)[0]


def folded(text: str) -> tuple[str, list[int]]:
    """The folded text, and for each of its characters the place in ``text`` that it comes from."""
    characters, places = [], []
    for place, character in enumerate(text):
        bare = _MARKS.sub("", unicodedata.normalize("NFKD", character))
        same = unicodedata.normalize("NFKC", bare).casefold()
        characters.append(same)
        places += [place] * len(same)
    return "".join(characters), places


def words_of(text: str) -> list[str]:
    """Folded words in order, with apostrophes and hyphens inside; single characters where none are spaced."""
    return _WORD.findall(fold(text))


def has_word(text: str, word: str) -> bool:
    """Whether a word or phrase stands in the text as a whole."""
    pattern = word_pattern(word)
    return bool(pattern and re.search(pattern, fold(unicodedata.normalize("NFC", text))))


def word_pattern(word: str) -> str:
    """A regular expression for folded text; blanks match blanks and hyphens.  Empty for no word."""
    parts = [part for part in re.split(r"[\s_-]+", fold(unicodedata.normalize("NFC", word))) if part]
    if not parts:
        return ""
    before = "" if _UNSPACED.match(parts[0][0]) else r"(?<!\w)"
    after = "" if _UNSPACED.match(parts[-1][-1]) else r"(?!\w)"
    return before + r"[\s_-]*".join(map(re.escape, parts)) + after
