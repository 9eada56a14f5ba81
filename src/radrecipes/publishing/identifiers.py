"""Finds possible identifiers of people in a text: names, dates, numbers, places. A tripwire for releases, not de-identification.

A cascade, because a language model on every sentence would take hours: own rules; presidio-analyzer's checksum recognisers, only
for remaining long numbers; a small token classifier, only for words that no list explains. Covers the 18 identifiers of the HIPAA
safe harbor (45 CFR 164.514(b)(2)), facilities and DICOM UIDs; tests/publishing/test_identifiers.py measures recall.

Known gaps: names that are also words, in text of one case and alone; initials alone; scripts without capitals; years alone.
"""

import functools
import itertools
import re
from collections.abc import Iterator
from typing import Any

from radrecipes.publishing.identifier_rules import (
    BY_CAPITALS,
    BY_DIGITS,
    PLACE_CUE,
    PLACE_IN_ONE_CASE,
    RULES,
    WITHOUT_DIGIT,
)
from radrecipes.publishing.person_names import person_names
from radrecipes.text_span import TextSpan

# Other dashes, spaces and wide letters are read as plain ones, character by character, so that offsets stay the same.
_PLAIN = str.maketrans(
    dict.fromkeys("\u2010\u2011\u2012\u2013\u2212\ufe63", "-")
    | dict.fromkeys("\u00a0\u2002\u2003\u2007\u2008\u2009\u200a\u200b\u200c\u200d\u202f\u2060\u3000\ufeff", " ")
    | {chr(wide): chr(wide - 0xFEE0) for wide in range(0xFF01, 0xFF5F)}
)

_LONG_NUMBER = re.compile(r"\b[A-Z]{0,2}\d(?:[ ().+-]{0,2}[\dA-Z]){7,}\b")
# A fraction with its interval, `0.667-1.000`, is a metric; telephone plans take its digits for a number.
_INTERVAL = re.compile(r"(?:[01]\.\d{1,4} \()?[01]\.\d{1,4}\s?-\s?[01]\.\d{1,4}\)?")
_SEPARATORS = str.maketrans("_", " ")
_LINE = re.compile(r"[^\n]+")
_LETTERS = re.compile(r"[A-Za-zÀ-ÿ]+")
_DIGIT = re.compile(r"\d")
_AT = re.compile(r"(?i)@|\bat\b")
# Presidio gives patterns without validation a lower score.
_LOWEST_SCORE = 0.4


def find_identifiers(text: str) -> list[TextSpan]:
    """Find names, and dates, numbers and places that may identify a person, in order and without overlaps."""
    found: list[TextSpan] = []
    text = text.translate(_PLAIN)

    def note(kind: str, start: int, end: int) -> None:
        start = max([start, *(other.end for other in found if other.start <= start < other.end < end)])
        if not any(other.overlaps(start, end) for other in found):
            found.append(TextSpan(kind, start, end))

    has_digit, has_at = _DIGIT.search(text) is not None, _AT.search(text) is not None
    usual = _places_in_usual_case(text)
    spaced = text.translate(_SEPARATORS)
    for kind, patterns in RULES.items():
        if (not has_digit and kind not in WITHOUT_DIGIT) or (not has_at and kind == "email"):
            continue
        versions = {text, usual} if kind in BY_CAPITALS else {text, spaced} if kind in BY_DIGITS else {text}
        for pattern, version in itertools.product(patterns, versions):
            for match in pattern.finditer(version):
                note(kind, *match.span("it"))
    if has_digit:
        for match in _LONG_NUMBER.finditer(text):
            if not _INTERVAL.fullmatch(match[0]) and not any(other.overlaps(*match.span()) for other in found):
                for kind, start, end in _checked_numbers(match[0]):
                    note(kind, match.start() + start, match.start() + end)
    for start, end in person_names(text, found):
        note("name", start, end)
    return sorted(found, key=lambda identifier: identifier.start)


def _places_in_usual_case(text: str) -> str:
    """The text with facilities and towns in lines of one case rewritten as in prose; length and offsets stay the same."""
    written = list(text)
    for line in _LINE.finditer(text):
        if PLACE_CUE.search(line[0]) and (line[0].isupper() or line[0].islower()):
            for place in PLACE_IN_ONE_CASE.finditer(text, line.start(), line.end()):
                written[place.start() : place.end()] = _LETTERS.sub(_capitalised, place[0])
    return "".join(written)


def _capitalised(word: re.Match[str]) -> str:
    """A word of a place as in prose; two letters are a state."""
    small = word[0].lower()
    if len(small) == 1 or small == "of":
        return small
    return small.upper() if len(small) == 2 and small not in ("st", "mt") else small.capitalize()


def _checked_numbers(text: str) -> Iterator[tuple[str, int, int]]:
    """What presidio's recognisers find in a long number."""
    for kind, recogniser in _checked_recognisers().items():
        for result in recogniser.analyze(text, recogniser.supported_entities, None) or ():
            if result.score >= _LOWEST_SCORE:
                yield kind, result.start, result.end


@functools.lru_cache(maxsize=1)
def _checked_recognisers() -> dict[str, Any]:
    """Presidio's recognisers that use telephone plans or check digits."""
    from presidio_analyzer import predefined_recognizers as recognisers

    return {
        "phone number": recognisers.PhoneRecognizer(supported_regions=("US", "GB", "DE", "FR", "IN")),
        "account number": recognisers.CreditCardRecognizer(),
        "bank account": recognisers.IbanRecognizer(),
        "national number": recognisers.NhsRecognizer(),
        "licence number": recognisers.MedicalLicenseRecognizer(),
    }
