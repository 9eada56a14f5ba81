"""Names of people and places that no rule matches: words that no list explains and that a model takes for personal data.

A word is judged where it stands and, if it is neither English nor medical, also by itself, because in a file name or a heading
the model has nothing to go by. Next to a title or an initial, such a word is a name without asking.
"""

import functools
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from radrecipes.publishing import name_model
from radrecipes.publishing.identifier_rules import NO_NAME_WORD, ROLE, TITLE, TOLD, any_script
from radrecipes.publishing.vocabulary import WORD, is_known, is_medical, lists, ordinary_words
from radrecipes.text_span import TextSpan

# From which probability a word counts, by what is known about it. Tuned on tests/publishing/identifier_corpus/hostile_tuning.txt.
_ENOUGH = {"unknown": 0.1, "short": 0.5, "also a name": 0.5, "English": 0.85, "one case": 0.95}
_ENOUGH_ALONE, _ENOUGH_IN_FILE_NAME = 0.9, 0.5
_SHORT = 4
_LINE = re.compile(r"[^\n]+")
_CAMEL_CASE = re.compile(any_script(r"(?<=[a-zß-ÿ]{3})(?=[A-ZÀ-Þ][a-zß-ÿ]{2})"))
_FILE_NAME = re.compile(r"[\w./^~-]*(?:[_^/][\w./^~-]+|\.[a-z]{3,7}(?!\w))[\w./^~-]*")
_SEPARATORS = str.maketrans("_^/", "   ")
_TITLE_BEFORE = re.compile(rf"(?i:(?<!\w)(?:{TITLE})\.?\s+(?:(?:dr|med|phil|h\.\s?c)\.\s)*)$")
_PERSON_CUE = re.compile(rf"(?i:(?<!\w)(?:{TITLE}|{TOLD}|{ROLE}|of|by)(?!\w))")
_ROLE_BEFORE = re.compile(rf"(?i:\b(?:{ROLE}\s?:|{TOLD})\s+)$")
_INITIAL_BEFORE = re.compile(
    any_script(r"(?:^|(?<=[\s(\"]))(?:[A-ZÀ-Þ]\.\s?){1,3}$|(?:^|(?<=[\s(\"]))[A-ZÀ-Þ]{1,2}\s$")
)
_INITIAL_BEHIND = re.compile(any_script(r",?\s(?:[A-ZÀ-Þ]\.\s?){1,3}|,?\s[A-ZÀ-Þ](?!\w)"))
_INITIALS_BEHIND = re.compile(any_script(r",?\s(?:[A-ZÀ-Þ]\.\s?){1,3}|,?\s[A-ZÀ-Þ]{1,2}(?!\w)"))
_NEXT_WORD = re.compile(
    r"(?:[\s’'^_-]|(?<=\s)\w\.?\s|\b(?:van|von|der|den|de|del|la|al|el|ibn|bin|da|dos)\b){1,10}", re.IGNORECASE
)
_WITHIN_NAME = re.compile(
    any_script(r"(?:[\s,.’'_^-]|\b[A-ZÀ-Þ]\b|\b(?:van|von|der|den|de|del|la|al|el|ibn|bin|da|dos)\b){1,12}")
)
_LONGEST_CUE = 40
_A_NAME = re.compile(f"{NO_NAME_WORD}.")
_HEXADECIMAL = frozenset("abcdef")


class _Word(NamedTuple):
    start: int
    end: int
    text: str


def person_names(text: str, found: Sequence[TextSpan]) -> Iterator[tuple[int, int]]:
    """Places of names in a text, other than what was `found` already."""
    for line in _LINE.finditer(text):
        start, end = 0, 0
        for first, last in _names_in_line(
            line[0], [(one.start - line.start(), one.end - line.start()) for one in found]
        ):
            if end and _WITHIN_NAME.fullmatch(line[0], end, first):
                end = last
                continue
            if end:
                yield line.start() + start, line.start() + end
            start, end = first, last
        if end:
            yield line.start() + start, line.start() + end


