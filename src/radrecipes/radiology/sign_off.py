"""Removes what surrounds a signed report: who dictated, transcribed and signed it, and the attestation."""

import re
from collections.abc import Callable, Iterator

# Where a signature begins: the first group anywhere, because it is never part of a finding, the others with a line or sentence.
_SIGNATURE = re.compile(
    r"\(?\b(?:th(?:is|e) (?:report|study|exam(?:ination)?|document) (?:was|is|has been) )?"
    r"(?:electronically|digitally|e)[ -]?(?:signed|authenticated|approved|verified|finali[sz]ed)\b"
    r"|\b(?:dictated|transcribed|authenticated|finali[sz]ed)(?: (?:and|&) \w+)?(?: by\b|[ \t]*:)"
    r"|\btranscriptionist[ \t]*[:#-]"
    r"|(?:(?<=\n)|\A|(?<=[.!?][ \t]))[ \t]*(?:"
    r"(?:signed|approved|verified|released|interpreted|read|reviewed|edited)(?: electronically)? by\b"
    r"|reported by(?=[ \t]*:|[ \t]+(?:dr|prof)\b|[ \t]+(?-i:[A-Z]))"
    r"|(?:signed|approved|verified|dictated|transcribed)(?: on\b|[ \t]*:)"
    r"|(?:attending|resident|staff|reading|reporting|interpreting|supervising)(?: (?:radiologist|physician|doctor))?[ \t]*:"
    r"|(?:radiologist|technologist|workstation(?: id)?|job (?:id|number|#))[ \t]*:"
    r"|d?[dt][ \t]*:[ \t]*(?=\d{1,4}[/.-]\d)"
    r"|(?:final )?report (?:electronically )?(?:signed|authenticated|verified)\b"
    r"|end of (?:diagnostic )?(?:report|impression)\b)",
    re.IGNORECASE,
)
_HEADER = (
    r"\b(?:FINDINGS?|IMPRESSIONS?|CONCLUSIONS?|ADDENDUM|COMPARISON|INDICATION|HISTORY|TECHNIQUE|EXAM(?:INATION)?)\b"
    r"[^\n.]{0,20}:"
)
_REGISTERED = r"(?:GMC|HCPC|NPI|IMC)"  # where a doctor's number is from
# A full stop, but not after an initial or a title, nor after `M.D.` if the date follows, or before the doctor's number.
_STOP = (
    r"[.!?](?<!\bDr\.)(?<!\bJr\.)(?<!\bSr\.)(?<!\bProf\.)(?<!\s[A-Z]\.)(?=[\s)\]]|\Z)"
    rf"(?!,|\s+(?:on|at|date|time|electronically|and|{_REGISTERED})\b|\s*[(\d])[)\]]?"
)
# Without a full stop, the time of day is the end.
_TIME = r"\b\d{1,2}:\d\d(?::\d\d)?(?:\s?[AaPp]\.?[Mm]\b\.?)?(?:\s[ECMP][SD]?T\b)?(?=\s+[A-Z][a-z])"
_SIGNATURE_END = re.compile(rf"{_STOP}|{_TIME}|(?=\n)|(?={_HEADER})|\Z")
# Lines after a signature that have only a name with a credential, a post, a doctor's number, or a date; only a name after a colon.
_NAME_LINE = re.compile(
    r"\s*\n[ \t]*(?:(?:[A-Z][\w.'-]*,?[ \t]+){1,5}(?:M\.?D\.?|D\.?O\.?|MBBS|FRCR|Ph\.?D\.?|PA-?C?|NP|RT|R\.T\.)[ \t.,]*"
    rf"|(?:[A-Z][a-z]+[ \t]+){{0,2}}Radiologist[ \t.,]*|{_REGISTERED}\b[^\n]{{0,30}}"
    r"|(?:Date|Time|on|at|[ \t/:.,-]|\d|[AaPp]\.?[Mm]\.?|[ECMP][SD]?T){6,40})[ \t]*(?=\n|\Z)"
)
_BARE_NAME_LINE = re.compile(r"\s*\n[ \t]*[A-Z][\w.'-]*,?(?:[ \t]+[A-Z][\w.'-]*,?){1,4}[ \t]*(?=\n|\Z)")
_LONGEST_SIGNATURE = 200

