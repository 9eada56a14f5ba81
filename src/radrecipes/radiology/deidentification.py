"""Marks that replace names, dates and places in de-identified reports: `___` in MIMIC-CXR, `XXXX` in OpenI."""

import re

from radrecipes.radiology.sentences import split_sentences

MARK = "___"
_MARK = r"(?:_{2,}|X{3,}|\[\*\*.*?\*\*\])"
_ANY_MARK = re.compile(_MARK, re.DOTALL)
# A date with a mark for each part is one mark.
_RUN_OF_MARKS = re.compile(rf"_*{_MARK}(?:[\s/_-]*{_MARK})*_*", re.DOTALL)


def has_mark(sentence: str) -> bool:
    """Whether something was removed from a sentence: `___`, `XXXX` or `[** … **]`."""
    # A plain string search costs a tenth of the regular expression, and most sentences have no mark.
    if "__" not in sentence and "XXX" not in sentence and "[**" not in sentence:
        return False
    return _ANY_MARK.search(sentence) is not None


def without_marked_sentences(text: str) -> str:
    """Remove each sentence with a mark; a text without marks is returned unchanged."""
    if not has_mark(text):
        return text
    # Normalise first: a long mark may contain a full stop.
    return " ".join(sentence for sentence in split_sentences(normalise_marks(text)) if not has_mark(sentence))


def normalise_marks(text: str) -> str:
    """Write every mark, and every run of marks (`XXXX XXXX`, `___/___`), as one `___`."""
    return _RUN_OF_MARKS.sub(MARK, text) if has_mark(text) else text
