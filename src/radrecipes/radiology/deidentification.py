"""Marks that stand where a de-identified report had a name, a date or a place: `___` in MIMIC-CXR, `XXXX` in OpenI."""

import re

from radrecipes.radiology.sentences import split_sentences

MARK = "___"
_MARK = r"(?:_{2,}|X{3,}|\[\*\*.*?\*\*\])"
_ANY_MARK = re.compile(_MARK, re.DOTALL)
# A date of which each part is marked is one mark.
_RUN_OF_MARKS = re.compile(rf"_*{_MARK}(?:[\s/_-]*{_MARK})*_*", re.DOTALL)


def holds_mark(sentence: str) -> bool:
    """Whether something was taken out of a sentence: `___`, `XXXX` or `[** … **]`."""
    # The search for plain strings costs a tenth of the regular expression, and most sentences hold no mark.
    if "__" not in sentence and "XXX" not in sentence and "[**" not in sentence:
        return False
    return _ANY_MARK.search(sentence) is not None


def without_marked_sentences(text: str) -> str:
    """Leave out each sentence that holds a mark.

    Args:
        text (`str`):
            A section of a report.

    Returns:
        `str`: the text itself where it holds no mark, else the other sentences, joined with a space.
    """
    if not holds_mark(text):
        return text
    # A long mark may hold a full stop, so marks are shortened before sentences are told apart.
    return " ".join(sentence for sentence in split_sentences(normalise_marks(text)) if not holds_mark(sentence))


def normalise_marks(text: str) -> str:
    """Write every mark, and every run of marks (`XXXX XXXX`, `___/___`), as one `___`."""
    return _RUN_OF_MARKS.sub(MARK, text) if holds_mark(text) else text