# A sentence with one of these phrases is an attestation if it also begins and continues like one.
_ATTESTED = re.compile(
    r"\b(?:(?:personally|independently)\s+(?:reviewed|interpreted|supervised|viewed|examined)"
    r"|reviewed\s+(?:the\s|these\s|all\s)?\s*(?:images?|films?|stud(?:y|ies)|radiographs?|examination)\s+and\s+(?:i\s+)?(?:agree|concur)"
    r"|(?:attest|certify)\s+that|(?:voice|speech)[ -]recognition|dictation\s+(?:software|system))\b",
    re.IGNORECASE,
)
_ATTESTS = re.compile(
    r"(?:(?:I|We|As|This|Portions|Parts|(?:The\s+)?(?:attending|staff|teaching|undersigned))\b)[^:;]*"
    r"(?:agree|concur|above|resident|interpretation|report|dictat|edit|approv|supervis|recognition"
    r"|(?:images?|films?|stud(?:y|ies)|radiographs?|examination)\W*\Z)",
    re.IGNORECASE,
)
_SENTENCE_START = re.compile(
    r"(?<!\bDr)[.!?)\]:_]\s{1,9}|\n\s{0,9}\n|\n[ \t]{0,9}(?=(?:I|We|As|The|This|Attending|Portions|Parts)\b)"
)
_SENTENCE_END = re.compile(rf"{_STOP}|(?=\n[ \t]*\n)|(?=\n[ \t]*[A-Z][A-Za-z ]{{2,30}}:)|(?={_HEADER})|\Z")
_LONGEST_ATTESTATION = 400
# A text without any of these has no sign-off; looking for them is fast.
_HINTS = (
    "signed", "dictat", "transcri", "authenticat", "finali", "approved", "verified", "released by", "interpreted by", "read by",
    "reported by", "reviewed", "edited", "attending", "resident", "staff", "radiologist", "reading", "physician",
    "technologist", "workstation", "job ", "d:", "t:", "d :", "t :", "end of", "personally", "independently", "attest",
    "certify", "recognition",
)  # fmt: skip


def without_sign_off(text: str) -> str:
    """The text without signatures, notes of dictation and transcription, and attestations; other lines stay as they are."""
    lowered = text.lower()
    if not any(hint in lowered for hint in _HINTS):
        return text
    return _without(_signatures, _without(_attestations, text))


def _without(find: Callable[[str], Iterator[tuple[int, int]]], text: str) -> str:
    pieces, position = [], 0
    for start, end in find(text):
        if start >= position:
            pieces.append(text[position:start])
            position = end
    return "".join((*pieces, text[position:]))


def _signatures(text: str) -> Iterator[tuple[int, int]]:
    """Start and end of every signature, with the lines of names and dates that follow it."""
    for match in _SIGNATURE.finditer(text):
        end = _end(_SIGNATURE_END, text, match, _LONGEST_SIGNATURE)
        if not end:
            continue
        if not text[match.end() : end].strip(" \t:").removeprefix("by").strip(" \t:"):
            end = _past(_BARE_NAME_LINE, text, end)
        while (after := _past(_NAME_LINE, text, end)) > end:
            end = after
        yield match.start(), end


def _attestations(text: str) -> Iterator[tuple[int, int]]:
    """Start and end of every sentence that attests."""
    for match in _ATTESTED.finditer(text):
        before = max(0, match.start() - _LONGEST_ATTESTATION)
        start = max((found.end() for found in _SENTENCE_START.finditer(text, before, match.start())), default=before)
        end = _end(_SENTENCE_END, text, match, _LONGEST_ATTESTATION)
        if end and (start > before or not before) and _ATTESTS.match(text[start:end].strip()):
            yield start, end


def _end(pattern: re.Pattern, text: str, match: re.Match, longest: int) -> int:
    """The end of what begins with a match, 0 if it is too far away."""
    stop = pattern.search(text, match.end(), match.start() + longest + 1)
    return stop.end() if stop and stop.end() - match.start() <= longest else 0


def _past(pattern: re.Pattern, text: str, position: int) -> int:
    match = pattern.match(text, position)
    return match.end() if match else position
