"""Sentences of a report: the unit in which findings are stated, negated and removed."""

import re

# A full stop after these does not end a sentence. Lookbehinds need a fixed width, so each has its own.
_ABBREVIATIONS = ("Dr", "Mr", "Mrs", "Ms", "vs", "approx", "e.g", "i.e", "No", "Fig", "cf")
_NOT_ABBREVIATED = "".join(rf"(?<!\b{re.escape(word)}\.)" for word in _ABBREVIATIONS)
_LIST_ITEM = re.compile(r"(?:^|(?<=\s))\d{1,2}[.)]\s+(?=[A-Za-z_])")
# After a full stop a sentence may begin in lower case (dictation); a decimal point has no space after it.
_BOUNDARY = re.compile(rf"(?<=[.!?]){_NOT_ABBREVIATED}\s+|\n\s*\n")


def split_sentences(text: str) -> list[str]:
    """Sentences with their full stops and collapsed white space; a list number (`1.`) is dropped and begins one."""
    pieces = (piece for item in _LIST_ITEM.split(text) for piece in _BOUNDARY.split(item))
    return [sentence for sentence in (" ".join(piece.split()) for piece in pieces) if sentence]
