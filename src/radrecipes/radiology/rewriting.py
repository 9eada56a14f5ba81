"""Rewrites the sentences of a text, and repairs one after words were cut out of it."""

import re
from collections.abc import Callable

from radrecipes.radiology.sentences import split_sentences

# Marks where words were cut out, so that articles and loose ends are found.
CUT = "\x00"
# A cut must not leave a word that needs a following one, or a verb or preposition without its object.
_OPEN_WORD = (
    r"(?:is|are|was|were|be|been|the|an?|of|in|on|at|to|by|with|and|or|nor|than|from|measur(?:es?|ed|ing)|which|that|those|as|"
    r"no|within|between|into|over|under|about|approximately|for|per|its|appears?|has|have|spans?|seen as|size|up)"
)
_LOOSE_END = re.compile(
    rf"\b{_OPEN_WORD}\s*{CUT}[\s{CUT}]*(?:[.,;:!?)]|\Z|(?:and|or|nor|but|with|than|in|of|from|is|are|was|were|which|that)\b)|"
    rf"\b(?:is|are|was|were|measur(?:es?|ed)|size)\s*{CUT}[\s{CUT}]*(?:to|at|on)\b|"
    rf"\A[\s{CUT}]*(?:(?:and|or|than|of|is|are|was|were|which)\b|[.,;:]|\Z)|\A\s*{CUT}[\s{CUT}]*in\b|"
    rf"(?:\b(?:and|or)|,)\s*{CUT}[\s{CUT}]*(?:and|or)\b",
    re.IGNORECASE,
)
_ARTICLE = re.compile(rf"\b(a|an)(\s*{CUT}[\s{CUT}]*)([^\W_]+)", re.IGNORECASE)
# Letters whose names begin with a vowel: an NG tube, an SVC filter.
_SPELT_WITH_A_VOWEL = frozenset("AEFHILMNORSX")
_CONSONANT_SOUND = re.compile(r"(?:uni(?!n|m)|use|usu|eu|one\b|once)", re.IGNORECASE)
_SILENT_H = re.compile(r"(?:hour|honest|heir)", re.IGNORECASE)
# Left over from `, left greater than right, is`.
_LONE_COMMA = re.compile(rf"{CUT}\s*,(?=\s+(?:is|are|was|were|has|have)\b)")
_SPACES = re.compile(r"\s+")
_SPACE_BEFORE_STOP = re.compile(r"\s+(?=[.,;:)])|(?<=\()\s+|\(\s*\)\s*")
_DOUBLE_STOP = re.compile(r"[,;:](?=[.,;])")


def patterns(*texts: str) -> tuple[re.Pattern, ...]:
    """Regular expressions, whatever the case."""
    return tuple(re.compile(text, re.IGNORECASE) for text in texts)


def rewrite_sentences(text: str, rewrite: Callable[[str], str]) -> str:
    """The text with each sentence rewritten, without those that become empty; a text that stays the same is returned as it is."""
    sentences = split_sentences(text)
    rewritten = list(map(rewrite, sentences))
    return text if rewritten == sentences else " ".join(filter(None, rewritten))


def repair(cut: str, sentence: str) -> str:
    """Correct spaces, commas, `a` and `an` and the first letter of a sentence with `CUT` wherever words were cut out.

    `""` if what is left is not a sentence: a verb without its object, an article without its noun. The original
    `sentence` decides whether the first letter is a capital.
    """
    if _LOOSE_END.search(cut):
        return ""
    cut = _ARTICLE.sub(lambda match: f"{_article(match[1], match[3])}{match[2]}{match[3]}", cut)
    cut = _SPACES.sub(" ", _LONE_COMMA.sub(" ", cut).replace(CUT, " ")).strip()
    cut = _DOUBLE_STOP.sub("", _SPACE_BEFORE_STOP.sub("", cut)).strip()
    if len(split_sentences(cut)) != 1:
        return ""
    return cut[0].upper() + cut[1:] if sentence[0].isupper() else cut


def _article(given: str, word: str) -> str:
    """`a` or `an` before a word, in the case of the given article."""
    if word.isupper() and len(word) > 1:
        vowel = word[0] in _SPELT_WITH_A_VOWEL
    else:
        vowel = bool(_SILENT_H.match(word)) or (word[0].lower() in "aeiou" and not _CONSONANT_SOUND.match(word))
    return given[0] + ("n" if vowel else "")
