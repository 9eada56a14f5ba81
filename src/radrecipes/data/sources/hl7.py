"""HL7 v2 messages: segments, fields and escape sequences.

Segments and fields are only split. hl7apy 1.3.5 was measured and not used: it needs 43 ms for a message of 11 segments, refuses
messages with Windows line ends, MLLP framing or an unknown version, and does not resolve escape sequences.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from radrecipes.data.sources.report_source import LARGEST_REPORT

# Results that take back what they contain.
WITHDRAWN = ("X", "D", "W", "N")
_SEGMENT = re.compile(r"[A-Z][A-Z0-9]{2}")
_LINE_END = re.compile(r"[\r\n\x0b\x1c]+")
_TEXT_TYPES = ("TX", "FT", "ST", "")
_ESCAPE = re.compile(r"\\([^\\\r\n]{1,40})\\")


class Result(NamedTuple):
    """One report in a message: an OBR segment and the OBX segments that follow it."""

    where: str
    separators: str
    message: list[str]
    patient: list[str]
    request: list[str]
    texts: list[list[str]]


def messages_in(lines: Iterator[str]) -> Iterator[list[str]]:
    """The segments of each message that matter here; batch headers and MLLP framing are left out."""
    message: list[str] = []
    size = 0
    for segment in (part for line in lines for part in _LINE_END.split(line)):
        if segment.startswith("MSH"):
            if message:
                yield message
            message, size = [segment], 0
        elif not message or not segment.strip() or size > 2 * LARGEST_REPORT:
            continue
        elif _SEGMENT.match(segment) and segment[3:4] == message[0][3:4]:
            # Attached files and what else is not read is only named, so that its other lines do not become text.
            used = segment.startswith(("PID", "OBR")) or _has_text(segment)
            message.append(segment if used else segment[:3])
            size += len(message[-1])
        elif _has_text(message[-1]):
            # A line break within a text, against the standard.
            message[-1] += "\n" + segment
            size += len(segment)
    if message:
        yield message


def _has_text(segment: str) -> bool:
    return segment.startswith("OBX") and len(segment) > 3 and field(segment.split(segment[3], 3), 2) in _TEXT_TYPES


def results_in(message: list[str], where: str) -> Iterator[Result]:
    """The reports in a message, one for each OBR segment with a text."""
    head = message[0]
    # Field, component, repetition, escape and subcomponent separator.
    separators = head[3:8] + "|^~\\&"[len(head[3:8]) :]
    patient: list[str] = []
    result = None
    for segment in [*message, "OBR"]:
        fields = segment.split(separators[0])
        if fields[0] == "PID":
            patient = fields[:4]
        elif fields[0] == "OBX" and result and len(fields) > 5:
            result.texts.append(fields[:12])
        elif fields[0] == "OBR":
            # A withdrawal needs no text.
            if result and (result.texts or field(result.request, 25) in WITHDRAWN):
                yield result
            result = Result(where, separators, head.split(separators[0])[:12], patient, fields[:30], [])


def field(fields: list[str], number: int) -> str:
    """A field by its number, empty if the segment is too short."""
    return fields[number].strip() if number < len(fields) else ""


def unescaped(text: str, separators: str) -> str:
    r"""A text with its escape sequences resolved: `\.br\` is a line break, `\T\` an ampersand."""
    if separators[3] not in text:
        return text
    meanings = {"F": separators[0], "S": separators[1], "R": separators[2], "E": separators[3], "T": separators[4]}

    def meaning(match: re.Match) -> str:
        code = match[1]
        if code in meanings:
            return meanings[code]
        if code.startswith((".br", ".sp", ".ce")):
            return "\n"
        if code.startswith("X") and re.fullmatch(r"X(?:[0-9A-Fa-f]{2})+", code):
            data = bytes.fromhex(code[1:])
            return "\n" if data.strip(b"\r\n") == b"" else data.decode("utf-8", errors="ignore")
        # Highlighting, indents and character sets change no words; anything else is text with backslashes.
        return "" if re.fullmatch(r"[HN]|\.[a-z]{2}[ +-]?\d*|[CM][0-9A-Fa-f]+", code) else match[0]

    escape = (
        _ESCAPE if separators[3] == "\\" else re.compile(_ESCAPE.pattern.replace("\\\\", re.escape(separators[3])))
    )
    return escape.sub(meaning, text)