def _names_in_line(line: str, found: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Words of names, with the title or initials next to them."""
    words = list(_words(line))
    doubtful = [
        (word, kind)
        for index, word in enumerate(words)
        if (kind := _kind(words, index, line))
        and not any(first <= word.start and word.end <= last for first, last in found)
    ]
    if not doubtful or (all(kind == "one case" for _, kind in doubtful) and not _PERSON_CUE.search(line)):
        return
    file_names = [match.span() for match in _FILE_NAME.finditer(line)]
    scores = name_model.scores(line.translate(_SEPARATORS), [(word.start, word.end) for word, _ in doubtful])
    reached = 0
    for word, kind in doubtful:
        start, end, is_named = _with_cue(word, kind, line)
        in_file_name = any(first <= word.start and word.end <= last for first, last in file_names)
        if (
            is_named
            or kind == "pair"
            or (reached and _NEXT_WORD.fullmatch(line, reached, word.start))
            or scores[word.start : word.end].mean() > _ENOUGH[kind]
            or (kind == "unknown" and _alone(word.text) > (_ENOUGH_IN_FILE_NAME if in_file_name else _ENOUGH_ALONE))
        ):
            yield start, end
            reached = word.end


def _with_cue(word: _Word, kind: str, line: str) -> tuple[int, int, bool]:
    """A word with the title or initials next to it, and whether there are any."""
    before = line[max(0, word.start - _LONGEST_CUE) : word.start]
    cue, end = None, None
    if kind not in ("English", "one case"):
        cue = _TITLE_BEFORE.search(before)
        # MR is also a modality.
        if cue and cue[0].split() == ["MR"] and word.text.lower() in ordinary_words():
            cue = None
        cue = cue or _ROLE_BEFORE.search(before)
    if kind == "unknown":
        cue = cue or _INITIAL_BEFORE.search(before)
        behind = _INITIAL_BEHIND if word.text.isupper() else _INITIALS_BEHIND
        end = behind.match(line, word.end) if word.text[0].isupper() else None
    return word.start - (len(before) - cue.start() if cue else 0), end.end() if end else word.end, bool(cue or end)


def _words(line: str) -> Iterator[_Word]:
    """The words of a line; `AnnaBrown` are two."""
    for match in WORD.finditer(line):
        cuts = [cut.start() for cut in _CAMEL_CASE.finditer(line, *match.span())]
        for start, end in zip([match.start(), *cuts], [*cuts, match.end()], strict=True):
            yield _Word(start, end, line[start:end])


def _kind(words: Sequence[_Word], index: int, line: str) -> str | None:
    """What is known about a word that may be a name; `None` if it can't be one."""
    word, known = words[index], lists()
    small = word.text.lower()
    if len(set(small)) < 2 or not _A_NAME.match(small.capitalize()) or _is_thing(words, index, line):
        return None
    is_capitalised = word.text[0].isupper() and not word.text.isupper()
    if not is_known(small):
        if len(small) > _SHORT or not small.isascii():
            return "unknown"
        return "short" if is_capitalised else None
    is_eponym = small in known["eponyms"]
    if not is_eponym and (small in known["things"] or small in known["headings"]):
        return None
    opens = not word.start or line[: word.start].rstrip()[-1:] in ".:;!?-("
    if is_eponym or _may_be_a_name(small):
        if is_capitalised and not is_eponym:
            return "English" if opens else "also a name"
        if _is_pair(words, index, line):
            return "pair"
        # An eponym, and in one case a name that is also a word, needs another name beside it, or a title.
        beside = [
            other.text.lower()
            for other in (*words[index + 1 : index + 3], *words[max(0, index - 2) : index])
            if len(other.text) > 1
        ]
        if any(
            (_may_be_a_name(other) and other not in known["eponyms"]) or (not is_eponym and not is_known(other))
            for other in beside[:1] + beside[-1:]
        ) or _TITLE_BEFORE.search(line[: word.start][-_LONGEST_CUE:]):
            return "also a name"
    if not is_capitalised:
        return None if small in ordinary_words() or len(small) < _SHORT or is_medical(small) else "one case"
    return None if is_eponym or opens or small in ordinary_words() else "English"


def _is_thing(words: Sequence[_Word], index: int, line: str) -> bool:
    """Whether a word is part of a hash, or of an expression such as `Swyer-James lung` or `Eaton classification`."""
    word, known = words[index], lists()
    if set(word.text) <= _HEXADECIMAL and any(part.isdigit() for part in line[max(0, word.start - 1) : word.end + 1]):
        return True
    following = words[index + 1] if index + 1 < len(words) else None
    if following and not line[word.end : following.start].strip(" -’'s"):
        thing = following.text.lower()
        if thing in known["things"] or thing.removesuffix("s") in known["things"]:
            return True
    beside = [other for other in (words[index - 1] if index else None, following) if other]
    joined = [
        other.text.lower() for other in beside if line[min(word.end, other.end) : max(word.start, other.start)] == "-"
    ]
    return (
        bool(joined)
        and is_known(word.text.lower())
        and any(part in known["eponyms"] for part in (word.text.lower(), *joined))
    )


def _is_pair(words: Sequence[_Word], index: int, line: str) -> bool:
    """Whether a word is the first or second of `anna k. brown` or `brown, anna`, each also an English word."""
    known = lists()
    family = known["family"] | known["eponyms"]
    for first in (index - 1, index):
        pair = [word for word in words[max(0, first) :][:3] if len(word.text) > 1][:2]
        if len(pair) < 2 or words[index] not in pair:
            continue
        given, named = (word.text.lower() for word in pair)
        between = line[pair[0].end : pair[1].start]
        if (given in known["given"] and named in family and _NEXT_WORD.fullmatch(between)) or (
            "," in between and len(between) < 3 and named in known["given"] and given in family
        ):
            return True
    return False


def _may_be_a_name(word: str) -> bool:
    return word in lists()["given"] or word in lists()["family"]


@functools.lru_cache(maxsize=100_000)
def _alone(word: str) -> float:
    """How probably a word is personal data where a patient's name is expected."""
    start = len("Patient ")
    scores = name_model.scores(f"Patient {word} was seen.", [(start, start + len(word))])
    return float(scores[start : start + len(word)].mean())
