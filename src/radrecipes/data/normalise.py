"""Two forms of a text: the one that is kept, and the key that decides whether two texts or labels are the same."""

import re
import unicodedata

_SPACES = re.compile(r"\s+")
_LINE_SPACES = re.compile(r"[^\S\n]+")
# What exports write into an empty cell.
_MISSING = {"nan", "null", "none", "n/a", "na", "<na>"}


def is_missing(cell: str, none: bool = True) -> bool:
    """Whether a cell has only what exports write into an empty one; without `none` not "none", which can be an answer."""
    text = cell.strip().casefold()
    return text in _MISSING and (none or text != "none")


def normalise_note(text: str) -> str:
    """Clean a text without changing its meaning; case, punctuation and spelling stay. Idempotent.

    Unicode is composed (NFC), line ends become `\\n`, control and zero-width characters are removed, runs of spaces
    become one space and runs of empty lines one line end.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\u2028", "\n").replace("\u2029", "\n")
    # Cc are control characters, Cf zero-width ones, Cs halves of surrogate pairs, which no Parquet file can contain.
    if not text.isprintable():
        text = "".join(
            character
            if character == "\n" or unicodedata.category(character) not in ("Cc", "Cf", "Cs")
            else (" " if character.isspace() else "")
            for character in text
        )
    # Compose after the removal: a zero-width character can be between a letter and its accent.
    composed = unicodedata.normalize("NFC", text)
    lines = (_LINE_SPACES.sub(" ", line).strip() for line in composed.split("\n"))
    return "\n".join(line for line in lines if line)


def matching_key(text: str) -> str:
    """Reduce a text or label to the key under which equal ones match; empty without a letter, digit or sign.

    Compatibility forms (NFKC) and case are folded, every run of punctuation and spaces becomes one space. Mathematical
    signs stay, as separate words: `C+` and `C-`, or `< 30` and `> 30`, differ in meaning.
    """
    # Case folding can undo the compatibility form ("ſ" with an accent), so fold once more after it.
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", normalise_note(text)).casefold())
    pieces = []
    for character in folded:
        category = unicodedata.category(character)
        if category == "Sm" and character not in "|~":
            pieces.append(f" {character} ")
        elif category[0] in "PSZC":
            pieces.append(" ")
        else:
            pieces.append(character)
    return _SPACES.sub(" ", "".join(pieces)).strip()
